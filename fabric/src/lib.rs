//! The ground of scheduler and hosts: four small traits.
//!
//! [`embedded`] implements them inside one process, [`cluster`] on NATS and etcd. Nothing outside
//! this crate names what an implementation stands on. The traits are used as trait objects: every
//! call is one batch, so a boxed future costs nothing that matters.

pub mod blobs;
pub mod bus;
pub mod cluster;
pub mod embedded;
pub mod log;
pub mod membership;
pub mod remote_blobs;
pub mod uptime;

mod fabric;
mod hosts;
mod reminder;

pub use blobs::{BlobError, BlobReader, BlobStat, BlobWriter, Blobs, UNNEEDED_AGAIN_AGE_MIN, UNNEEDED_ONCE_AGE_MIN};
pub use bus::{Bus, BusError, Content, Message, Responder, Subscription};
pub use fabric::{Fabric, HostFabric};
pub use log::{AppendError, Log, LogError, LogTail, LogWriter};
pub use membership::{HostEvent, HostRegistration, Leadership, Lease, Membership, MembershipError, ReplacedBy};
pub use reminder::{REMIND_AFTER, Reminder};
