//! Real servers for tests: NATS and etcd on free ports of the loopback, in directories of their
//! own, alone or three together.
//!
//! Everything here blocks, for a second at most, and panics with what is to be done: a server that
//! is missing is a failure of the test. Servers end with their handle, and at the latest with the
//! process that started them, however that ends.

mod binaries;
mod certificates;
mod etcd;
mod nats;
mod ports;
mod process;
mod proxy;

pub use binaries::{EtcdVersion, NatsVersion, servers_dir};
pub use certificates::{Authority, CertificateFiles};
pub use etcd::{EtcdCluster, EtcdOptions, EtcdServer};
pub use nats::{NatsCluster, NatsLayout, NatsOptions, NatsServer, NatsSetup, SyncInterval};
pub use ports::free_port;
pub use process::{ServerProcess, spawn, wait_until};
pub use proxy::Proxy;
