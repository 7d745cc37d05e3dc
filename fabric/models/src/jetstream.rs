//! JetStream: streams that store messages by number, and refuse those that come at the wrong place
//! or a second time.
//!
//! Modelled after nats-server 2.14. The checks of a publish, and their order, make retries safe or
//! not: the name of the stream, then the message id, then the expected last sequence and last id,
//! then sizes and space, and only then something is stored (`server/stream.go`,
//! `processJetStreamMsg`; with replicas `server/jetstream_batching.go`,
//! `checkMsgHeadersPreClusteredProposal`, before the message is proposed).

mod dedupe;
mod faults;
mod stream;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use thiserror::Error;
use wasmill_protocol::Timestamp;

pub use faults::Stop;
pub use stream::{Stored, StreamConfig, StreamInfo};

use stream::Stream;

/// How the servers are configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// The largest message in bytes, headers included; a client that sends a larger one loses its
    /// connection.
    pub max_payload: usize,
    /// Three servers that agree on each message before it is stored, instead of one.
    pub replicated: bool,
    /// Whether a message is on the disk before it is acknowledged (`sync_interval: always`).
    pub sync: Sync,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { max_payload: 1 << 20, replicated: false, sync: Sync::Always }
    }
}

/// When what was stored is written to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before the acknowledgement.
    Always,
    /// When [`JetStream::sync`] is called: by default the server does so every two minutes.
    Interval,
}

/// A request of a client to store a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publish {
    /// Where it is sent to; the stream that listens there stores it.
    pub subject: String,
    /// `Nats-Msg-Id`.
    pub id: Option<String>,
    /// `Nats-Expected-Last-Sequence`.
    pub expected_last: Option<u64>,
    /// `Nats-Expected-Last-Msg-Id`.
    pub expected_last_id: Option<String>,
    /// `Nats-Expected-Stream`.
    pub expected_stream: Option<String>,
    /// The message.
    pub payload: Bytes,
}

/// A message is stored, now or before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PubAck {
    /// Which stream has it.
    pub stream: String,
    /// Its number.
    pub seq: u64,
    /// It was there before: a message with the same id came within the window. Nothing else of the
    /// two was compared.
    pub duplicate: bool,
}

/// Why a message was not stored, or not now.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// No stream listens, no server is there to ask, or the stream has stopped and nobody answers.
    #[error("no responders")]
    NoResponders,
    /// Over `max_payload`: the server drops the connection.
    #[error("maximum payload violation")]
    MaxPayload,
    /// `Nats-Expected-Stream` names another stream (10060).
    #[error("expected stream does not match")]
    StreamMismatch,
    /// A message with this id was proposed and is not stored yet (10158). With replicas only.
    #[error("duplicate message id is in process")]
    DuplicateInProcess,
    /// `Nats-Expected-Last-Sequence` is not the last (10071).
    #[error("wrong last sequence: {last}")]
    WrongLastSequence {
        /// The last sequence; with replicas that of the last message proposed.
        last: u64,
    },
    /// `Nats-Expected-Last-Msg-Id` is not the id of the last message (10070).
    #[error("wrong last msg ID: {last}")]
    WrongLastId {
        /// The id of the last message; empty when it has none, or when a restarted server has not
        /// read it.
        last: String,
    },
    /// Over the stream's `max_msg_size` (10054).
    #[error("message size exceeds maximum allowed")]
    MessageTooLarge,
    /// Over the stream's `max_bytes` while it discards new messages (10077).
    #[error("maximum bytes exceeded")]
    MaxBytes,
    /// The disk is full (10077). The server shuts JetStream down after this.
    #[error("no space left on device")]
    NoSpace,
}

/// The server's answer to one publish.
pub type PublishResult = Result<PubAck, PublishError>;

/// Names a message that was received, until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A request to JetStream's API was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// No server with JetStream is there to ask.
    #[error("no responders")]
    NoResponders,
    /// There is no such stream (10059).
    #[error("stream not found")]
    StreamNotFound,
    /// There is a stream of this name with another configuration (10058).
    #[error("stream name already in use with a different configuration")]
    StreamNameInUse,
    /// Another stream listens to one of the subjects (10065).
    #[error("subjects overlap with an existing stream")]
    SubjectOverlap,
}

/// One server, or a group of three.
#[derive(Debug, Clone)]
pub struct JetStream {
    config: ServerConfig,
    standing: ServerStatus,
    disk_full: bool,
    streams: BTreeMap<String, Stream>,
    /// Received and not yet stored, in order.
    queue: VecDeque<Received>,
    next_ticket: u64,
}

/// Whether anybody is there to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerStatus {
    Up,
    /// Dead, or without a quorum.
    Down,
    /// The process lives and JetStream was shut down, because the disk is full.
    Disabled,
}

/// A message on its way into a stream.
#[derive(Debug, Clone)]
struct Received {
    ticket: Ticket,
    stream: String,
    publish: Publish,
    /// With replicas: the sequence that it was proposed for.
    proposed: Option<u64>,
}

impl JetStream {
    /// Servers that run and have no streams.
    pub fn new(config: ServerConfig) -> Self {
        Self {
            config,
            standing: ServerStatus::Up,
            disk_full: false,
            streams: BTreeMap::new(),
            queue: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// How the servers are configured.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Whether JetStream answers.
    pub fn is_up(&self) -> bool {
        self.standing == ServerStatus::Up
    }

    /// Whether the servers are there at all: with a full disk they carry messages, and keep none.
    pub fn is_reachable(&self) -> bool {
        self.standing != ServerStatus::Down
    }

    /// One message by its number, whether or not anybody is there to ask: for checks from outside.
    pub fn peek(&self, stream: &str, seq: u64) -> Option<&Stored> {
        self.streams.get(stream)?.message(seq)
    }

    /// A publish reaches the server: refused at once, or queued and answered by
    /// [`JetStream::store_next`].
    ///
    /// One server looks at a message only when its turn comes. A group of three looks at it when it
    /// is proposed, against what was proposed before.
    ///
    /// # Errors
    ///
    /// When it is refused at once; with replicas a duplicate is acknowledged at once too.
    pub fn receive(&mut self, now: Timestamp, publish: Publish) -> Result<Ticket, PublishResult> {
        if publish.wire_bytes() > self.config.max_payload {
            return Err(Err(PublishError::MaxPayload));
        }
        if self.standing != ServerStatus::Up {
            return Err(Err(PublishError::NoResponders));
        }
        let Some(stream) = self.streams.values_mut().find(|stream| stream.listens_to(&publish.subject)) else {
            return Err(Err(PublishError::NoResponders));
        };
        if stream.is_wedged() {
            return Err(Err(PublishError::NoResponders));
        }
        let mut proposed = None;
        if self.config.replicated {
            stream.check_proposal(now, &publish)?;
            proposed = Some(stream.propose(now, publish.id.as_deref()));
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let stream = stream.config().name.clone();
        self.queue.push_back(Received { ticket, stream, publish, proposed });
        Ok(ticket)
    }

    /// Messages that wait to be stored.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Stores the first message that waits, or finds why not: what the server answers, and to whom.
    /// `None` when nothing waits.
    pub fn store_next(&mut self, now: Timestamp) -> Option<(Ticket, PublishResult)> {
        let received = self.queue.pop_front()?;
        let ticket = received.ticket;
        Some((ticket, self.store(now, received)))
    }

    fn store(&mut self, now: Timestamp, received: Received) -> PublishResult {
        let Received { stream, publish, proposed, .. } = received;
        // Deleted while the message waited: nobody is left to answer.
        let stream = self.streams.get_mut(&stream).ok_or(PublishError::NoResponders)?;
        match proposed {
            None => {
                if let Err(answer) = stream.check_alone(now, &publish) {
                    return answer;
                }
            }
            // An earlier failure has shifted every later message out of its place.
            Some(seq) if seq != stream.last_seq() + 1 => {
                stream.drop_proposal(publish.id.as_deref());
                return Err(PublishError::WrongLastSequence { last: stream.last_seq() });
            }
            Some(_) if stream.is_wedged() => return Err(PublishError::NoResponders),
            // The id of the last message is looked at only now, when all have agreed to store what
            // follows it.
            Some(_) => stream.check_last_id(now, &publish).inspect_err(|_| stream.wedge())?,
        }
        if self.disk_full {
            stream.drop_proposal(publish.id.as_deref());
            self.disable();
            return Err(PublishError::NoSpace);
        }
        stream.check_bytes(&publish).inspect_err(|_| stream.drop_proposal(publish.id.as_deref()))?;
        let seq = stream.push(now, publish, self.config.sync == Sync::Always);
        Ok(PubAck { stream: stream.config().name.clone(), seq, duplicate: false })
    }

    /// Makes a stream, or finds that it is there already.
    ///
    /// # Errors
    ///
    /// When there is one of this name or on these subjects that is different.
    pub fn create_stream(&mut self, now: Timestamp, config: StreamConfig) -> Result<StreamInfo, ApiError> {
        self.answers()?;
        if let Some(stream) = self.streams.get(&config.name) {
            return if *stream.config() == config { Ok(stream.info()) } else { Err(ApiError::StreamNameInUse) };
        }
        if config.subjects.iter().any(|subject| self.streams.values().any(|other| other.listens_to(subject))) {
            return Err(ApiError::SubjectOverlap);
        }
        let stream = Stream::new(now, config);
        let info = stream.info();
        self.streams.insert(info.config.name.clone(), stream);
        Ok(info)
    }

    /// The facts about a stream, as its leader tells them.
    ///
    /// # Errors
    ///
    /// When there is no such stream or nobody answers.
    pub fn info(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        Ok(self.stream(stream)?.info())
    }

    /// One message by its number, asked of the stream's leader (`$JS.API.STREAM.MSG.GET`); `None`
    /// when there is none of this number.
    ///
    /// # Errors
    ///
    /// When there is no such stream or nobody answers.
    pub fn message(&self, stream: &str, seq: u64) -> Result<Option<&Stored>, ApiError> {
        Ok(self.stream(stream)?.message(seq))
    }

    /// The next message of an ordered consumer: the first message from `seq` on. Numbers that are
    /// missing are passed over without a word.
    ///
    /// # Errors
    ///
    /// When there is no such stream or nobody answers.
    pub fn next_message(&self, stream: &str, seq: u64) -> Result<Option<&Stored>, ApiError> {
        Ok(self.stream(stream)?.next_message(seq))
    }

    /// Removes the messages below `seq`.
    ///
    /// One that is above the last moves the last along: the numbering then goes on from `seq`
    /// (`server/filestore.go`, `Compact` and `purge`). Ids of what was removed are remembered until
    /// a restart.
    ///
    /// # Errors
    ///
    /// When there is no such stream or nobody answers.
    pub fn purge(&mut self, stream: &str, seq: u64) -> Result<(), ApiError> {
        self.answers()?;
        self.streams.get_mut(stream).ok_or(ApiError::StreamNotFound)?.purge(seq);
        Ok(())
    }

    fn answers(&self) -> Result<(), ApiError> {
        if self.is_up() { Ok(()) } else { Err(ApiError::NoResponders) }
    }

    fn stream(&self, name: &str) -> Result<&Stream, ApiError> {
        self.answers()?;
        self.streams.get(name).ok_or(ApiError::StreamNotFound)
    }
}

impl Publish {
    /// The size that `max_payload` bounds: the headers count.
    pub fn wire_bytes(&self) -> usize {
        const HEADER: usize = "NATS/1.0\r\n\r\n".len();
        const LINE: usize = ": \r\n".len();
        let id = self.id.as_ref().map_or(0, |id| LINE + "Nats-Msg-Id".len() + id.len());
        let expected_id =
            self.expected_last_id.as_ref().map_or(0, |id| LINE + "Nats-Expected-Last-Msg-Id".len() + id.len());
        let expected =
            self.expected_last.map_or(0, |last| LINE + "Nats-Expected-Last-Sequence".len() + last.to_string().len());
        let stream = self.expected_stream.as_ref().map_or(0, |name| LINE + "Nats-Expected-Stream".len() + name.len());
        let headers = id + expected + expected_id + stream;
        self.payload.len() + headers + if headers > 0 { HEADER } else { 0 }
    }
}
