//! A policy that never answers.

use wasmill_protocol::Timestamp;
use wasmill_scheduler_core::policy::{
    Choice, HostChange, Keys, Order, Place, PolicyFault, ShapeView, TenantView, Wanted,
};

/// Traps every time, under the name that it is given.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

impl Broken {
    fn fault() -> PolicyFault {
        PolicyFault { reason: "unreachable executed".to_owned() }
    }
}

impl Order for Broken {
    fn name(&self) -> &str {
        &self.0
    }

    fn keys(&mut self, _: Timestamp, _: &[TenantView], _: &[ShapeView]) -> Result<Keys, PolicyFault> {
        Err(Self::fault())
    }
}

impl Place for Broken {
    fn name(&self) -> &str {
        &self.0
    }

    fn changed(&mut self, _: &[HostChange]) {}

    fn place(&mut self, _: Timestamp, _: &[Wanted]) -> Result<Vec<Choice>, PolicyFault> {
        Err(Self::fault())
    }
}
