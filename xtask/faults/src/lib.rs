//! Real processes under faults: a cluster that is killed, paused and cut off under load, and a
//! server whose power goes.

pub mod fire;
pub mod power;
