//! Real NATS and etcd servers, started for one test and gone with it.
//!
//! Every server has a directory and free ports on loopback of its own, and can be killed, paused and started again on the same
//! data. The programs are those that `cargo xtask setup` installs; one that is missing is a failure that says so.

mod etcd;
mod http;
mod nats;
mod port;
mod process;
mod release;

pub use etcd::{Etcd, EtcdOptions};
pub use nats::{Nats, NatsOptions};
pub use process::Process;
pub use release::Release;
