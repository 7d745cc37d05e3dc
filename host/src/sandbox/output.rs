//! The output of a guest: the result of a command and the captured text, each up to its cap, in
//! constant memory beyond.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::control::{Cause, Control, Stopped};

/// The mark after captured text when there was more of it; not counted in the cap.
pub const TRUNCATION_MARK: &str = "\n[output truncated]\n";

/// Bytes that a guest can write or read in one go; more takes several calls, so that no copy is
/// large.
pub(super) const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// After this many bytes a stream lets others run, and lets a stop take effect, also inside one
/// host call.
pub(super) const YIELD_BYTES: usize = 1024 * 1024;

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

    /// Keeps what there is room for; when that is not all, up to the end of a character, and
    /// nothing from then on.
    fn write(&mut self, bytes: &[u8]) {
        let left = self.bytes_max - self.bytes.len();
        if bytes.len() <= left {
            self.bytes.extend_from_slice(bytes);
            return;
        }
        self.bytes.extend_from_slice(&bytes[..left]);
        self.truncated = true;
        self.drop_begun_character();
        self.bytes_max = self.bytes.len();
    }

    /// Takes away a character of which the last bytes are missing. Other bytes are the guest's and
    /// stay.
    fn drop_begun_character(&mut self) {
        const CHARACTER_BYTES_MAX: usize = 4;
        let last = self.bytes.iter().rev().take(CHARACTER_BYTES_MAX - 1).position(|byte| byte & 0xc0 != 0x80);
        let Some(start) = last.map(|back| self.bytes.len() - 1 - back) else { return };
        if std::str::from_utf8(&self.bytes[start..]).is_err_and(|error| error.error_len().is_none()) {
            self.bytes.truncate(start);
        }
    }

    fn take(&mut self) -> Bytes {
        let mut bytes = std::mem::take(&mut self.bytes);
        if self.truncated {
            bytes.extend_from_slice(TRUNCATION_MARK.as_bytes());
        }
        bytes.into()
    }
}

/// Everything an attempt wrote. Shared by the streams that WASI owns and the attempt that reads it
/// at the end.
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
    /// How much more of a command's stdout `all` takes: half of it, so that stderr, where a program
    /// says why it failed, always has room.
    result_captured_left: usize,
    /// Whether the last bytes of `all` are a command's stdout, so that a character that they begin
    /// is the one to go on with.
    result_last: bool,
}

impl Written {
    fn capture(&mut self, bytes: &[u8]) {
        self.all.write(bytes);
        self.apart.write(bytes);
        self.result_last &= bytes.is_empty();
    }

    /// Adds as much of a command's stdout to the captured text as it has a share of.
    fn capture_result(&mut self, bytes: &[u8]) {
        let left = self.result_captured_left;
        if bytes.len() <= left {
            self.all.write(bytes);
            self.result_captured_left -= bytes.len();
            self.result_last |= !bytes.is_empty();
            return;
        }
        self.all.write(&bytes[..left]);
        if left > 0 || self.result_last {
            self.all.drop_begun_character();
        }
        self.all.truncated = true;
        self.result_captured_left = 0;
        self.result_last = false;
    }
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
            result_last: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        // Output before a panic of ours is still worth showing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the captured text.
    pub(super) fn capture(&self, bytes: &[u8]) {
        self.lock().capture(bytes);
    }

    /// Adds to the result. `false`, and nothing is added, when that would be more than the cap.
    fn add_result(&self, bytes: &[u8]) -> bool {
        let mut written = self.lock();
        written.capture_result(bytes);
        if (written.result.len() + bytes.len()) as u64 > written.result_bytes_max {
            return false;
        }
        written.result.extend_from_slice(bytes);
        true
    }

    /// Adds to what `target` says. A guest whose result becomes too large is stopped.
    ///
    /// # Errors
    ///
    /// [`Stopped`] then: nothing that the guest does later can make the result smaller.
    pub(super) fn write(&self, target: Target, bytes: &[u8], control: &Control) -> Result<(), Stopped> {
        match target {
            Target::Captured => self.capture(bytes),
            Target::Result if self.add_result(bytes) => {}
            Target::Result => {
                control.stop(Cause::Output);
                return Err(Stopped);
            }
        }
        Ok(())
    }

    /// The stdout of a command, to be taken once.
    pub(super) fn take_result(&self) -> Bytes {
        std::mem::take(&mut self.lock().result).into()
    }

    /// The captured text, to be taken once. Stdout that is the result is not repeated here; that of
    /// a command which was stopped is nowhere else.
    pub(super) fn take_captured(&self, stdout: Stdout) -> Bytes {
        let mut written = self.lock();
        match stdout {
            Stdout::Result => written.apart.take(),
            Stdout::Captured => written.all.take(),
        }
    }
}

/// The use of a guest's stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stdout {
    /// It is the result.
    Result,
    /// It is shown with what the guest wrote to stderr.
    Captured,
}

/// Where a stream's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Into the captured text.
    Captured,
    /// Into the result, or into the captured text when there is none.
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
        let written = self.output.write(self.target, &bytes, &self.control);
        written.map_err(|stopped| StreamError::Trap(stopped.into()))
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

    /// The next bytes, at most so many; none at the end.
    pub(super) fn take(&self, bytes_max: usize) -> Bytes {
        let mut rest = self.lock();
        let end = bytes_max.min(rest.len());
        rest.split_to(end)
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
        let bytes = self.take(size.min(CHUNK_BYTES_MAX));
        // A read into nothing is no end: what comes is read later.
        if bytes.is_empty() && self.bytes_left() == 0 {
            return Err(StreamError::Closed);
        }
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
        assert_eq!(output.take_captured(Stdout::Result), "E");
        assert_eq!(output.take_captured(Stdout::Captured), "12E345");
        assert_eq!(output.take_result(), "1234");
    }

    #[test]
    fn stdout_never_crowds_out_stderr() {
        let output = Output::new(1000, 10);
        assert!(output.add_result(b"123456789"));
        output.capture(b"panicked at main.rs");
        assert_eq!(output.take_captured(Stdout::Captured), format!("12345panic{TRUNCATION_MARK}"));
    }

    #[test]
    fn text_is_cut_between_characters() {
        // 10 bytes: three euro signs of three bytes each, and one byte of the fourth.
        for piece in [1, 2, 3, 5, 7, 100] {
            let mut captured = Captured::new(10);
            "€".repeat(9).as_bytes().chunks(piece).for_each(|bytes| captured.write(bytes));
            assert_eq!(captured.take(), format!("€€€{TRUNCATION_MARK}"), "pieces of {piece}");
        }
        for (written, kept) in [
            (&b"12345678\xf0\x9f\x98\x80"[..], &b"12345678"[..]),
            (b"1234567\xf0\x9f\x98\x80", b"1234567"),
            (b"123456\xf0\x9f\x98\x80", b"123456\xf0\x9f\x98\x80"),
            // Bytes that were never a character stay as they are.
            (b"12345678\x80\x80\x80", b"12345678\x80\x80"),
            (b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"),
            (b"123456789\xffx", b"123456789\xff"),
        ] {
            let mut captured = Captured::new(10);
            captured.write(written);
            let truncated = captured.truncated;
            assert_eq!(captured.take()[..kept.len()], *kept, "{written:?}");
            assert_eq!(truncated, kept.len() < written.len(), "{written:?}");
        }
    }

    #[test]
    fn nothing_follows_what_was_cut() {
        let mut captured = Captured::new(10);
        captured.write("123456789€".as_bytes());
        captured.write(b"x");
        assert_eq!(captured.take(), format!("123456789{TRUNCATION_MARK}"));
    }

    #[test]
    fn the_share_of_stdout_ends_between_characters_too() {
        for piece in [1, 2, 3, 100] {
            let output = Output::new(1000, 20);
            "€".repeat(9).as_bytes().chunks(piece).for_each(|bytes| assert!(output.add_result(bytes)));
            output.capture(b"E");
            assert!(output.add_result(b"more"));
            assert_eq!(output.take_captured(Stdout::Captured), format!("€€€E{TRUNCATION_MARK}"), "pieces of {piece}");
        }
        // Half a character of stderr is not for stdout to take away.
        let output = Output::new(1000, 8);
        assert!(output.add_result(b"1234"));
        output.capture(&"€".as_bytes()[..1]);
        assert!(output.add_result(b"5"));
        output.capture(&"€".as_bytes()[1..]);
        assert_eq!(output.take_captured(Stdout::Captured), format!("1234€{TRUNCATION_MARK}"));
    }

    #[test]
    fn a_read_into_nothing_is_neither_an_end_nor_an_interruption() {
        let mut pipe = InputPipe::new(Bytes::from_static(b"ab"));
        assert_eq!(pipe.read(0).unwrap(), "");
        assert_eq!(pipe.read(9).unwrap(), "ab");
        assert!(matches!(pipe.read(0), Err(StreamError::Closed)));
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
