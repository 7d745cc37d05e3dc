//! Reading the log from a record on, for ever: through lost connections, servers that restart, and
//! readers that the servers forget.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use bytes::Bytes;
use futures::{StreamExt, stream};
use wasmill_fabric_core::append::Found;
use wasmill_protocol::LogSeq;

use super::stream::{LogStream, StreamError};
use super::{Floor, HEADERS_BYTES_MAX};
use crate::cluster::error::chain;
use crate::{LogError, LogTail};

/// Records that are asked for at once.
const BATCH_RECORDS_MAX: usize = 512;
/// Bytes that are asked for at once, but always enough for two of the largest records.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A request for records is over after this when none come, and then is made again.
const REQUEST_EXPIRES: Duration = Duration::from_secs(20);
/// A server that is silent for two of these has forgotten us.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The wait before the second try; doubles with each.
const RETRY: Duration = Duration::from_millis(50);
/// Where the doubling ends.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// See [`crate::Log::tail`].
pub(super) fn tail(stream: LogStream, floor: Arc<Floor>, from: LogSeq) -> LogTail {
    let tail = Tail { stream, floor, next: from.max(LogSeq(1)), reader: None, failures: 0 };
    stream::unfold(Some(tail), |tail| async move {
        let mut tail = tail?;
        match tail.read_next().await {
            Ok(record) => Some((Ok(record), Some(tail))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

struct Tail {
    stream: LogStream,
    floor: Arc<Floor>,
    next: LogSeq,
    reader: Option<pull::Stream>,
    /// In a row.
    failures: u32,
}

impl Tail {
    async fn read_next(&mut self) -> Result<(LogSeq, Bytes), LogError> {
        loop {
            let Some(reader) = &mut self.reader else {
                self.begin().await?;
                continue;
            };
            let trouble = match reader.next().await {
                Some(Ok(message)) => match message.info().map(|info| LogSeq(info.stream_sequence)) {
                    Ok(seq) if seq == self.next => {
                        self.next = seq.next();
                        self.failures = 0;
                        self.floor.raise(seq);
                        return Ok((seq, message.message.payload));
                    }
                    Ok(seq) if seq < self.next => format!("record {seq} came again"),
                    Ok(seq) => {
                        self.check_gap().await?;
                        format!("record {seq} came instead of {}", self.next)
                    }
                    Err(error) => error.to_string(),
                },
                Some(Err(error)) => chain(&error),
                None => "the reader has ended".to_owned(),
            };
            self.reader = None;
            self.pause(&trouble).await;
        }
    }

    /// Begins to read at `next`, once it is known that nothing before it is missing.
    async fn begin(&mut self) -> Result<(), LogError> {
        let begun = match self.floor.checked_ends(&self.stream, "read").await {
            // The record that was seen last, and no other, must be right before the next one.
            Ok(ends) if self.next < ends.first => return Err(LogError::Missing { seq: self.next }),
            Ok(_) => self.request().await.map_err(|error| error.reason),
            Err(LogError::Unreachable { reason, .. }) => Err(reason),
            Err(error) => return Err(error),
        };
        match begun {
            Ok(reader) => self.reader = Some(reader),
            Err(trouble) => self.pause(&trouble).await,
        }
        Ok(())
    }

    /// A later record has come: either this one was lost on the way, or it is gone.
    async fn check_gap(&self) -> Result<(), LogError> {
        match self.stream.found(self.next).await {
            Found::Nothing | Found::Trimmed => Err(LogError::Missing { seq: self.next }),
            Found::Record(_) | Found::NoAnswer { .. } => Ok(()),
        }
    }

    async fn request(&self) -> Result<pull::Stream, StreamError> {
        let reader = self.stream.reader(self.next).await?;
        let largest = self.stream.context().client().max_payload() + HEADERS_BYTES_MAX;
        let messages = reader
            .stream()
            .max_messages_per_batch(BATCH_RECORDS_MAX)
            .max_bytes_per_batch(BATCH_BYTES_MAX.max(2 * largest))
            .expires(REQUEST_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages();
        messages.await.map_err(|error| StreamError::new(&error))
    }

    async fn pause(&mut self, trouble: &str) {
        if self.failures == 1 {
            tracing::warn!(next = %self.next, "reading the log is interrupted, trying again until it goes on: {trouble}");
        } else {
            tracing::debug!(next = %self.next, failures = self.failures, "reading the log is interrupted: {trouble}");
        }
        let wait = RETRY.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(wait).await;
    }
}
