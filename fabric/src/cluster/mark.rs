//! The mark of the log in etcd, as the log uses it.

use std::time::Duration;

use tokio::sync::Mutex;
use wasmill_protocol::LogSeq;

use super::error::chain;
use super::etcd::EtcdThread;
use super::etcd::mark::LogMark;

/// See [`LogMark`]. etcd may be away: then nothing is known and nothing is left.
pub(super) struct LogEndMark {
    etcd: EtcdThread,
    stream: String,
    /// The mark in etcd, as far as is known.
    written: Mutex<LogSeq>,
}

impl LogEndMark {
    /// How often it is raised.
    pub(super) const INTERVAL: Duration = Duration::from_secs(1);

    pub(super) fn new(etcd: EtcdThread, stream: String) -> Self {
        Self { etcd, stream, written: Mutex::new(LogSeq(0)) }
    }

    /// How far the log went, as others have left it.
    pub(super) async fn read(&self) -> Option<LogSeq> {
        match self.etcd.log_mark().await {
            Ok(mark) => mark.filter(|mark| mark.stream == self.stream).map(|mark| mark.last_seq),
            Err(error) => {
                tracing::warn!("cannot read how far the log went: {}", chain(&error));
                None
            }
        }
    }

    /// Leaves word that the log has gone as far as `seen`.
    pub(super) async fn raise(&self, seen: LogSeq) {
        let mut written = self.written.lock().await;
        if *written >= seen {
            return;
        }
        match self.etcd.raise_log_mark(LogMark { stream: self.stream.clone(), last_seq: seen }).await {
            Ok(mark) => *written = mark.last_seq,
            Err(error) => tracing::debug!("cannot leave word how far the log went: {}", chain(&error)),
        }
    }
}
