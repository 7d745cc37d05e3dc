//! The implementation on NATS and etcd: every suite against the oldest servers that work and
//! against recent ones, and what it promises beyond them.

mod append;
mod credentials;
mod fence;
mod leases;
mod rivals;
mod security;
pub(crate) mod servers;
mod start;
mod wires;

use crate::conformance::{Fixture, conformance};

use self::servers::{Pair, fresh};

mod old {
    use super::*;

    async fn fixture() -> Fixture {
        fresh(Pair::old()).await
    }

    conformance!(crate::cluster::old::fixture);
}

mod new {
    use super::*;

    async fn fixture() -> Fixture {
        fresh(Pair::new()).await
    }

    conformance!(crate::cluster::new::fixture);
}
