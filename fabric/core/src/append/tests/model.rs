//! A log that others write to as well, that loses answers and delays calls, against a writer that never learns more than it must.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::retry::Jitter;

/// Sequence numbers are places in the list, from 1; `None` is a record of somebody else.
#[derive(Default)]
struct Model {
    records: Vec<Option<MessageId>>,
    /// Several servers keep it: a record that names another predecessor is not refused, but ends the log for everybody.
    replicated: bool,
}

impl Model {
    fn publish(&mut self, id: MessageId, expected_last: LogSeq, after: Option<MessageId>) -> Published {
        if let Some(index) = self.records.iter().position(|record| *record == Some(id)) {
            return stored(index as u64 + 1);
        }
        let last = self.records.len() as u64;
        if LogSeq(last) != expected_last {
            return wrong_last(last);
        }
        if after.is_some() && self.records.last() != Some(&after) {
            assert!(!self.replicated, "the log takes nothing any more");
            return Published::WrongPredecessor;
        }
        self.records.push(Some(id));
        stored(last + 1)
    }
}

#[derive(Default)]
struct World {
    log: Model,
    /// Calls that have not arrived, each with whether its answer will.
    travelling: Vec<(CallId, Action)>,
    outcomes: BTreeMap<u64, Result<LogSeq, AppendError>>,
}

impl World {
    fn take(&mut self, ready: Ready) {
        self.travelling.extend(ready.calls);
        for done in ready.done {
            assert_eq!(self.outcomes.insert(done.number.0, done.outcome), None);
        }
    }

    /// One of the first few calls arrives; those behind it may overtake it.
    fn deliver(&mut self, appender: &mut Appender, now_us: u64, dice: u64) {
        if self.travelling.is_empty() {
            return appender.step(now_us, Input::Tick);
        }
        let index = usize::try_from(dice % 4).unwrap().min(self.travelling.len() - 1);
        let (call, action) = self.travelling.remove(index);
        let lost = (dice >> 8).is_multiple_of(6);
        let input = match action {
            Action::Publish { id, expected_last, after, .. } => {
                let arrived = !(dice >> 16).is_multiple_of(10);
                let published = if arrived { self.log.publish(id, expected_last, after) } else { no_answer() };
                Input::Published(call, if lost { no_answer() } else { published })
            }
            Action::ReadBack { .. } if lost => Input::Found(call, Found::NoAnswer { reason: String::new() }),
            Action::ReadBack { seq } => match self.log.records.get(usize::try_from(seq.0).unwrap() - 1) {
                Some(id) => Input::Found(call, Found::Record(*id)),
                None => Input::Found(call, Found::Nothing),
            },
        };
        appender.step(now_us, input);
    }
}

#[test]
fn an_outcome_is_what_the_log_says() {
    let mut seen = BTreeSet::new();
    for seed in 0..2_000 {
        let mut dice = Jitter(seed);
        let mut roll = move || dice.draw_us(u64::MAX);
        let (mut world, mut appender) = (World::default(), impatient(4, if seed % 2 == 0 { GIVE_UP_US } else { 500 }));
        world.log.replicated = seed % 4 < 2;
        let (mut expected_last, mut now_us, mut appended) = (0, 0, 0);
        while appended < 30 || appender.pending() > 0 {
            now_us += roll() % 90;
            match roll() % 8 {
                0..=2 if appended < 30 => {
                    appended += 1;
                    append(&mut appender, appended, expected_last);
                    expected_last += 1;
                }
                3 if roll() % 8 == 0 => world.log.records.push(None),
                4 if !world.log.replicated && roll() % 4 == 0 => {
                    // It is seen to be kept by one server, or that cannot be seen for a while.
                    appender.step(now_us, Input::Pipeline(roll() % 3 > 0));
                }
                5 if roll() % 40 == 0 => {
                    // The leader is replaced, and the next one reads the log first. What travels may still arrive.
                    appender.step(now_us, Input::Abandoned { from: AppendNumber(1) });
                    seen.insert("abandoned");
                }
                _ => world.deliver(&mut appender, now_us, roll()),
            }
            world.take(appender.take_ready());
            if appender.pending() == 0 {
                expected_last = world.log.records.len() as u64;
            }
        }
        for (number, outcome) in &world.outcomes {
            let place = world.log.records.iter().position(|record| *record == Some(id(*number)));
            let place = place.map(|index| LogSeq(index as u64 + 1));
            seen.insert(match outcome {
                Ok(seq) => {
                    assert_eq!(place, Some(*seq), "seed {seed}, append {number}");
                    "stored"
                }
                Err(AppendError::Conflict { .. }) => {
                    assert_eq!(place, None, "seed {seed}, append {number}: {outcome:?}");
                    "conflict"
                }
                Err(_) => "unknown",
            });
        }
    }
    assert_eq!(seen, BTreeSet::from(["abandoned", "conflict", "stored", "unknown"]));
}
