//! Who may append: the chain of records, and the terms in it.

use std::collections::BTreeSet;

use wasmill_protocol::{Digest, LogSeq, Term};
use wasmill_record::event::EventBody;

use super::{Checked, hold};
use crate::log::Entry;
use crate::network::Place;
use crate::servers::Caller;

/// The terms of the log, and to whom they were given.
#[derive(Debug, Default)]
pub(super) struct Terms {
    last: Term,
    begun: u64,
    /// The whole log, whatever was trimmed.
    entries: Vec<Entry>,
    /// Terms that etcd has confirmed, each to a life of a node.
    guarded: BTreeSet<(Term, usize, u64)>,
}

impl Terms {
    /// A record is of the last term in the log, or begins a greater one, and it follows the record before it.
    pub(super) fn record(&mut self, seq: LogSeq, entry: &Entry) -> Checked {
        let record = &entry.record;
        let before = self.entries.last().map(|entry| entry.hash).unwrap_or_default();
        hold!(record.prev_hash == before, "record {seq} does not follow from the record before it");
        match record.events.first().map(|event| &event.body) {
            Some(EventBody::TermStarted { term, node, .. }) => {
                hold!(*term > self.last, "term {term} follows term {}", self.last);
                hold!(record.term == *term, "record {seq} of term {} begins term {term}", record.term);
                let given = self.guarded.is_empty()
                    || self
                        .guarded
                        .iter()
                        .any(|(guarded, index, _)| guarded == term && *node == format!("node-{index}"));
                hold!(given, "{node} begins term {term}, which was not given to it");
                self.last = *term;
                self.begun += 1;
            }
            _ => hold!(
                record.term == self.last,
                "a stale term {} appends record {seq} in term {}",
                record.term,
                self.last
            ),
        }
        let started = |body: &EventBody| matches!(body, EventBody::TermStarted { .. });
        let inside = record.events.iter().skip(1).any(|event| started(&event.body));
        hold!(!inside, "a term begins in the middle of record {seq}");
        self.entries.push(entry.clone());
        Ok(())
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    pub(super) fn last(&self) -> Term {
        self.last
    }

    pub(super) fn hash_at(&self, seq: LogSeq) -> Option<Digest> {
        let index = usize::try_from(seq.0).ok()?.checked_sub(1)?;
        self.entries.get(index).map(|entry| entry.hash)
    }

    pub(super) fn guarded(&mut self, term: Term, caller: Caller) {
        if let Place::Node(node) = caller.place {
            self.guarded.insert((term, node, caller.life));
        }
    }

    pub(super) fn is_guarded(&self, term: Term, node: usize, life: u64) -> bool {
        self.guarded.contains(&(term, node, life))
    }
}
