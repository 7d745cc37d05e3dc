//! How far an attempt is that was placed on a host, as its leader knows it.

use wasmill_protocol::Timestamp;
use wasmill_protocol::message::{Heartbeat, StopCause};

use crate::config::CoreConfig;
use crate::dispatch::Charge;
use crate::state::tenants::TenantNumber;

/// Heartbeats in a row that must miss an attempt before it is taken to be gone.
const MISSING_MIN: u32 = 2;

/// An attempt on its way to a host, on it, or on its way back.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    stage: FlightStage,
    /// When it was placed.
    pub(super) placed_at: Timestamp,
    /// When it was sent last.
    sent_at: Timestamp,
    /// When a heartbeat listed it last; when it was placed, before the first.
    heard_at: Timestamp,
    /// The number of the heartbeat that listed it last.
    listed_in: Option<u64>,
    /// Heartbeats in a row that do not list it.
    missing: u32,
    pub(super) tenant: TenantNumber,
    /// The weight that its tenant had.
    pub(super) weight: u32,
    pub(super) memory_bytes: u64,
    /// The charge of its tenant for it, by this leader.
    pub(super) charge: Charge,
}

/// Where it stands. It goes down this list and never back; its end takes the flight away, from any
/// of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlightStage {
    /// No heartbeat has listed it.
    Sent,
    /// Some heartbeat has listed it.
    Confirmed,
    /// The host is told to stop it.
    Stopping {
        cause: StopCause,
        /// When it was told last.
        told_at: Timestamp,
        /// Some heartbeat has listed it, before or since.
        confirmed: bool,
    },
}

/// The action that follows from a compared heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlightCheck {
    /// All is as it should be.
    Nothing,
    /// It is sent again.
    Resend,
    /// The host is told again to stop it.
    TellAgain(StopCause),
    /// It was to be stopped, and the host does not have it.
    Stopped,
    /// The host does not have it, and has been sent it for too long.
    TimedOut,
}

impl Flight {
    pub(crate) fn new(now: Timestamp, tenant: TenantNumber, weight: u32, memory_bytes: u64, charge: Charge) -> Self {
        Self {
            stage: FlightStage::Sent,
            placed_at: now,
            sent_at: now,
            heard_at: now,
            listed_in: None,
            missing: 0,
            tenant,
            weight,
            memory_bytes,
            charge,
        }
    }

    /// Whether the host has shown to hold it.
    pub(super) fn is_confirmed(&self) -> bool {
        match self.stage {
            FlightStage::Sent => false,
            FlightStage::Confirmed => true,
            FlightStage::Stopping { confirmed, .. } => confirmed,
        }
    }

    /// Whether the host may not have had it when it said this.
    pub(super) fn is_unseen(&self, heartbeat: &Heartbeat, now: Timestamp) -> bool {
        !self.is_confirmed() || (self.heard_at < now && !heartbeat.partial)
    }

    /// The heartbeat with this number lists it. [`Flight::compare`] follows when all of it is read.
    pub(super) fn listed(&mut self, number: u64, now: Timestamp) {
        (self.heard_at, self.listed_in) = (now, Some(number));
        match &mut self.stage {
            FlightStage::Sent => self.stage = FlightStage::Confirmed,
            FlightStage::Confirmed => {}
            FlightStage::Stopping { confirmed, .. } => *confirmed = true,
        }
    }

    /// The host is told to stop it.
    ///
    /// # Panics
    ///
    /// When it was told before: a task is asked to stop once.
    pub(super) fn stop(&mut self, cause: StopCause, now: Timestamp) {
        let confirmed = self.is_confirmed();
        assert!(!matches!(self.stage, FlightStage::Stopping { .. }), "an attempt is asked to stop once");
        self.stage = FlightStage::Stopping { cause, told_at: now, confirmed };
    }

    /// The action that follows from a heartbeat; it is noted as done already. A heartbeat that
    /// lists only some of the host's attempts says nothing of the others.
    pub(super) fn compare(&mut self, heartbeat: &Heartbeat, now: Timestamp, config: &CoreConfig) -> FlightCheck {
        let is_listed = self.listed_in == Some(heartbeat.number);
        self.missing = if is_listed { 0 } else { self.missing + u32::from(!heartbeat.partial) };
        let past = |at: Timestamp, ms: u64| now >= at.plus_ms(ms);
        let gone = self.missing >= MISSING_MIN && past(self.sent_at, config.missing_ms);
        match &mut self.stage {
            FlightStage::Stopping { .. } if gone => FlightCheck::Stopped,
            FlightStage::Stopping { cause, told_at, .. } if past(*told_at, config.resend_ms) => {
                *told_at = now;
                FlightCheck::TellAgain(*cause)
            }
            FlightStage::Stopping { .. } => FlightCheck::Nothing,
            _ if self.missing > 0 && past(self.heard_at, config.assign_timeout_ms) => FlightCheck::TimedOut,
            FlightStage::Sent if self.missing > 0 && past(self.sent_at, config.resend_ms) => self.resent(now),
            FlightStage::Sent | FlightStage::Confirmed if gone => self.resent(now),
            FlightStage::Sent | FlightStage::Confirmed => FlightCheck::Nothing,
        }
    }

    fn resent(&mut self, now: Timestamp) -> FlightCheck {
        (self.sent_at, self.missing) = (now, 0);
        FlightCheck::Resend
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000_000);
    const AGAIN: FlightCheck = FlightCheck::TellAgain(StopCause::Cancelled);

    /// The action after a heartbeat in each second, from the first on: `x` lists the attempt, `.`
    /// does not, and neither does `s`, before which the host is told to stop it.
    fn dues(beats: &str) -> Vec<(usize, FlightCheck)> {
        let mut flight = Flight::new(START, 1, 1, 0, Charge::default());
        let due = |(second, beat): (usize, char)| {
            let now = START.plus_ms(second as u64 * 1_000);
            if beat == 's' {
                flight.stop(StopCause::Cancelled, now);
            }
            let heartbeat = Heartbeat { number: second as u64, ..Heartbeat::default() };
            if beat == 'x' {
                flight.listed(heartbeat.number, now);
            }
            (second, flight.compare(&heartbeat, now, &CoreConfig::default()))
        };
        (1..).zip(beats.chars()).map(due).filter(|(_, due)| *due != FlightCheck::Nothing).collect()
    }

    #[test]
    fn what_is_not_confirmed_is_sent_again_at_once_and_what_was_is_missed_first() {
        assert_eq!(dues("xxxx"), []);
        assert_eq!(dues("..xx"), [(1, FlightCheck::Resend), (2, FlightCheck::Resend)]);
        assert_eq!(dues("x...x"), [(3, FlightCheck::Resend)]);
    }

    #[test]
    fn what_is_never_confirmed_times_out() {
        let dues = dues(&".".repeat(30));
        assert_eq!(dues.last(), Some(&(30, FlightCheck::TimedOut)));
        assert_eq!(dues.iter().filter(|(_, due)| *due == FlightCheck::Resend).count(), 29);
    }

    #[test]
    fn what_is_to_stop_is_told_again_and_never_sent_again() {
        assert_eq!(dues("xsxx"), [(3, AGAIN), (4, AGAIN)]);
        assert_eq!(dues("xs.."), [(3, FlightCheck::Stopped), (4, FlightCheck::Stopped)]);
        assert_eq!(dues("s..")[..2], [(2, AGAIN), (3, FlightCheck::Stopped)]);
    }
}
