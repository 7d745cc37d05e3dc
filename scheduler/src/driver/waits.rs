//! Who waits for which answer of the core.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use wasmill_protocol::LogSeq;
use wasmill_protocol::command::{Done, Refusal};
use wasmill_scheduler_core::io::ReplyTo;

use crate::handle::Answer;

/// Waiting clients, by the first of the numbers that were handed out for them.
#[derive(Default)]
pub(super) struct Waits {
    next: u64,
    by_first: BTreeMap<u64, Wait>,
}

enum Wait {
    One(oneshot::Sender<Answer>),
    Batch { answers: Vec<Answer>, missing: usize, sender: oneshot::Sender<Vec<Answer>> },
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
        let first = self.next;
        self.next += count as u64;
        if count == 0 {
            let _ = sender.send(Vec::new());
            return first;
        }
        let answers = vec![MISSING; count];
        self.by_first.insert(first, Wait::Batch { answers, missing: count, sender });
        first
    }

    /// Nothing of what is still without an answer was done: answers that.
    pub(super) fn refuse_all(&mut self, refusal: &Refusal) {
        for wait in std::mem::take(&mut self.by_first).into_values() {
            match wait {
                Wait::One(sender) => drop(sender.send(Err(refusal.clone()))),
                Wait::Batch { mut answers, sender, .. } => {
                    let missing = answers.iter_mut().filter(|answer| **answer == MISSING);
                    missing.for_each(|answer| *answer = Err(refusal.clone()));
                    drop(sender.send(answers));
                }
            }
        }
    }

    /// Answers. An unknown number means that nobody waits any more.
    pub(super) fn answer(&mut self, reply_to: ReplyTo, seq: LogSeq, result: Result<Done, Refusal>) {
        let answer = result.map(|done| (seq, done));
        let Some((&first, wait)) = self.by_first.range_mut(..=reply_to.0).next_back() else { return };
        if let Wait::Batch { answers, missing, .. } = wait {
            let Some(slot) = usize::try_from(reply_to.0 - first).ok().and_then(|index| answers.get_mut(index)) else {
                return;
            };
            *slot = answer;
            *missing -= 1;
            if *missing > 0 {
                return;
            }
            if let Some(Wait::Batch { answers, sender, .. }) = self.by_first.remove(&first) {
                let _ = sender.send(answers);
            }
        } else if first == reply_to.0
            && let Some(Wait::One(sender)) = self.by_first.remove(&first)
        {
            let _ = sender.send(answer);
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
