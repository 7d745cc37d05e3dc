//! Lines of a body, whose unfinished one counts towards the memory of all bodies.

use bytes::Bytes;
use wasmill_api::lines::{self, Cut, LineTooLong};

use crate::memory::MemoryTaken;
use crate::problem::{Code, Fault, Handled};

/// Cuts chunks into lines.
pub(super) struct Lines {
    cutter: lines::Lines,
    memory: MemoryTaken,
}

/// One line without its end, or why it is not taken.
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    /// The text.
    pub(super) text: Handled<Bytes>,
}

impl Lines {
    /// Nothing was read yet.
    pub(super) fn new(line_bytes_max: u64, memory: MemoryTaken) -> Self {
        Self { cutter: lines::Lines::new(line_bytes_max), memory }
    }

    /// The number of the last line.
    pub(super) fn number(&self) -> u64 {
        self.cutter.number()
    }

    /// Bytes of the line that is not whole yet.
    pub(super) fn partial(&self) -> usize {
        self.cutter.partial()
    }

    /// The next line that ends in `chunk` at or after `begin`, and where it ends. The last,
    /// unfinished one is kept.
    ///
    /// # Errors
    ///
    /// When there is no memory for the unfinished line.
    pub(super) fn next(&mut self, chunk: &Bytes, begin: usize) -> Handled<Option<(Line, usize)>> {
        match self.cutter.next(chunk, begin) {
            Cut::Line(line, end) => Ok(Some((line.into(), end))),
            Cut::Rest(rest) => {
                let rest = &chunk[rest..];
                // A buffer that grows has up to twice the bytes.
                self.memory.grow(self.cutter.bytes_with(rest) * 2)?;
                self.cutter.keep(rest);
                Ok(None)
            }
        }
    }

    /// The last line, when the body does not end with a line end.
    pub(super) fn rest(&mut self) -> Option<Line> {
        self.cutter.finish().map(Line::from)
    }
}

impl From<lines::Line> for Line {
    fn from(line: lines::Line) -> Self {
        let refused = |error: LineTooLong| Fault::new(Code::BodyTooLarge, error.to_string()).limit(error.bytes_max);
        Self { number: line.number, text: line.text.map_err(refused) }
    }
}
