//! A log that others write to as well, that loses answers and delays calls, against a writer that
//! never learns more than it must.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::retry::Jitter;

/// Sequence numbers are places in the list, from 1; `None` is a record of somebody else.
#[derive(Default)]
struct Model {
    records: Vec<Option<MessageId>>,
    /// Several servers keep it: a record that names another predecessor is not refused, but ends
    /// the log for everybody.
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

/// A writer, and who calls it: a leader that hears of outcomes when it comes to that.
struct Leadership {
    appender: Appender,
    id: WriterId,
    /// Calls that have not arrived, each with whether its answer will.
    travelling: Vec<(CallId, Action)>,
    /// Outcomes that the caller has not heard of.
    unheard: Vec<Done>,
    /// The record that the caller thinks is the last one, and its place.
    last: (u64, Option<MessageId>),
}

impl Leadership {
    /// Begins after the log was read to its end.
    fn begin(number: u64, log: &Model, give_up_us: u64) -> Self {
        let config = Config { in_flight_max: 4, give_up_us, retry_us: RETRY_US, retry_us_max: 400 };
        let id = WriterId(number);
        let mut appender = Appender::new(config, id);
        appender.step(0, Input::Pipeline(!log.replicated));
        let last = (log.records.len() as u64, log.records.last().copied().flatten());
        Self { appender, id, travelling: Vec::new(), unheard: Vec::new(), last }
    }

    fn take(&mut self) {
        let ready = self.appender.take_ready();
        self.travelling.extend(ready.calls);
        self.unheard.extend(ready.done);
    }

    /// One of the first few calls arrives; those behind it may overtake it.
    fn deliver(&mut self, log: &mut Model, now_us: u64, dice: u64) {
        if self.travelling.is_empty() {
            return self.appender.step(now_us, Input::Tick);
        }
        let index = usize::try_from(dice % 4).unwrap().min(self.travelling.len() - 1);
        let (call, action) = self.travelling.remove(index);
        let lost = (dice >> 8).is_multiple_of(6);
        let input = match action {
            Action::Publish { id, expected_last, after, .. } => {
                let arrived = !(dice >> 16).is_multiple_of(10);
                let published = if arrived { log.publish(id, expected_last, after) } else { no_answer() };
                Input::Published(call, if lost { no_answer() } else { published })
            }
            Action::ReadBack { .. } if lost => Input::Found(call, Found::NoAnswer { reason: String::new() }),
            Action::ReadBack { seq } => match log.records.get(usize::try_from(seq.0).unwrap() - 1) {
                Some(id) => Input::Found(call, Found::Record(*id)),
                None => Input::Found(call, Found::Nothing),
            },
        };
        self.appender.step(now_us, input);
    }
}

#[test]
fn an_outcome_is_what_the_log_says_and_no_record_follows_one_that_its_writer_did_not_know() {
    let mut seen = BTreeSet::new();
    for seed in 0..2_000 {
        let mut dice = Jitter(seed);
        let mut roll = move || dice.draw_us(u64::MAX);
        let give_up_us = if seed % 2 == 0 { GIVE_UP_US } else { 500 };
        let mut log = Model { replicated: seed % 4 < 2, ..Model::default() };
        let mut leadership = Leadership::begin(1, &log, give_up_us);
        let (mut former, mut outcomes, mut known_before) = (None::<Leadership>, BTreeMap::new(), BTreeMap::new());
        let (mut now_us, mut appended) = (0, 0);
        while appended < 30 || leadership.appender.pending() > 0 || !leadership.unheard.is_empty() {
            now_us += roll() % 90;
            match roll() % 9 {
                0..=2 if appended < 30 => {
                    appended += 1;
                    let id = MessageId { writer: leadership.id, number: AppendNumber(appended) };
                    let (last, before) = leadership.last;
                    known_before.insert(id, before);
                    let record = format!("record {appended}").into();
                    let append = Input::Append { number: id.number, expected_last: LogSeq(last), record };
                    leadership.appender.step(now_us, append);
                    leadership.last = (last + 1, Some(id));
                }
                3 if roll() % 8 == 0 => log.records.push(None),
                4 if !log.replicated && roll() % 4 == 0 => {
                    // It is seen to be kept by one server, or that cannot be seen for a while.
                    leadership.appender.step(now_us, Input::Pipeline(roll() % 3 > 0));
                }
                5 => {
                    let heard: Vec<_> = leadership.unheard.drain(..).collect();
                    let failed = heard.iter().any(|done| done.outcome.is_err());
                    for done in heard {
                        let id = MessageId { writer: leadership.id, number: done.number };
                        assert_eq!(outcomes.insert(id, done.outcome), None);
                    }
                    if failed {
                        // The next leader reads the log. A request of the former one may still
                        // arrive.
                        leadership.appender.step(now_us, Input::Tick);
                        leadership.take();
                        let next = Leadership::begin(leadership.id.0 + 1, &log, give_up_us);
                        former = Some(std::mem::replace(&mut leadership, next));
                    }
                }
                6 if former.is_some() => former.as_mut().unwrap().deliver(&mut log, now_us, roll()),
                _ => leadership.deliver(&mut log, now_us, roll()),
            }
            leadership.take();
        }
        for (place, id) in log.records.iter().enumerate().filter_map(|(place, id)| Some((place, (*id)?))) {
            let before = place.checked_sub(1).and_then(|before| log.records[before]);
            assert_eq!(before, known_before[&id], "seed {seed}, {id} as record {}", place + 1);
        }
        for (id, outcome) in &outcomes {
            let place = log.records.iter().position(|record| *record == Some(*id));
            let place = place.map(|index| LogSeq(index as u64 + 1));
            seen.insert(match outcome {
                Ok(seq) => {
                    assert_eq!(place, Some(*seq), "seed {seed}, append {id}");
                    "stored"
                }
                Err(AppendError::Conflict { .. }) => {
                    assert_eq!(place, None, "seed {seed}, append {id}: {outcome:?}");
                    "conflict"
                }
                Err(_) => "unknown",
            });
        }
    }
    assert_eq!(seen, BTreeSet::from(["conflict", "stored", "unknown"]));
}
