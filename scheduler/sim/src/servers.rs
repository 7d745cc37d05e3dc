//! The servers that a cluster of control nodes stands on, and who waits for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wasmill_fabric_core::append::MessageId;
use wasmill_fabric_models::etcd::{Backup, CampaignId, EtcdError, Event, LeaseId, Range, Watch};
use wasmill_fabric_models::jetstream::{ApiError, PublishResult, ServerConfig, Stop, StreamConfig, Sync, Ticket};
use wasmill_fabric_models::{Etcd, JetStream};
use wasmill_protocol::{Digest, Incarnation, LogSeq, Term, Timestamp};
use wasmill_record::snapshot::Part;

use crate::network::Place;
use crate::options::ClusterOptions;

/// The stream that is the log.
pub const STREAM: &str = "log";
/// Where records are sent to.
const SUBJECT: &str = "records";
/// For how long ids of records are remembered, in milliseconds.
const DUPLICATE_WINDOW_MS: u64 = 20_000;

/// JetStream and etcd.
#[derive(Debug)]
pub struct Servers {
    /// Keeps the log.
    pub jetstream: JetStream,
    /// A record is being stored.
    pub storing: bool,
    /// The servers stop so in the middle of the next record.
    pub stop_armed: Option<Stop>,
    /// How far their clocks are ahead, in microseconds.
    pub nats_ahead_us: u64,
    /// Who waits for which record, and the last record that was known there when it was called.
    pub tickets: BTreeMap<Ticket, (Caller, LogSeq)>,
    /// Knows who leads and which hosts live.
    pub etcd: Etcd,
    /// Who waits for which election.
    pub campaigns: BTreeMap<CampaignId, Caller>,
    /// Who was granted which lease.
    pub owners: BTreeMap<LeaseId, Caller>,
    /// Who watches the hosts.
    pub watchers: Vec<Watcher>,
    /// Blobs that hold snapshots, by their names.
    pub snapshots: BTreeMap<Digest, Arc<Snapshot>>,
    /// What etcd can be restored from.
    pub backup: Option<Backup>,
    /// How fast etcd's clock runs, in thousandths.
    rate: u64,
}

/// What the log says up to a record.
#[derive(Debug)]
pub struct Snapshot {
    /// The record.
    pub seq: LogSeq,
    /// What the next record is chained to.
    pub hash: Digest,
    /// Bytes of all records up to there.
    pub log_bytes: u64,
    /// What it holds.
    pub parts: Vec<Part>,
}

/// A process that has asked something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// A control node or a host.
    pub place: Place,
    /// Which life of it.
    pub life: u64,
    /// Which call of that life.
    pub call: u64,
}

/// A watch on the hosts, as etcd keeps it.
#[derive(Debug)]
pub struct Watcher {
    /// Which node.
    pub node: usize,
    /// Which life of it.
    pub life: u64,
    /// Which of its watches.
    pub epoch: u64,
    /// What was told.
    pub watch: Watch,
    /// When the last of it arrives: a stream keeps its order.
    pub told_at: Timestamp,
}

/// What is asked of the log.
#[derive(Debug, Clone)]
pub enum LogAsk {
    /// To store a record.
    Publish {
        /// Its name.
        id: MessageId,
        /// Where the log must end.
        expected_last: LogSeq,
        /// Which record must be the last.
        after: Option<MessageId>,
        /// The record.
        record: Bytes,
        /// The last record that its writer knew of when it was called.
        known: LogSeq,
    },
    /// What stands at a place.
    ReadBack(LogSeq),
    /// Where it begins and ends.
    End,
    /// To remove everything up to a record.
    Trim(LogSeq),
    /// What time it is.
    Time,
}

/// What the log answers.
#[derive(Debug, Clone)]
pub enum LogAnswer {
    /// To a record.
    Published(PublishResult),
    /// The id of the record at a place; `None` when nothing stands there; the last is where the log begins.
    Found(Option<Option<MessageId>>, LogSeq),
    /// The first record and the last; `None` when there is no log.
    End(Option<(LogSeq, LogSeq)>),
    /// Trimmed.
    Trimmed,
    /// What time it is for the servers.
    Time(Timestamp),
}

/// What is asked of etcd.
#[derive(Debug, Clone)]
pub enum EtcdAsk {
    /// A lease.
    Grant,
    /// To renew a lease.
    KeepAlive(LeaseId),
    /// To be elected.
    Campaign(LeaseId),
    /// Whether the leader key of a lease has this create revision; written down if so.
    Guard(LeaseId, Term),
    /// To end a lease.
    Revoke(LeaseId),
    /// To remove the leader key if it has this create revision, and end the lease.
    Release(LeaseId, Term),
    /// To put a host under a lease; and whether that leaves the key to another process that has it.
    PutHost(LeaseId, HostEntry, Claim),
    /// Which hosts there are.
    Hosts,
    /// To be told of hosts from a revision on, for this watch of the node.
    Watch(u64, u64),
    /// How far the log was seen to go.
    Mark,
    /// To write down how far the log was seen to go, if nobody has seen more.
    Raise(LogSeq),
}

/// What etcd answers.
#[derive(Debug, Clone)]
pub enum EtcdAnswer {
    /// A lease, and its time to live in seconds.
    Granted(LeaseId, i64),
    /// The time to live in seconds; 0 when the lease is gone.
    KeptAlive(i64),
    /// The create revision of the leader key.
    Won(Term),
    /// Whether the guard holds.
    Guarded(bool),
    /// Done.
    Done,
    /// Hosts by their index, and the revision at which they were read.
    Hosts(Vec<(usize, HostEntry)>, u64),
    /// Another process has the host's key.
    Taken(HostEntry),
    /// The watch has begun, at this revision.
    Watching(u64),
    /// How far the log was seen to go.
    Mark(LogSeq),
    /// Not done.
    Failed(EtcdError),
}

/// What etcd tells those who watch.
#[derive(Debug, Clone)]
pub struct WatchNews {
    /// To which watch.
    pub epoch: u64,
    /// What happened; `None` when the watch is over.
    pub events: Option<Vec<Event>>,
}

impl Servers {
    /// Servers that have just been set up.
    pub fn new(now: Timestamp, options: &ClusterOptions) -> Self {
        let config = ServerConfig { replicated: options.replicated, sync: Sync::Always, ..ServerConfig::default() };
        let mut servers = Self {
            jetstream: JetStream::new(config),
            storing: false,
            stop_armed: None,
            nats_ahead_us: 0,
            tickets: BTreeMap::new(),
            etcd: Etcd::default(),
            campaigns: BTreeMap::new(),
            owners: BTreeMap::new(),
            watchers: Vec::new(),
            snapshots: BTreeMap::new(),
            backup: None,
            rate: options.etcd_rate,
        };
        let stream = StreamConfig {
            name: STREAM.into(),
            subjects: vec![SUBJECT.into()],
            duplicate_window_ms: DUPLICATE_WINDOW_MS,
            message_bytes_max: None,
            bytes_max: None,
        };
        // The first control node makes it, and writes down that there is one: nobody ever makes another.
        servers.jetstream.create_stream(now, stream).expect("servers without streams make one");
        servers
    }

    /// The time by etcd's clock, `elapsed_us` after the beginning.
    pub fn etcd_time(&self, elapsed_us: u64) -> Timestamp {
        Timestamp(elapsed_us * self.rate / 1_000)
    }

    /// Whether etcd's clock runs no faster than everybody else's, so that a lease cannot end before its holder thinks so.
    pub fn etcd_is_patient(&self) -> bool {
        self.rate <= 1_000
    }

    /// How far the log was seen to go, as it is written down in etcd.
    ///
    /// # Errors
    ///
    /// When nobody is there to ask.
    pub fn read_mark(&self) -> Result<LogSeq, EtcdError> {
        let (found, _) = self.etcd.get(&Range::Key(MARK.into()))?;
        let written = found.first().and_then(|found| found.value.as_ref().try_into().ok());
        Ok(LogSeq(written.map_or(0, u64::from_be_bytes)))
    }

    /// Where the log begins and ends; nothing when there is none.
    ///
    /// # Errors
    ///
    /// When nobody is there to ask.
    pub fn log_ends(&self) -> Result<Option<(LogSeq, LogSeq)>, ApiError> {
        match self.jetstream.info(STREAM) {
            Ok(info) => Ok(Some((LogSeq(info.first_seq), LogSeq(info.last_seq)))),
            Err(ApiError::StreamNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The subject of records, for [`Publish`](wasmill_fabric_models::jetstream::Publish).
pub fn subject() -> String {
    SUBJECT.into()
}

/// Where it is written down how far the log went.
pub const MARK: &str = "log";

/// The prefix of all keys of hosts.
pub const HOSTS: &str = "hosts/";

/// The key of a host.
pub fn host_key(host: usize) -> String {
    format!("{HOSTS}{host}")
}

/// The host of a key.
pub fn host_of(key: &str) -> Option<usize> {
    key.strip_prefix(HOSTS)?.parse().ok()
}

/// What is written down of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostEntry {
    /// Which life of it.
    pub incarnation: Incarnation,
    /// In which process.
    pub process: u64,
}

/// What is done about another process that has a host's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A later life takes its place.
    First,
    /// It keeps it.
    IfFree,
}

/// Processes from here on are no host's own: they have taken its id.
pub const RIVALS: u64 = 1 << 32;

impl HostEntry {
    /// As bytes.
    pub fn encode(self) -> Bytes {
        [self.incarnation.0.to_be_bytes(), self.process.to_be_bytes()].concat().into()
    }

    /// From what [`HostEntry::encode`] has made.
    pub fn decode(value: &[u8]) -> Self {
        let number = |range: std::ops::Range<usize>| {
            value.get(range).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
        };
        Self { incarnation: Incarnation(number(0..8)), process: number(8..16) }
    }
}

/// The name of the election.
pub const ELECTION: &str = "leader";

/// The key of a candidate.
pub fn leader_key(lease: LeaseId) -> String {
    format!("{ELECTION}/{:x}", lease.0)
}
