//! Which modules are ready to run, and when the leader is told.

use wasmill_protocol::Digest;
use wasmill_protocol::message::MODULES_WARM_MAX;

/// After so many heartbeats without a word they are told again: one that told of a change may have
/// been lost.
const QUIET_BEATS_MAX: u32 = 10;

/// Modules that are ready to run.
#[derive(Debug, Default)]
pub(crate) struct Warm {
    /// In order.
    modules: Vec<Digest>,
    is_told: bool,
    quiet_beats: u32,
}

impl Warm {
    /// The sandbox says which they are.
    pub(crate) fn note(&mut self, mut modules: Vec<Digest>) {
        modules.sort_unstable();
        modules.dedup();
        modules.truncate(MODULES_WARM_MAX);
        self.is_told &= self.modules == modules;
        self.modules = modules;
    }

    /// Somebody does not know them.
    pub(crate) fn tell_again(&mut self) {
        self.is_told = false;
    }

    /// The modules that the next heartbeat names.
    pub(crate) fn tell(&mut self) -> Option<Vec<Digest>> {
        if std::mem::replace(&mut self.is_told, true) && self.quiet_beats < QUIET_BEATS_MAX {
            self.quiet_beats += 1;
            return None;
        }
        self.quiet_beats = 0;
        Some(self.modules.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_and_everything_now_and_then() {
        let mut warm = Warm::default();
        let module = |number: u8| Digest([number; 32]);
        assert_eq!(warm.tell(), Some(vec![]), "that there are none is told, too");
        warm.note(vec![module(2), module(1), module(2)]);
        assert_eq!(warm.tell(), Some(vec![module(1), module(2)]));
        warm.note(vec![module(1), module(2)]);
        assert!((0..QUIET_BEATS_MAX).all(|_| warm.tell().is_none()));
        assert!(warm.tell().is_some(), "what was told may have been lost");
        warm.tell_again();
        assert!(warm.tell().is_some());
        warm.note((0..=255).map(module).collect());
        assert_eq!(warm.tell().map(|modules| modules.len()), Some(MODULES_WARM_MAX));
    }
}
