//! Faults of a server. The caller says when, and how badly.

use wasmill_protocol::Timestamp;

use super::stream::Unsynced;
use super::{JetStream, PublishResult, ServerStatus, Ticket};

/// How the servers go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The process is killed, or the leader of a group is deposed: what was stored stays.
    Killed,
    /// The machine loses power: what was not synced is gone, but for the first `unsynced_kept`
    /// messages of each stream.
    PowerLost {
        /// Messages that had reached the disk by themselves.
        unsynced_kept: u64,
    },
}

impl JetStream {
    /// Nobody answers any more. Of the messages that wait, the first `stored` are stored before,
    /// and nobody is told.
    ///
    /// Returns who is not told, and what became of it: `None` for what was lost.
    pub fn stop(&mut self, now: Timestamp, stop: Stop, stored: usize) -> Vec<(Ticket, Option<PublishResult>)> {
        let mut untold = Vec::new();
        while untold.len() < stored
            && let Some((ticket, result)) = self.store_next(now)
        {
            untold.push((ticket, Some(result)));
        }
        untold.extend(self.queue.drain(..).map(|received| (received.ticket, None)));
        let unsynced = match stop {
            Stop::Killed => Unsynced::Kept,
            Stop::PowerLost { unsynced_kept } => Unsynced::KeptInPart(unsynced_kept),
        };
        self.streams.values_mut().for_each(|stream| stream.stop(unsynced));
        self.standing = ServerStatus::Down;
        untold
    }

    /// The servers answer again. A disk that is still full keeps JetStream shut down.
    pub fn start(&mut self, now: Timestamp) {
        self.streams.values_mut().for_each(|stream| stream.start(now));
        self.standing = if self.disk_full { ServerStatus::Disabled } else { ServerStatus::Up };
    }

    /// Everything that is stored is on the disk now: what a server with
    /// [`Sync::Interval`](super::Sync::Interval) does every two minutes.
    pub fn sync(&mut self) {
        self.streams.values_mut().for_each(super::Stream::sync);
    }

    /// The disk is full from now on: the next message to be stored fails, and JetStream is shut
    /// down.
    pub fn fill_disk(&mut self) {
        self.disk_full = true;
    }

    /// There is space again. JetStream stays shut down until the server is started anew.
    pub fn free_disk(&mut self) {
        self.disk_full = false;
    }

    /// The disk is full (`handleOutOfSpace`): nothing of JetStream answers any more, while the
    /// process goes on.
    pub(super) fn disable(&mut self) {
        self.standing = ServerStatus::Disabled;
        // Of those that wait nobody is told anything.
        self.queue.clear();
        self.streams.values_mut().for_each(|stream| stream.stop(Unsynced::Kept));
    }

    /// Loses everything of a stream after `last` although it was acknowledged: beyond what
    /// JetStream promises, and seen with lazy syncs and with replicas that came back empty.
    pub fn lose_suffix(&mut self, stream: &str, last: u64) {
        self.queue.clear();
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.cut(last);
        }
    }

    /// Loses one message in the middle, as a damaged block does. Answers whether there was one to
    /// lose.
    pub fn lose_message(&mut self, stream: &str, seq: u64) -> bool {
        self.streams.get_mut(stream).is_some_and(|stream| stream.lose(seq))
    }

    /// Changes one byte of a message where it is stored. Answers whether there was one to change.
    pub fn flip_byte(&mut self, stream: &str, seq: u64, at: usize) -> bool {
        self.streams.get_mut(stream).is_some_and(|stream| stream.flip_byte(seq, at))
    }

    /// A stream is gone with everything in it, as if somebody had deleted it.
    pub fn lose_stream(&mut self, stream: &str) {
        self.streams.remove(stream);
        self.queue.retain(|received| received.stream != stream);
    }
}
