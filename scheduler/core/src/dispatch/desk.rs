//! The question to one policy that is under way.

use std::sync::Arc;

use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::{Term, Timestamp};

use super::stalls::PAUSE_MS;
use crate::policy::ask::{Ask, AskId, Outside, PolicyAnswer, PolicyQuestion};

/// Asks one policy that lives outside the core: one question at a time.
#[derive(Debug)]
pub(super) struct Desk<S> {
    policy: Arc<Outside>,
    hook: PolicyHook,
    sitting: u64,
    number: u64,
    open: Option<OpenAsk<S>>,
}

/// A question that was asked.
#[derive(Debug)]
struct OpenAsk<S> {
    id: AskId,
    at: Timestamp,
    due: Timestamp,
    /// Its subject; `None` once it has timed out.
    subject: Option<S>,
    /// Since when the policy is silent.
    late_since: Timestamp,
    state: AskState,
}

#[derive(Debug)]
enum AskState {
    KeysWanted,
    Answered(PolicyAnswer),
    /// It was answered too late, and that it has timed out is not noted yet.
    AnsweredLate,
}

/// The result of a question.
#[derive(Debug)]
pub(super) enum AskResult<S> {
    /// It was answered in time.
    Answered(S, PolicyAnswer),
    /// It was not.
    TimedOut(S),
}

impl<S> Desk<S> {
    pub(super) fn new(policy: Arc<Outside>, hook: PolicyHook, sitting: u64) -> Self {
        Self { policy, hook, sitting, number: 0, open: None }
    }

    pub(super) fn policy(&self) -> &Outside {
        &self.policy
    }

    pub(super) fn into_policy(self) -> Arc<Outside> {
        self.policy
    }

    /// Whether something can be asked: no question is under way, be it that its time is over.
    pub(super) fn is_free(&self) -> bool {
        self.open.is_none()
    }

    /// Whether the answer to a question is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.subject.is_some())
    }

    /// The policy does not know any more what it was told before.
    pub(super) fn begin_anew(&mut self, sitting: u64) {
        (self.sitting, self.number) = (sitting, 0);
    }

    /// Asks.
    pub(super) fn ask(
        &mut self,
        term: Term,
        at: Timestamp,
        due: Timestamp,
        subject: S,
        question: PolicyQuestion,
    ) -> Ask {
        assert!(self.is_free(), "one question is asked at a time");
        self.number += 1;
        let id = AskId { term, hook: self.hook, sitting: self.sitting, number: self.number };
        self.open = Some(OpenAsk { id, at, due, subject: Some(subject), late_since: due, state: AskState::KeysWanted });
        Ask { id, policy: Arc::clone(&self.policy), at, due, question }
    }

    /// An answer has come. Returns whether it counts: it is for the question under way, the first,
    /// and in time.
    pub(super) fn take(&mut self, now: Timestamp, id: AskId, answer: PolicyAnswer) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| open.id == id) else { return false };
        if open.subject.is_none() {
            // Its time was over long ago; something else can be asked now.
            self.open = None;
            return false;
        }
        if !matches!(open.state, AskState::KeysWanted) {
            return false;
        }
        let is_late = now > open.due;
        open.state = if is_late { AskState::AnsweredLate } else { AskState::Answered(answer) };
        !is_late
    }

    /// The result of the question under way, once.
    pub(super) fn outcome(&mut self, now: Timestamp) -> Option<AskResult<S>> {
        let mut open = self.open.take()?;
        let subject = match (open.subject.take(), open.state) {
            (Some(subject), AskState::Answered(answer)) => return Some(AskResult::Answered(subject, answer)),
            (Some(subject), AskState::AnsweredLate) => return Some(AskResult::TimedOut(subject)),
            (subject, state) => {
                open.state = state;
                subject
            }
        };
        let is_over = now >= open.due;
        let (waiting, timed_out) = if is_over { (None, subject) } else { (subject, None) };
        let late_since = if timed_out.is_some() { now } else { open.late_since };
        self.open = Some(OpenAsk { subject: waiting, late_since, ..open });
        timed_out.map(AskResult::TimedOut)
    }

    /// Whether the policy has been silent for `ms` milliseconds after the time of a question was
    /// over. Time in which nothing could be noticed does not count: the machine was suspended, and
    /// the policy with it.
    pub(super) fn is_silent(&mut self, now: Timestamp, ms: u64) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| open.subject.is_none()) else { return false };
        let is_over = now >= open.late_since.plus_ms(ms);
        if is_over && now > open.late_since.plus_ms(ms + PAUSE_MS) {
            open.late_since = now;
            return false;
        }
        is_over
    }

    /// When something is to be done about the question under way.
    pub(super) fn next_due(&self, stall_ms: u64) -> Option<Timestamp> {
        let open = self.open.as_ref()?;
        match (&open.subject, &open.state) {
            (Some(_), AskState::KeysWanted) => Some(open.due),
            (Some(_), _) => Some(open.at),
            (None, _) => Some(open.late_since.plus_ms(stall_ms)),
        }
    }
}
