//! The names of the commands that a record decides.

use std::mem;

use wasmill_protocol::command::{Done, Refusal};
use wasmill_record::Decided;
use wasmill_scheduler_core::io::ReplyTo;

use super::CommandName;

/// Commands that were given to the core since the last record, and have changed something.
#[derive(Debug, Default)]
pub(super) struct Names {
    asked: Vec<(usize, CommandName, ReplyTo)>,
}

/// A command that was done.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// The place of its first event among those of the record: the record that has this one decides the command, whatever else follows from it.
    first: usize,
    name: CommandName,
    done: Done,
}

impl Names {
    /// A command has made events, the first of them at this place.
    pub(super) fn note(&mut self, first: usize, name: CommandName, reply_to: ReplyTo) {
        self.asked.push((first, name, reply_to));
    }

    /// Those that were done, in the order in which they were asked, which is also that of the replies. O(replies).
    pub(super) fn take(&mut self, replies: &[(ReplyTo, Result<Done, Refusal>)]) -> Vec<Named> {
        let mut replies = replies.iter();
        let mut done = |asked: ReplyTo| {
            let found = replies.find(|(reply_to, _)| *reply_to == asked);
            found.and_then(|(_, answer)| answer.as_ref().ok()).cloned()
        };
        let asked = mem::take(&mut self.asked).into_iter();
        asked.filter_map(|(first, name, reply_to)| Some(Named { first, name, done: done(reply_to)? })).collect()
    }
}

/// Those of the first `count` events, and the others, counted from there.
pub(super) fn cut(mut named: Vec<Named>, count: usize) -> (Vec<Named>, Vec<Named>) {
    let at = named.partition_point(|named| named.first < count);
    let mut rest = named.split_off(at);
    rest.iter_mut().for_each(|named| named.first -= count);
    (named, rest)
}

/// As a record holds them: those of one call together.
pub(super) fn grouped(named: &[Named]) -> Vec<Decided> {
    let mut grouped: Vec<Decided> = Vec::new();
    for Named { name, done, .. } in named {
        let CommandName { asker, number, place } = *name;
        match grouped.last_mut() {
            Some(last) if last.asker == asker && last.number == number => last.done.push((place, done.clone())),
            _ => grouped.push(Decided { asker, number, done: vec![(place, done.clone())] }),
        }
    }
    grouped
}
