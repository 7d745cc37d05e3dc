//! What a leader has heard from other nodes: the bus may bring it twice.

use std::collections::{HashSet, VecDeque};

/// Requests that are remembered. Each leadership has a subject of its own, so no copy comes from before it, and none comes this much later.
const HEARD_MAX: usize = 65_536;

/// Names of requests.
#[derive(Debug, Default)]
pub(in crate::driver) struct Heard {
    names: HashSet<(u64, u64)>,
    by_age: VecDeque<(u64, u64)>,
}

impl Heard {
    /// Whether this is the first time that a request is heard, which it is from now on.
    pub(super) fn is_new(&mut self, asker: u64, number: u64) -> bool {
        if !self.names.insert((asker, number)) {
            return false;
        }
        self.by_age.push_back((asker, number));
        if self.by_age.len() > HEARD_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.names.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_new_once_and_the_oldest_are_forgotten() {
        let mut heard = Heard::default();
        assert!(heard.is_new(1, 7) && heard.is_new(2, 7));
        assert!(!heard.is_new(1, 7) && !heard.is_new(2, 7));
        for number in 0..HEARD_MAX as u64 {
            heard.is_new(3, number);
        }
        assert_eq!(heard.names.len(), HEARD_MAX);
        assert!(heard.is_new(1, 7) && !heard.is_new(3, HEARD_MAX as u64 - 1));
    }
}
