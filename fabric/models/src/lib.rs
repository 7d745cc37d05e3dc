//! The servers below the cluster, as deterministic models: the parts of JetStream and of etcd that
//! Wasmill uses, ugly ones included.
//!
//! A model is a plain value. Time is handed in, answers are returned, and whatever goes wrong is
//! chosen by the caller: a model never draws a number. Losses, delays and doubles on the way to a
//! server and back are the caller's too; a model says only what the server knows and answers. Where
//! each piece of behaviour was read is said beside it, and gathered in
//! `docs/decisions/simulated-cluster.md`.

pub mod etcd;
pub mod jetstream;

pub use etcd::Etcd;
pub use jetstream::JetStream;
