//! When a problem that lasts is said again: at once when it changes, and now and then while it does
//! not.

use std::time::{Duration, Instant};

/// A problem that lasts is said again after this time.
pub const REMIND_AFTER: Duration = Duration::from_mins(1);

/// Says of one thing after the other whether it is worth a line in the log.
#[derive(Debug, Default)]
pub struct Reminder {
    said: Option<(Instant, String)>,
}

impl Reminder {
    /// Whether `problem` is to be said at `now`; then it counts as said.
    pub fn is_due(&mut self, now: Instant, problem: &str) -> bool {
        let is_due = self.said.as_ref().is_none_or(|(at, said)| said != problem || now >= *at + REMIND_AFTER);
        if is_due {
            self.said = Some((now, problem.to_owned()));
        }
        is_due
    }

    /// There is no problem any more. Whether one had been said.
    pub fn is_over(&mut self) -> bool {
        self.said.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_every_minute_and_what_changes_at_once() {
        let began = Instant::now();
        let mut reminder = Reminder::default();
        let mut said = Vec::new();
        for second in 0..200 {
            let problem = if (70..72).contains(&second) { "refused" } else { "no answer" };
            if reminder.is_due(began + Duration::from_secs(second), problem) {
                said.push((second, problem));
            }
        }
        assert_eq!(
            said,
            [
                (0, "no answer"),
                (60, "no answer"),
                (70, "refused"),
                (72, "no answer"),
                (132, "no answer"),
                (192, "no answer")
            ]
        );
        assert!(reminder.is_over() && !reminder.is_over());
    }
}
