//! What a guest writes: the result of a command and the captured text, each up to its cap, in constant memory beyond.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::control::{Cause, Control, Stopped};

/// What follows the captured text when there was more of it; not counted in the cap.
pub const TRUNCATION_MARK: &str = "\n[output truncated]\n";

/// Bytes that a guest can write or read in one go; more takes several calls, so that no copy is large.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// After this many bytes a stream lets others run, and lets a stop take effect, also inside one host call.
const YIELD_BYTES: usize = 1024 * 1024;

/// Text up to a cap.
#[derive(Debug)]
struct Captured {
    bytes: Vec<u8>,
    bytes_max: usize,
    truncated: bool,
}

impl Captured {
    fn new(bytes_max: u64) -> Self {
        Self { bytes: Vec::new(), bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX), truncated: false }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.write_at_most(bytes, usize::MAX);
    }

    /// Keeps at most `bytes_max` of it. Gives how many were kept.
    fn write_at_most(&mut self, bytes: &[u8], bytes_max: usize) -> usize {
        let kept = bytes.len().min(self.bytes_max - self.bytes.len()).min(bytes_max);
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.truncated |= kept < bytes.len();
        kept
    }

    fn take(&mut self) -> Bytes {
        let mut bytes = std::mem::take(&mut self.bytes);
        if self.truncated {
            bytes.extend_from_slice(TRUNCATION_MARK.as_bytes());
        }
        bytes.into()
    }
}

/// Everything an attempt wrote. Shared by the streams that WASI owns and the attempt that reads it at the end.
#[derive(Debug, Clone)]
pub(super) struct Output(Arc<Mutex<Written>>);

#[derive(Debug)]
struct Written {
    /// The stdout of a command.
    result: Vec<u8>,
    result_bytes_max: u64,
    /// Everything in the order of writing.
    all: Captured,
    /// All but the stdout of a command.
    apart: Captured,
    /// How much more of a command's stdout `all` takes: half of it, so that stderr, where a program says why it failed, always has room.
    result_captured_left: usize,
}

impl Output {
    /// Nothing written yet.
    pub(super) fn new(result_bytes_max: u64, captured_bytes_max: u64) -> Self {
        Self(Arc::new(Mutex::new(Written {
            result: Vec::new(),
            result_bytes_max,
            all: Captured::new(captured_bytes_max),
            apart: Captured::new(captured_bytes_max),
            result_captured_left: usize::try_from(captured_bytes_max / 2).unwrap_or(usize::MAX),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        // What was written before a panic of ours is still worth showing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the captured text.
    pub(super) fn capture(&self, bytes: &[u8]) {
        let mut written = self.lock();
        written.all.write(bytes);
        written.apart.write(bytes);
    }

    /// Adds to the result. `false`, and nothing is added, when that would be more than the cap.
    fn add_result(&self, bytes: &[u8]) -> bool {
        let mut written = self.lock();
        let left = written.result_captured_left;
        written.result_captured_left -= written.all.write_at_most(bytes, left);
        if (written.result.len() + bytes.len()) as u64 > written.result_bytes_max {
            return false;
        }
        written.result.extend_from_slice(bytes);
        true
    }

    /// What a command wrote to stdout, to be taken once.
    pub(super) fn take_result(&self) -> Bytes {
        std::mem::take(&mut self.lock().result).into()
    }

    /// The captured text, to be taken once. The stdout of a command that succeeded is its result and not repeated here; that of one
    /// that failed is nowhere else.
    pub(super) fn take_captured(&self, succeeded: Succeeded) -> Bytes {
        let mut written = self.lock();
        match succeeded {
            Succeeded::Yes => written.apart.take(),
            Succeeded::No => written.all.take(),
        }
    }
}

/// Whether an attempt succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Succeeded {
    Yes,
    No,
}

/// Where a stream's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Into the captured text.
    Captured,
    /// Into the result, and for a failed attempt into the captured text too.
    Result,
}

/// stdout or stderr of a guest: never blocks, whatever the guest writes.
#[derive(Debug, Clone)]
pub(super) struct OutputPipe {
    output: Output,
    target: Target,
    control: Arc<Control>,
    unyielded: usize,
}

impl OutputPipe {
    pub(super) fn new(output: Output, target: Target, control: Arc<Control>) -> Self {
        Self { output, target, control, unyielded: 0 }
    }
}

impl IsTerminal for OutputPipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for OutputPipe {
    /// Used by WASI 0.3 only, which is not linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for OutputPipe {
    async fn ready(&mut self) {
        if self.unyielded >= YIELD_BYTES {
            self.unyielded = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl OutputStream for OutputPipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(StreamError::trap("the guest wrote more than `check-write` allows"));
        }
        self.unyielded += bytes.len();
        match self.target {
            Target::Captured => self.output.capture(&bytes),
            Target::Result if self.output.add_result(&bytes) => {}
            // Nothing that it does later can make the result smaller.
            Target::Result => {
                self.control.stop(Cause::Output);
                return Err(StreamError::Trap(Stopped.into()));
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK_BYTES_MAX)
    }
}

/// stdin of a guest: the payload, without copying it.
#[derive(Debug, Clone)]
pub(super) struct InputPipe {
    /// Shared by all streams that the guest opens on it.
    rest: Arc<Mutex<Bytes>>,
    unyielded: usize,
}

impl InputPipe {
    pub(super) fn new(payload: Bytes) -> Self {
        Self { rest: Arc::new(Mutex::new(payload)), unyielded: 0 }
    }

    /// Bytes not read yet.
    pub(super) fn bytes_left(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IsTerminal for InputPipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for InputPipe {
    /// Used by WASI 0.3 only, which is not linked.
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for InputPipe {
    async fn ready(&mut self) {
        if self.unyielded >= YIELD_BYTES {
            self.unyielded = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl InputStream for InputPipe {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let mut rest = self.lock();
        if rest.is_empty() {
            return Err(StreamError::Closed);
        }
        let end = size.min(rest.len()).min(CHUNK_BYTES_MAX);
        let bytes = rest.split_to(end);
        drop(rest);
        self.unyielded += bytes.len();
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capture_keeps_the_cap_to_the_byte_and_says_when_there_was_more() {
        for (written, kept, truncated) in [(9, 9, false), (10, 10, false), (11, 10, true), (1000, 10, true)] {
            let mut captured = Captured::new(10);
            (0..written).for_each(|_| captured.write(b"x"));
            let expected = "x".repeat(kept) + if truncated { TRUNCATION_MARK } else { "" };
            assert_eq!(captured.take(), expected);
        }
    }

    #[test]
    fn stdout_is_the_result_or_else_captured() {
        let output = Output::new(4, 100);
        assert!(output.add_result(b"12"));
        output.capture(b"E");
        assert!(output.add_result(b"34"));
        assert!(!output.add_result(b"5"));
        assert_eq!(output.take_captured(Succeeded::Yes), "E");
        assert_eq!(output.take_captured(Succeeded::No), "12E345");
        assert_eq!(output.take_result(), "1234");
    }

    #[test]
    fn stdout_never_crowds_out_stderr() {
        let output = Output::new(1000, 10);
        assert!(output.add_result(b"123456789"));
        output.capture(b"panicked at main.rs");
        assert_eq!(output.take_captured(Succeeded::No), format!("12345panic{TRUNCATION_MARK}"));
    }

    #[test]
    fn stdin_is_one_stream_however_often_it_is_opened() {
        let pipe = InputPipe::new(Bytes::from_static(b"abcdef"));
        let (mut first, mut second) = (pipe.clone(), pipe.clone());
        assert_eq!(first.read(2).unwrap(), "ab");
        assert_eq!(second.read(100).unwrap(), "cdef");
        assert!(matches!(first.read(1), Err(StreamError::Closed)));
        assert_eq!(pipe.bytes_left(), 0);
    }
}
