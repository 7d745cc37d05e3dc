//! Who waits for which answer of the core.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use wasmill_protocol::LogSeq;
use wasmill_protocol::command::{Done, Refusal};
use wasmill_scheduler_core::io::ReplyTo;
use wasmill_scheduler_node::heard::CallName;

use crate::handle::Answer;

/// Waiting clients, by the first of the numbers that were handed out for them.
#[derive(Default)]
pub(super) struct Waits {
    next: u64,
    by_first: BTreeMap<u64, Wait>,
}

enum Wait {
    One(oneshot::Sender<Answer>),
    Batch { answers: Vec<Answer>, missing: usize, to: BatchTo },
}

/// Who waits for a batch.
enum BatchTo {
    Client(oneshot::Sender<Vec<Answer>>),
    /// Another control node.
    Call(CallName),
}

/// The answers to a call of another control node.
#[derive(Debug, PartialEq)]
pub(super) struct CallAnswers {
    pub(super) name: CallName,
    pub(super) answers: Vec<Answer>,
}

/// What stands in the place of an answer that has not come.
const MISSING: Answer = Err(Refusal::NotLeader);

impl Waits {
    /// A number for something whose answer somebody else keeps track of.
    pub(super) fn number(&mut self) -> ReplyTo {
        let number = self.next;
        self.next += 1;
        ReplyTo(number)
    }

    /// A number for one command.
    pub(super) fn one(&mut self, sender: oneshot::Sender<Answer>) -> ReplyTo {
        let reply_to = self.number();
        self.by_first.insert(reply_to.0, Wait::One(sender));
        reply_to
    }

    /// The first of `count` numbers for a batch, which is answered as a whole.
    pub(super) fn batch(&mut self, count: usize, sender: oneshot::Sender<Vec<Answer>>) -> u64 {
        self.batch_to(count, BatchTo::Client(sender)).0
    }

    /// The first of `count` numbers for a call of another node; and the answers, when there is
    /// nothing to answer.
    pub(super) fn call(&mut self, count: usize, name: CallName) -> (u64, Option<CallAnswers>) {
        self.batch_to(count, BatchTo::Call(name))
    }

    fn batch_to(&mut self, count: usize, to: BatchTo) -> (u64, Option<CallAnswers>) {
        let first = self.next;
        self.next += count as u64;
        if count == 0 {
            return (first, to.send(Vec::new()));
        }
        let answers = vec![MISSING; count];
        self.by_first.insert(first, Wait::Batch { answers, missing: count, to });
        (first, None)
    }

    /// Nothing of what is still without an answer was done: answers that. Those of other nodes are
    /// handed back.
    pub(super) fn refuse_all(&mut self, refusal: &Refusal) -> Vec<CallAnswers> {
        let refused = std::mem::take(&mut self.by_first).into_values().filter_map(|wait| match wait {
            Wait::One(sender) => {
                let _ = sender.send(Err(refusal.clone()));
                None
            }
            Wait::Batch { mut answers, to, .. } => {
                let missing = answers.iter_mut().filter(|answer| **answer == MISSING);
                missing.for_each(|answer| *answer = Err(refusal.clone()));
                to.send(answers)
            }
        });
        refused.collect()
    }

    /// Answers. An unknown number means that nobody waits any more. The answers of a call of
    /// another node are handed back once all are there.
    pub(super) fn answer(
        &mut self,
        reply_to: ReplyTo,
        seq: LogSeq,
        result: Result<Done, Refusal>,
    ) -> Option<CallAnswers> {
        let answer = result.map(|done| (seq, done));
        let (&first, wait) = self.by_first.range_mut(..=reply_to.0).next_back()?;
        if let Wait::Batch { answers, missing, .. } = wait {
            *answers.get_mut(usize::try_from(reply_to.0 - first).ok()?)? = answer;
            *missing -= 1;
            if *missing == 0
                && let Some(Wait::Batch { answers, to, .. }) = self.by_first.remove(&first)
            {
                return to.send(answers);
            }
        } else if first == reply_to.0
            && let Some(Wait::One(sender)) = self.by_first.remove(&first)
        {
            let _ = sender.send(answer);
        }
        None
    }
}

impl BatchTo {
    /// Answers a client, and hands the answers of another node back.
    fn send(self, answers: Vec<Answer>) -> Option<CallAnswers> {
        match self {
            Self::Client(sender) => {
                let _ = sender.send(answers);
                None
            }
            Self::Call(name) => Some(CallAnswers { name, answers }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_answered_as_a_whole_and_in_order() {
        let mut waits = Waits::default();
        let (one, mut one_answered) = oneshot::channel();
        let one = waits.one(one);
        let (batch, mut batch_answered) = oneshot::channel();
        let first = waits.batch(2, batch);

        waits.answer(ReplyTo(first + 1), LogSeq(7), Err(Refusal::ModuleUnknown));
        assert!(batch_answered.try_recv().is_err());
        waits.answer(one, LogSeq(8), Ok(Done::Created));
        assert_eq!(one_answered.try_recv(), Ok(Ok((LogSeq(8), Done::Created))));
        waits.answer(ReplyTo(first), LogSeq(9), Ok(Done::Removed));
        let answers = batch_answered.try_recv().unwrap();
        assert_eq!(answers, [Ok((LogSeq(9), Done::Removed)), Err(Refusal::ModuleUnknown)]);

        // Numbers that nobody waits for are ignored.
        waits.answer(ReplyTo(first), LogSeq(9), Ok(Done::Removed));
        waits.answer(ReplyTo(1_000), LogSeq(9), Ok(Done::Removed));
    }

    #[test]
    fn the_answers_of_another_node_are_handed_back_as_a_whole() {
        let (mut waits, name) = (Waits::default(), CallName { asker: 1, number: 2 });
        let (first, none) = waits.call(2, name);
        assert_eq!(none, None);
        assert_eq!(waits.answer(ReplyTo(first), LogSeq(3), Ok(Done::Created)), None);
        let answers = vec![Ok((LogSeq(3), Done::Created)), Err(Refusal::TaskUnknown)];
        let answered = waits.answer(ReplyTo(first + 1), LogSeq(3), Err(Refusal::TaskUnknown));
        assert_eq!(answered, Some(CallAnswers { name, answers }));
        assert_eq!(waits.call(0, name).1, Some(CallAnswers { name, answers: Vec::new() }));
        waits.call(1, name);
        let answers = vec![Err(Refusal::NoSpace)];
        assert_eq!(waits.refuse_all(&Refusal::NoSpace), [CallAnswers { name, answers }]);
    }

    #[test]
    fn f26_whoever_waits_is_told_that_nothing_was_done() {
        let mut waits = Waits::default();
        let (one, mut one_answered) = oneshot::channel();
        waits.one(one);
        let (batch, mut batch_answered) = oneshot::channel();
        let first = waits.batch(2, batch);
        // One answer of a batch is there already: its record was durable.
        waits.answer(ReplyTo(first), LogSeq(7), Ok(Done::Created));
        waits.refuse_all(&Refusal::NoSpace);
        assert_eq!(one_answered.try_recv(), Ok(Err(Refusal::NoSpace)));
        let expected = vec![Ok((LogSeq(7), Done::Created)), Err(Refusal::NoSpace)];
        assert_eq!(batch_answered.try_recv(), Ok(expected));
    }
}
