//! The next tick of a machine: one for each is listened to, however often another time is asked
//! for.

use wasmill_protocol::Timestamp;

/// The time for which a tick is on the agenda. One that was put there before for a later time stays
/// there, and nobody listens to it.
#[derive(Debug, Default, Clone, Copy)]
pub struct NextTick(Option<Timestamp>);

impl NextTick {
    /// A tick is wanted at a time. Whether one has to be put on the agenda for that.
    pub fn wants(&mut self, now: Timestamp, next: Timestamp) -> bool {
        let is_late = self.0.is_none_or(|armed| armed > next || armed < now);
        if is_late {
            self.0 = Some(next);
        }
        is_late
    }

    /// A tick has come. Whether it is the one that is waited for.
    pub fn comes(&mut self, now: Timestamp) -> bool {
        self.0.take_if(|at| *at <= now).is_some()
    }
}
