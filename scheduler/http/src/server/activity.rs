//! The activity of one connection, to notice when there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

/// Counts the requests of one connection.
pub(super) struct Activity {
    asked: AtomicUsize,
    under_way: AtomicUsize,
    /// When it became idle, in milliseconds after `begun`, which all connections have in common.
    idle_since_ms: AtomicU64,
    begun: Instant,
    /// Its place is needed by another connection.
    unwanted: Notify,
    /// The client may have gone, which a byte that is sent would tell.
    doubted: AtomicBool,
}

impl Activity {
    /// Of a connection that is idle from now on.
    pub(super) fn new(begun: Instant) -> Arc<Self> {
        let activity = Self {
            asked: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            idle_since_ms: AtomicU64::new(0),
            begun,
            unwanted: Notify::new(),
            doubted: AtomicBool::new(false),
        };
        activity.idle_from_now();
        Arc::new(activity)
    }

    fn idle_from_now(&self) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle_since_ms.store(ms, Ordering::Relaxed);
    }

    /// Counts a request as under way until what is given back is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Requests until now.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether no request is under way: none has come, all are answered, or one has begun to come.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }

    /// Since when it is idle, in milliseconds of a clock that all connections have in common.
    pub(super) fn idle_since_ms(&self) -> Option<u64> {
        self.is_idle().then(|| self.idle_since_ms.load(Ordering::Relaxed))
    }

    /// Asks the connection to make room.
    pub(super) fn make_room(&self) {
        self.unwanted.notify_one();
    }

    /// Ends when the connection is asked to make room.
    pub(super) async fn is_unwanted(&self) {
        self.unwanted.notified().await;
    }

    /// The client may have gone.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// Whether it was doubted since it was last asked.
    pub(super) fn take_doubt(&self) -> bool {
        self.doubted.load(Ordering::Relaxed) && self.doubted.swap(false, Ordering::Relaxed)
    }
}

/// A request that is under way.
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_from_now();
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
