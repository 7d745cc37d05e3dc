//! One stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use wasmill_protocol::Timestamp;

use super::dedupe::{Dedupe, Seen};
use super::{PubAck, Publish, PublishError, PublishResult};

/// How a stream is configured. Retention is by limits, new messages are discarded when it is full,
/// storage is a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Its name.
    pub name: String,
    /// The subjects that it listens to. No wildcards.
    pub subjects: Vec<String>,
    /// For how long ids are remembered, in milliseconds.
    pub duplicate_window_ms: u64,
    /// The largest message in bytes, headers included.
    pub message_bytes_max: Option<usize>,
    /// The most that is stored, in bytes.
    pub bytes_max: Option<u64>,
}

/// The facts about a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// How it is configured.
    pub config: StreamConfig,
    /// When it was made: tells a stream from another one that has taken its name.
    pub created: Timestamp,
    /// The number of the first message; one more than the last when there is none.
    pub first_seq: u64,
    /// The number of the last message that there was.
    pub last_seq: u64,
    /// Messages that are there.
    pub messages: u64,
}

/// A message that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub seq: u64,
    /// When it was stored, by the server's clock.
    pub at: Timestamp,
    /// Its `Nats-Msg-Id`.
    pub id: Option<String>,
    /// The message.
    pub payload: Bytes,
    /// Its size with headers.
    bytes: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Stream {
    config: StreamConfig,
    created: Timestamp,
    messages: BTreeMap<u64, Stored>,
    first_seq: u64,
    last_seq: u64,
    /// With replicas: the number of the last message that was proposed.
    proposed_seq: u64,
    /// The last message that is on the disk for certain.
    synced_seq: u64,
    bytes: u64,
    dedupe: Dedupe,
    last_id: LastId,
    /// With replicas: what the group had agreed on could not be stored, and nothing can any more.
    wedged: bool,
}

/// The id of the last message, as the server remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LastId {
    Known(Option<String>),
    /// The server was restarted and has not read its messages yet.
    Unread,
}

impl Stream {
    pub(super) fn new(now: Timestamp, config: StreamConfig) -> Self {
        Self {
            created: now,
            messages: BTreeMap::new(),
            first_seq: 1,
            last_seq: 0,
            proposed_seq: 0,
            synced_seq: 0,
            bytes: 0,
            dedupe: Dedupe::new(config.duplicate_window_ms),
            last_id: LastId::Known(None),
            wedged: false,
            config,
        }
    }

    pub(super) fn config(&self) -> &StreamConfig {
        &self.config
    }

    pub(super) fn listens_to(&self, subject: &str) -> bool {
        self.config.subjects.iter().any(|listened| listened == subject)
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(super) fn info(&self) -> StreamInfo {
        StreamInfo {
            config: self.config.clone(),
            created: self.created,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            messages: self.messages.len() as u64,
        }
    }

    /// A message that the group has agreed on cannot be stored.
    pub(super) fn wedge(&mut self) {
        self.wedged = true;
    }

    pub(super) fn is_wedged(&self) -> bool {
        self.wedged
    }

    /// Everything is on the disk.
    pub(super) fn sync(&mut self) {
        self.synced_seq = self.last_seq;
    }

    pub(super) fn message(&self, seq: u64) -> Option<&Stored> {
        self.messages.get(&seq)
    }

    pub(super) fn next_message(&self, seq: u64) -> Option<&Stored> {
        self.messages.range(seq..).next().map(|(_, stored)| stored)
    }

    /// The last sequence that the next message is compared with before it is proposed.
    fn last_proposed(&self) -> u64 {
        self.proposed_seq.max(self.last_seq)
    }

    /// The check of one server when the turn of a message has come.
    pub(super) fn check_alone(&mut self, now: Timestamp, publish: &Publish) -> Result<(), PublishResult> {
        let last = self.last_seq;
        self.check(now, publish, last)?;
        self.check_last_id(now, publish).map_err(Err)?;
        self.check_size(publish).map_err(Err)
    }

    /// The check of a group before it proposes a message.
    pub(super) fn check_proposal(&mut self, now: Timestamp, publish: &Publish) -> Result<(), PublishResult> {
        self.check_size(publish).map_err(Err)?;
        let last = self.last_proposed();
        self.check(now, publish, last)
    }

    /// The first checks, in this order; `last` is the last sequence as far as this check can
    /// see. The error is the server's answer, which is an acknowledgement for a message that is
    /// there already.
    fn check(&mut self, now: Timestamp, publish: &Publish, last: u64) -> Result<(), PublishResult> {
        if publish.expected_stream.as_ref().is_some_and(|expected| *expected != self.config.name) {
            return Err(Err(PublishError::StreamMismatch));
        }
        if let Some(id) = &publish.id {
            match self.dedupe.find(now, id) {
                Seen::Never => {}
                Seen::InProcess => return Err(Err(PublishError::DuplicateInProcess)),
                // The id is looked at first, whatever sequence is expected to be the last.
                Seen::At(seq) => return Err(Ok(PubAck { stream: self.config.name.clone(), seq, duplicate: true })),
            }
        }
        if publish.expected_last.is_some_and(|expected| expected != last) {
            return Err(Err(PublishError::WrongLastSequence { last }));
        }
        Ok(())
    }

    /// Whether the last message is the one that is expected. Ids of messages that are older than
    /// the window are not read after a restart.
    pub(super) fn check_last_id(&mut self, now: Timestamp, publish: &Publish) -> Result<(), PublishError> {
        let Some(expected) = &publish.expected_last_id else { return Ok(()) };
        if self.last_id == LastId::Unread {
            let young = |stored: &&Stored| now < stored.at.plus_ms(self.config.duplicate_window_ms);
            let last = self.messages.get(&self.last_seq).filter(young);
            self.last_id = LastId::Known(last.and_then(|last| last.id.clone()));
        }
        match &self.last_id {
            LastId::Known(Some(last)) if last == expected => Ok(()),
            LastId::Known(last) => Err(PublishError::WrongLastId { last: last.clone().unwrap_or_default() }),
            LastId::Unread => unreachable!("it has just been read"),
        }
    }

    fn check_size(&self, publish: &Publish) -> Result<(), PublishError> {
        if self.config.message_bytes_max.is_some_and(|bytes_max| publish.wire_bytes() > bytes_max) {
            return Err(PublishError::MessageTooLarge);
        }
        Ok(())
    }

    /// Whether there is room for a message.
    pub(super) fn check_bytes(&self, publish: &Publish) -> Result<(), PublishError> {
        let bytes = self.bytes + publish.wire_bytes() as u64;
        if self.config.bytes_max.is_some_and(|bytes_max| bytes > bytes_max) {
            return Err(PublishError::MaxBytes);
        }
        Ok(())
    }

    /// Takes the next number for a message that the group will agree on.
    pub(super) fn propose(&mut self, now: Timestamp, id: Option<&str>) -> u64 {
        self.proposed_seq = self.last_proposed() + 1;
        if let Some(id) = id {
            self.dedupe.propose(now, id);
        }
        self.proposed_seq
    }

    /// A message that was proposed is not stored after all, and neither will those be that were
    /// proposed after it.
    pub(super) fn drop_proposal(&mut self, id: Option<&str>) {
        if let Some(id) = id {
            self.dedupe.drop_proposal(id);
        }
        self.proposed_seq = self.last_seq;
    }

    /// Stores a message.
    pub(super) fn push(&mut self, now: Timestamp, publish: Publish, synced: bool) -> u64 {
        let bytes = publish.wire_bytes() as u64;
        self.last_seq += 1;
        let seq = self.last_seq;
        if let Some(id) = &publish.id {
            self.dedupe.store(now, id, seq);
        }
        self.bytes += bytes;
        self.last_id = LastId::Known(publish.id.clone());
        self.messages.insert(seq, Stored { seq, at: now, id: publish.id, payload: publish.payload, bytes });
        if synced {
            self.synced_seq = seq;
        }
        seq
    }

    /// Removes what is below `seq`. Beyond the end, the end moves.
    pub(super) fn purge(&mut self, seq: u64) {
        if seq <= self.first_seq {
            return;
        }
        self.messages = self.messages.split_off(&seq);
        self.bytes = self.messages.values().map(|stored| stored.bytes).sum();
        self.first_seq = seq;
        self.last_seq = self.last_seq.max(seq - 1);
    }

    /// The process that served the stream has ended: what was only in memory is gone, and
    /// `unsynced` says what became of what was not yet on the disk.
    pub(super) fn stop(&mut self, unsynced: Unsynced) {
        let last = match unsynced {
            Unsynced::Kept => self.last_seq,
            Unsynced::KeptInPart(count) => self.last_seq.min(self.synced_seq.saturating_add(count)),
        };
        self.cut(last);
        self.synced_seq = self.last_seq;
        self.proposed_seq = self.last_seq;
    }

    /// Forgets everything after `last`, as if it had never been stored.
    pub(super) fn cut(&mut self, last: u64) {
        let forgotten = self.messages.split_off(&(last + 1));
        self.bytes -= forgotten.values().map(|stored| stored.bytes).sum::<u64>();
        self.last_seq = self.last_seq.min(last);
        self.first_seq = self.first_seq.min(self.last_seq + 1);
        self.synced_seq = self.synced_seq.min(self.last_seq);
        self.proposed_seq = self.last_seq;
        self.last_id = LastId::Unread;
    }

    /// Loses one message in the middle; its number stays taken.
    pub(super) fn lose(&mut self, seq: u64) -> bool {
        let in_the_middle = seq > self.first_seq && seq < self.last_seq;
        in_the_middle && self.messages.remove(&seq).inspect(|stored| self.bytes -= stored.bytes).is_some()
    }

    /// Changes one byte of a message.
    pub(super) fn flip_byte(&mut self, seq: u64, at: usize) -> bool {
        let Some(stored) = self.messages.get_mut(&seq).filter(|stored| !stored.payload.is_empty()) else {
            return false;
        };
        let mut bytes = stored.payload.to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1;
        stored.payload = bytes.into();
        true
    }

    /// A process begins to serve the stream: the ids that it knows are those of messages that are
    /// still here and young enough (`rebuildDedupe`).
    pub(super) fn start(&mut self, now: Timestamp) {
        let window_ms = self.config.duplicate_window_ms;
        self.dedupe = Dedupe::new(window_ms);
        // From the end: there may be many, and few of them young.
        let young = self.messages.values().rev().take_while(|stored| now < stored.at.plus_ms(window_ms));
        for stored in young.collect::<Vec<_>>().into_iter().rev() {
            if let Some(id) = &stored.id {
                self.dedupe.store(stored.at, id, stored.seq);
            }
        }
    }
}

/// The fate of messages that are stored and not on the disk when their process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsynced {
    /// The system writes them later: only the process has died.
    Kept,
    /// The first few have reached the disk by themselves.
    KeptInPart(u64),
}
