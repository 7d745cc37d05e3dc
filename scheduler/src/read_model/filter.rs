//! Which tasks a listing wants, and where it goes on.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use wasmill_protocol::{Digest, TaskState, Timestamp};

use super::row::TaskRow;

/// Which tasks a listing wants: those that match everything that is set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskFilter {
    /// In one of these states; any state when empty.
    pub states: BTreeSet<TaskState>,
    /// Of this module.
    pub module: Option<Digest>,
    /// Of exactly this name.
    pub name: Option<String>,
    /// With all these labels, as key and value.
    pub labels: Vec<(String, String)>,
    /// Created later than this.
    pub created_after: Option<Timestamp>,
    /// Created earlier than this.
    pub created_before: Option<Timestamp>,
}

/// Where a listing goes on. Valid for the same tenant with any filter, for as long as anybody
/// likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub(super) i64);

/// The rest of a listing of all tasks that were there when it began, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    pub(super) next: i64,
    pub(super) last: i64,
}

/// One page of a [`Scan`].
#[derive(Debug, Clone, PartialEq)]
pub struct ScanPage<T = TaskRow> {
    /// Oldest first; can be empty although there are more, as a page examines a bounded number of
    /// tasks.
    pub tasks: Vec<T>,
    /// The rest, if there may be one.
    pub rest: Option<Scan>,
}

/// A text that no listing has given out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a cursor: use the `next` of a listing unchanged")]
pub struct ParseCursorError {
    text: String,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let canonical = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match i64::from_str_radix(text, 16) {
            Ok(row) if canonical => Ok(Self(row)),
            _ => Err(ParseCursorError { text: text.chars().take(80).collect() }),
        }
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T = TaskRow> {
    /// Newest first. Can be fewer than asked for although there are more: a page examines a bounded
    /// number of tasks.
    pub tasks: Vec<T>,
    /// Where the next page begins, if there may be one.
    pub next: Option<Cursor>,
    /// The bytes of the tasks as JSON, about.
    pub shown_bytes: u64,
}

impl<T> Default for ScanPage<T> {
    fn default() -> Self {
        Self { tasks: Vec::new(), rest: None }
    }
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { tasks: Vec::new(), next: None, shown_bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_have_one_spelling() {
        for row in [0, 1, 0x7fff_ffff_ffff_ffff] {
            assert_eq!(Cursor(row).to_string().parse(), Ok(Cursor(row)));
        }
        for wrong in ["", "1", "000000000000000A", "+00000000000000a", "ffffffffffffffff", "00000000000000010"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}
