//! A policy that never answers.

use wasmill_protocol::Timestamp;
use wasmill_scheduler_core::policy::{Choice, HostRoom, Key, Policy, PolicyFault, ShapeView, Wanted};

/// Traps every time, under the name that it is given.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

impl Broken {
    fn fault() -> PolicyFault {
        PolicyFault { reason: "unreachable executed".to_owned() }
    }
}

impl Policy for Broken {
    fn name(&self) -> &str {
        &self.0
    }

    fn order(&mut self, _: &[ShapeView], _: Timestamp) -> Result<Vec<Key>, PolicyFault> {
        Err(Self::fault())
    }

    fn place(&mut self, _: &[Wanted<'_>], _: &[HostRoom]) -> Result<Vec<Choice>, PolicyFault> {
        Err(Self::fault())
    }
}
