//! Answers on their way to the client: a bounded buffer between the task that writes them and the
//! response's body.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::stream;
use tokio::sync::Notify;

use crate::memory::MemoryTaken;

/// Chunks in which answers are sent.
const CHUNK_BYTES: usize = 64 * 1024;

/// A pipe that holds up to `bytes_max`, however many writes that is, as far as there is memory.
pub(super) fn answer_pipe(
    bytes_max: usize,
    memory: MemoryTaken,
) -> (AnswerWriter, impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) {
    let state = Mutex::new(State { buffer: BytesMut::new(), memory, ended: false, abandoned: false });
    let pipe = Arc::new(Pipe { state, changed: Notify::new(), room: Notify::new(), bytes_max });
    let reader = AnswerReader(Arc::clone(&pipe));
    let answers = stream::unfold(reader, |reader| async move { reader.next().await.map(|chunk| (Ok(chunk), reader)) });
    (AnswerWriter(pipe), answers)
}

struct Pipe {
    state: Mutex<State>,
    /// There is something to read, or nothing will come any more.
    changed: Notify,
    /// There is room to write, or nobody reads any more.
    room: Notify,
    bytes_max: usize,
}

struct State {
    buffer: BytesMut,
    memory: MemoryTaken,
    ended: bool,
    abandoned: bool,
}

impl Pipe {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes answers; dropping it ends the body.
pub(super) struct AnswerWriter(Arc<Pipe>);

impl AnswerWriter {
    /// Writes `answers` once there is room. Whether anybody reads still.
    pub(super) async fn write(&self, answers: &[u8]) -> bool {
        loop {
            {
                let mut state = self.0.state();
                if state.abandoned {
                    return false;
                }
                // One write may go over the bound, so that it need not be cut.
                let bytes = (state.buffer.len() + answers.len()) as u64;
                if state.buffer.is_empty() || state.buffer.len() < self.0.bytes_max && state.memory.grow(bytes).is_ok()
                {
                    state.buffer.extend_from_slice(answers);
                    drop(state);
                    self.0.changed.notify_one();
                    return true;
                }
            }
            self.0.room.notified().await;
        }
    }
}

impl Drop for AnswerWriter {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_one();
    }
}

struct AnswerReader(Arc<Pipe>);

impl AnswerReader {
    async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.0.state();
                if !state.buffer.is_empty() {
                    let length = state.buffer.len().min(CHUNK_BYTES);
                    let chunk = state.buffer.split_to(length).freeze();
                    let left = state.buffer.len() as u64;
                    state.memory.shrink(left);
                    drop(state);
                    self.0.room.notify_one();
                    return Some(chunk);
                }
                if state.ended {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }
}

impl Drop for AnswerReader {
    fn drop(&mut self) {
        self.0.state().abandoned = true;
        self.0.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use wasmill_protocol::TenantName;

    use super::*;
    use crate::memory::Memory;

    fn memory(bytes: u64) -> MemoryTaken {
        Memory::new(bytes, "answers").of(&TenantName::default_tenant())
    }

    #[tokio::test]
    async fn c27_without_memory_writing_waits_for_the_reader() {
        let (writer, answers) = answer_pipe(usize::MAX, memory(100_000));
        let mut answers = Box::pin(answers);
        assert!(writer.write(&[0; 60_000]).await);
        let mut blocked = Box::pin(writer.write(&[1; 60_000]));
        assert!(blocked.as_mut().now_or_never().is_none());
        assert_eq!(answers.next().await.unwrap().unwrap().len(), 60_000);
        assert!(blocked.await);
    }

    #[tokio::test]
    async fn writing_waits_for_room_and_reading_for_bytes() {
        let (writer, answers) = answer_pipe(4, memory(u64::MAX));
        let mut answers = Box::pin(answers);
        assert!(answers.next().now_or_never().is_none());
        assert!(writer.write(b"abcdef").await);
        {
            let mut blocked = Box::pin(writer.write(b"g"));
            assert!(blocked.as_mut().now_or_never().is_none());
            assert_eq!(answers.next().await, Some(Ok(Bytes::from_static(b"abcdef"))));
            assert!(blocked.await);
        }
        drop(writer);
        assert_eq!(answers.next().await, Some(Ok(Bytes::from_static(b"g"))));
        assert_eq!(answers.next().await, None);
    }

    #[tokio::test]
    async fn a_client_that_went_away_is_noticed_while_waiting_for_room() {
        let (writer, answers) = answer_pipe(1, memory(u64::MAX));
        assert!(writer.write(b"ab").await);
        let waiting = tokio::spawn(async move { writer.write(b"c").await });
        tokio::task::yield_now().await;
        drop(answers);
        assert!(!waiting.await.unwrap());
    }
}
