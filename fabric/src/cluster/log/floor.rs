//! How far the log has been seen to go. A stream that ends before that has lost records, and then
//! nothing must go on.
//!
//! A server that has fallen behind, or that has not found its data yet, can say the same for a
//! moment; so it is asked again before anything is concluded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use wasmill_protocol::LogSeq;

use super::stream::{LogStream, StreamEnds, StreamError};
use crate::LogError;
use crate::cluster::mark::LogEndMark;

/// How often a server is asked before it is believed that records are gone.
const LOOKS: u32 = 8;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(400);

/// The highest record that was ever seen: by this process, or by others that have left a mark.
pub(in crate::cluster) struct Floor {
    seen: AtomicU64,
    raised: Notify,
    mark: LogEndMark,
}

impl Floor {
    /// Begins with the mark that others have left.
    pub(in crate::cluster) fn new(mark: LogEndMark, seen: LogSeq) -> Arc<Self> {
        let floor = Arc::new(Self { seen: AtomicU64::new(seen.0), raised: Notify::new(), mark });
        tokio::spawn(leave_marks(Arc::downgrade(&floor)));
        floor
    }

    /// A record was seen, and is durable.
    pub(super) fn raise(&self, seen: LogSeq) {
        if self.seen.fetch_max(seen.0, Ordering::Relaxed) < seen.0 {
            self.raised.notify_one();
        }
    }

    /// The highest record that was seen.
    pub(super) fn seen(&self) -> LogSeq {
        LogSeq(self.seen.load(Ordering::Relaxed))
    }

    /// Takes in what others have seen. Without an answer what is known has to do.
    pub(super) async fn refresh(&self) {
        if let Some(seen) = self.mark.read().await {
            self.seen.fetch_max(seen.0, Ordering::Relaxed);
        }
    }

    /// Where the stream begins and ends, when that is not before what was seen.
    pub(super) async fn checked_ends(&self, stream: &LogStream, action: &'static str) -> Result<StreamEnds, LogError> {
        for look in 1.. {
            let floor = self.seen();
            let reason = match stream.ends().await {
                Ok(ends) if ends.last >= floor => return Ok(ends),
                Ok(ends) => {
                    format!("record {floor} was durable, and stream `{}` ends at {}", stream.name(), ends.last)
                }
                Err(StreamError { gone: true, reason }) => {
                    format!("stream `{}` is gone: {reason}", stream.name())
                }
                Err(StreamError { gone: false, reason }) => return Err(LogError::Unreachable { action, reason }),
            };
            if look == LOOKS {
                return Err(LogError::Storage { action, reason });
            }
            tokio::time::sleep(LOOK).await;
        }
        unreachable!("the loop has no end of its own");
    }
}

/// Tells others how far the log goes, about once a second while it grows.
async fn leave_marks(floor: std::sync::Weak<Floor>) {
    loop {
        let Some(strong) = floor.upgrade() else { return };
        strong.mark.raise(strong.seen()).await;
        // While this waits the floor is held, so the task ends with the last record.
        let raised = strong.raised.notified();
        let _ = tokio::time::timeout(LogEndMark::INTERVAL, raised).await;
        drop(strong);
        tokio::time::sleep(LogEndMark::INTERVAL).await;
    }
}
