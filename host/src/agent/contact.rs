//! Whether anybody is there who could give this host work: a host that nobody hears looks well from
//! inside.
//!
//! The leader greets each life of a host that it sees, and says nothing to a host without work
//! afterwards. So control nodes are asked from time to time whether they are there.

use std::time::{Duration, Instant};

use wasmill_fabric::Reminder;

/// The leader greets a host that has registered within this time.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// Without a word of a leader control nodes are asked this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The last news of control nodes, with their times.
#[derive(Debug)]
pub(super) struct Contact {
    registered: Instant,
    /// A leader, in a message.
    heard: Option<Instant>,
    /// Any control node, at last.
    answered: Option<Instant>,
    look_at: Instant,
    reminder: Reminder,
}

impl Contact {
    /// The host has just been registered.
    pub(super) fn new(now: Instant) -> Self {
        let look_at = now + GREETING_PATIENCE;
        Self { registered: now, heard: None, answered: None, look_at, reminder: Reminder::default() }
    }

    /// When to ask.
    pub(super) fn look_at(&self) -> Instant {
        self.look_at
    }

    /// A message of a leader has come.
    pub(super) fn heard(&mut self, now: Instant) {
        (self.heard, self.answered) = (Some(now), Some(now));
        self.look_at = now + LOOK_EVERY;
        self.over();
    }

    /// It is asked.
    pub(super) fn looks(&mut self, now: Instant) {
        self.look_at = now + LOOK_EVERY;
    }

    /// Takes in the answer of a control node, or that none has come.
    pub(super) fn answered(&mut self, now: Instant, answer: Result<(), String>) {
        if answer.is_ok() {
            self.answered = Some(now);
        }
        match self.problem(now, answer.err()) {
            Some(problem) if self.reminder.is_due(now, problem) => {
                let (registered, heard) = (now - self.registered, self.answered.map(|at| (now - at).as_secs()));
                tracing::warn!(registered_s = registered.as_secs(), heard_s_ago = heard, "{problem}");
            }
            Some(_) => {}
            None => self.over(),
        }
    }

    fn problem(&self, now: Instant, silence: Option<String>) -> Option<&'static str> {
        match (silence, self.heard) {
            (Some(_), _) => Some(
                "no control node answers this host, which gets no work: check that they run, and that `--cluster` and `--nats` are theirs",
            ),
            (None, None) if now >= self.registered + GREETING_PATIENCE => Some(
                "control nodes answer this host, and none of them has greeted it: nobody leads, or `--etcd` is not theirs",
            ),
            (None, _) => None,
        }
    }

    fn over(&mut self) {
        if self.reminder.is_over() {
            tracing::info!("control nodes answer this host again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(contact: &Contact, now: Instant, answer: Result<(), &str>) -> Option<&'static str> {
        let words = contact.problem(now, answer.err().map(str::to_owned))?;
        words.split([',', ' ']).next()
    }

    #[test]
    fn a_host_that_nobody_hears_notices_it() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut contact = Contact::new(began);
        assert_eq!(contact.look_at(), at(10));
        assert_eq!(problem(&contact, at(10), Err("nobody subscribes")), Some("no"));
        assert_eq!(problem(&contact, at(10), Ok(())), Some("control"), "nobody leads");
        assert_eq!(problem(&contact, at(9), Ok(())), None);
        contact.heard(at(40));
        assert_eq!(contact.look_at(), at(70));
        assert_eq!(problem(&contact, at(70), Ok(())), None, "there is nothing to do");
        assert_eq!(problem(&contact, at(70), Err("nobody subscribes")), Some("no"));
        contact.looks(at(70));
        assert_eq!(contact.look_at(), at(100));
    }

    #[test]
    fn it_is_said_again_every_minute_until_somebody_answers() {
        let began = Instant::now();
        let mut contact = Contact::new(began);
        contact.answered(began + Duration::from_secs(10), Err("nobody".to_owned()));
        assert!(
            !contact
                .reminder
                .is_due(began + Duration::from_secs(69), contact.problem(began, Some(String::new())).unwrap())
        );
        contact.heard(began + Duration::from_secs(70));
        assert!(!contact.reminder.is_over(), "it is over");
    }
}
