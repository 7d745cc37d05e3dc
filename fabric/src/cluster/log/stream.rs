//! The stream of the log: how it is made, what is checked of it, and what is asked of it.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{self, AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::context::Context;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PersistenceMode, RawMessageErrorKind, RetentionPolicy, StorageType, Stream,
};
use futures::TryFutureExt;
use thiserror::Error;
use wasmill_fabric_core::append::{Found, MessageId};
use wasmill_protocol::{LogSeq, Timestamp};

use crate::LogError;
use crate::cluster::error::{ConnectError, cannot_open, chain, refusal};

/// How long the servers remember the ids of appends: longer than an append is tried. An older
/// append is read back.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(20);
/// In front of the stream's own id, which is kept in its description.
const DESCRIPTION: &str = "the log of a Wasmill cluster, id ";
/// A reader that is gone is forgotten by the servers after this.
const READER_FORGOTTEN: Duration = Duration::from_secs(60);

/// One stream; cheap to clone.
#[derive(Clone)]
pub(in crate::cluster) struct LogStream {
    context: Context,
    stream: Stream,
    subject: String,
    id: String,
}

/// Where a stream begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamEnds {
    /// The first record; one more than the last when there is none.
    pub(super) first: LogSeq,
    /// The last record.
    pub(super) last: LogSeq,
}

/// The settings that a stream is made with.
pub(in crate::cluster) struct StreamOptions {
    /// Its name.
    pub(in crate::cluster) name: String,
    /// The subject of its messages.
    pub(in crate::cluster) subject: String,
    /// How many servers keep it.
    pub(in crate::cluster) replicas: usize,
    /// How large it may become.
    pub(in crate::cluster) bytes_max: Option<u64>,
    /// The id of a new one.
    pub(in crate::cluster) id: String,
    /// The servers, for people.
    pub(in crate::cluster) urls: Vec<String>,
}

/// Finds the stream, or makes it where `may_create`.
pub(in crate::cluster) async fn open_or_create(
    context: Context,
    options: StreamOptions,
    may_create: bool,
) -> Result<Option<LogStream>, ConnectError> {
    let urls = options.urls.clone();
    let failed = |error: &dyn std::error::Error| cannot_open("open the stream of the log", &urls, error);
    let (name, subject) = (options.name.clone(), options.subject.clone());
    let stream = match context.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) if refusal(&error) != Some(ErrorCode::STREAM_NOT_FOUND) => return Err(failed(&error)),
        Err(_) if !may_create => return Ok(None),
        Err(_) => match context.create_stream(config(options)).await {
            Ok(stream) => stream,
            // Another control node was faster.
            Err(error) if refusal(&error) == Some(ErrorCode::STREAM_NAME_EXIST) => {
                context.get_stream(&name).await.map_err(|error| failed(&error))?
            }
            Err(error) => return Err(failed(&error)),
        },
    };
    let id = check(&name, &subject, &stream.cached_info().config)?;
    Ok(Some(LogStream { context, stream, subject, id }))
}

fn config(options: StreamOptions) -> Config {
    Config {
        name: options.name,
        subjects: vec![options.subject],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_bytes: options.bytes_max.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        storage: StorageType::File,
        num_replicas: options.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        description: Some(format!("{DESCRIPTION}{}", options.id)),
        deny_delete: true,
        // A copy that has fallen behind would answer.
        allow_direct: false,
        ..Config::default()
    }
}

/// Checks the settings that somebody may have changed; gives the stream's id.
fn check(name: &str, subject: &str, config: &Config) -> Result<String, ConnectError> {
    let wrong = |found: &str| ConnectError::Misconfigured { stream: name.to_owned(), found: found.to_owned() };
    let id = config.description.as_deref().and_then(|text| text.strip_prefix(DESCRIPTION));
    let id = id.ok_or_else(|| wrong("its description does not begin with that of a log"))?;
    let found = if config.subjects != [subject] {
        "it does not take exactly the records of this cluster"
    } else if config.retention != RetentionPolicy::Limits {
        "its retention is not `limits`"
    } else if config.discard != DiscardPolicy::New {
        "it discards old records"
    } else if config.max_messages > 0 || config.max_messages_per_subject > 0 || !config.max_age.is_zero() {
        "records are removed by their number or age"
    } else if config.storage != StorageType::File {
        "it is kept in memory"
    } else if config.allow_direct {
        "it is read from copies that may have fallen behind"
    } else if config.no_ack || config.sealed {
        "it does not acknowledge records"
    } else {
        return Ok(id.to_owned());
    };
    Err(wrong(found))
}

impl LogStream {
    /// Its own id: another stream of the same name has another one.
    pub(in crate::cluster) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    pub(super) fn name(&self) -> &str {
        &self.stream.cached_info().config.name
    }

    /// The facts about it when it was opened.
    pub(in crate::cluster) fn info(&self) -> &Info {
        self.stream.cached_info()
    }

    /// Whether it would lose records that it has acknowledged when its server loses power.
    pub(in crate::cluster) fn is_async(&self) -> bool {
        self.info().config.persist_mode == Some(PersistenceMode::Async)
    }

    /// Whether one server is known to keep it alone.
    pub(super) async fn is_kept_alone(&self) -> bool {
        self.stream.get_info().await.is_ok_and(|info| info.config.num_replicas == 1)
    }

    /// Asks the server that decides about appends. The error says whether there is no such stream.
    pub(super) async fn ends(&self) -> Result<StreamEnds, StreamError> {
        let info = self.stream.get_info().await.map_err(|error| StreamError::new(&error))?;
        if info.config.description != self.info().config.description {
            return Err(StreamError { gone: true, reason: "another stream is in its place".to_owned() });
        }
        let last = LogSeq(info.state.last_sequence);
        let first = if info.state.messages == 0 { last.next() } else { LogSeq(info.state.first_sequence) };
        Ok(StreamEnds { first, last })
    }

    /// The time of the server that decides about appends. NATS says so since 2.10.
    pub(super) async fn servers_time(&self) -> Result<Option<Timestamp>, LogError> {
        #[derive(serde::Deserialize)]
        struct ServerAnswer {
            ts: Option<String>,
        }
        let failed = |reason| LogError::Unreachable { action: "ask for the time of", reason };
        let asked = format!("STREAM.INFO.{}", self.name());
        match self.context.request::<_, _, Response<ServerAnswer>>(asked, &serde_json::json!({})).await {
            Ok(Response::Ok(told)) => Ok(told.ts.and_then(|ts| ts.parse().ok())),
            Ok(Response::Err { error }) => Err(failed(error.to_string())),
            Err(error) => Err(failed(chain(&error))),
        }
    }

    /// The record of a sequence number, by the server that decides about appends.
    pub(super) async fn found(&self, seq: LogSeq) -> Found {
        match self.stream.get_raw_message(seq.0).await {
            Ok(message) => {
                let id = message.headers.get(async_nats::header::NATS_MESSAGE_ID);
                Found::Record(id.and_then(|id| id.as_str().parse::<MessageId>().ok()))
            }
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => match self.ends().await {
                Ok(ends) if seq < ends.first => Found::Trimmed,
                Ok(_) => Found::Nothing,
                Err(error) => Found::NoAnswer { reason: error.reason },
            },
            Err(error) => Found::NoAnswer { reason: chain(&error) },
        }
    }

    /// Removes the records up to and including `to`, which must be there.
    pub(super) async fn purge(&self, to: LogSeq) -> Result<(), LogError> {
        let purged = self.stream.purge().sequence(to.next().0).into_future();
        purged.map_err(|error| LogError::Unreachable { action: "trim", reason: chain(&error) }).await?;
        Ok(())
    }

    /// A reader that begins at `from`.
    pub(super) async fn reader(&self, from: LogSeq) -> Result<Consumer<consumer::pull::Config>, StreamError> {
        let config = consumer::pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.0 },
            ack_policy: AckPolicy::None,
            inactive_threshold: READER_FORGOTTEN,
            memory_storage: true,
            num_replicas: 1,
            ..consumer::pull::Config::default()
        };
        self.stream.create_consumer(config).await.map_err(|error| StreamError::new(&error))
    }
}

/// The stream could not be asked.
#[derive(Debug, Clone, Error)]
#[error("{reason}")]
pub(super) struct StreamError {
    /// The server says that there is no such stream.
    pub(super) gone: bool,
    /// The failure.
    pub(super) reason: String,
}

impl StreamError {
    pub(super) fn new(error: &dyn std::error::Error) -> Self {
        Self { gone: refusal(error) == Some(ErrorCode::STREAM_NOT_FOUND), reason: chain(error) }
    }
}
