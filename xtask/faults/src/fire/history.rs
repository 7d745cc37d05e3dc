//! Requests, answers and faults, as lines of JSON: all that the checker goes
//! by.
//!
//! Every thread appends to a file of its own. A question is written before it is sent, so that one
//! without an answer is in the history too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The extension of files of lines.
const SUFFIX: &str = "jsonl";

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// A client is about to ask.
    Asked { op: u64, node: String, at_us: u64, call: Call },
    /// It has heard of it. When it never does there is no such line.
    Answered { op: u64, at_us: u64, answer: Answer },
    /// A process was started.
    Started { member: String, at_us: u64 },
    /// A process has ended although nobody wanted it to.
    EndedByItself { member: String, at_us: u64, how: String },
    /// Something was done to the cluster; for people.
    Fault { at_us: u64, what: String },
    /// A task as a node shows it at the end.
    Listed { node: String, seen: Seen },
    /// A task with its output, and what happened to it, as one of the nodes shows them at the end.
    Shown { node: String, seen: Seen, happened: Vec<Happened> },
    /// The queue and the hosts at the end, by one node.
    Idle { node: String, unfinished: u64, slots_used: u64 },
}

/// A request to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    Submit(Order),
    Bulk(Vec<Order>),
    Run(Order),
    Retry { task: String, key: String },
    Cancel { task: String },
    Get { task: String },
}

/// A task that somebody wants, and how it may end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The idempotency key, if it has one.
    pub(crate) key: Option<String>,
    /// Its name, which no other order has; none for a run.
    pub(crate) name: Option<String>,
    /// `succeeded`, `cancelled` or the kind of a failed outcome: whatever else is a fault of ours.
    pub(crate) ends: Vec<String>,
    /// A place in the output of a task that succeeded, as a JSON pointer, and what must be there.
    pub(crate) output: Option<(String, Value)>,
}

/// The answer of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// A task, with 200, 201 or 202.
    Task { status: u16, seen: Seen },
    /// To each line of a bulk submission.
    Lines(Vec<LineAnswer>),
    /// The end of a run that was accepted, and its output if it succeeded.
    RunEnded { task: String, ended_as: String, output: Option<Value> },
    /// No, and nothing has changed.
    Refused { status: u16, code: String },
    /// Nobody knows: the connection broke, it took too long, or the node does not know either.
    Unknown { why: String },
}

/// The answer to one line of a bulk submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LineAnswer {
    Accepted { task: String },
    Refused { status: u16, code: String },
    Unknown,
}

/// A task as it was seen once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) task: String,
    pub(crate) state: String,
    /// For a final state: `succeeded`, `cancelled`, `skipped`, or why it failed.
    pub(crate) ended_as: Option<String>,
    pub(crate) attempt: u64,
    pub(crate) name: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) retry_of: Option<String>,
    pub(crate) finished_at: Option<String>,
    pub(crate) output: Option<Value>,
}

/// One entry of a task's own history.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Happened {
    pub(crate) event: String,
    pub(crate) attempt: Option<u64>,
    /// The state that follows, when this entry decides it.
    pub(crate) state: Option<String>,
}

impl Seen {
    /// Reads the document of a task.
    pub(crate) fn of(document: &Value) -> Option<Self> {
        let text = |field: &str| document[field].as_str().map(str::to_owned);
        let (task, state) = (text("id")?, text("state")?);
        let ended_as = match state.as_str() {
            "failed" => Some(
                document["outcome"]["kind"].as_str().or(document["reason"].as_str()).unwrap_or("failed").to_owned(),
            ),
            state => is_final(state).then(|| state.to_owned()),
        };
        Some(Self {
            task,
            ended_as,
            state,
            attempt: document["attempt"].as_u64().unwrap_or(0),
            name: text("name"),
            key: text("idempotency_key"),
            retry_of: text("retry_of"),
            finished_at: text("finished_at"),
            output: document.get("output").filter(|output| !output.is_null()).cloned(),
        })
    }

    pub(crate) fn is_final(&self) -> bool {
        is_final(&self.state)
    }
}

impl Happened {
    /// Reads the document of a task's history.
    pub(crate) fn all_of(document: &Value) -> Vec<Self> {
        let read = |entry: &Value| Self {
            event: entry["event"].as_str().unwrap_or_default().to_owned(),
            attempt: entry["attempt"].as_u64(),
            state: entry["state"].as_str().map(str::to_owned),
        };
        document["items"].as_array().map(|entries| entries.iter().map(read).collect()).unwrap_or_default()
    }
}

/// Whether a state never changes.
pub(crate) fn is_final(state: &str) -> bool {
    ["succeeded", "failed", "cancelled", "skipped"].contains(&state)
}

/// Time since the beginning, the same for everybody.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(pub(crate) Instant);

impl Clock {
    pub(crate) fn now_us(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).expect("no run takes half a million years")
    }
}

/// Writes lines into a file.
pub(crate) struct Writer(File);

impl Writer {
    /// Creates `DIR/NAME.jsonl`.
    pub(crate) fn create(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name).with_extension(SUFFIX);
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(file))
    }

    /// Appends a line, at once and with one write.
    pub(crate) fn line(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line).context("a line cannot be written as JSON")?;
        text.push('\n');
        self.0.write_all(text.as_bytes()).context("cannot write into the history")
    }
}

/// Every line of a directory, by the name of its file.
pub(crate) fn read(dir: &Path) -> Result<BTreeMap<String, Vec<Line>>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        if path.extension().is_none_or(|extension| extension != SUFFIX) {
            continue;
        }
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut lines = Vec::new();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let shown = || format!("line {} of {}", number + 1, path.display());
            let line = line.with_context(shown)?;
            lines.push(serde_json::from_str(&line).with_context(shown)?);
        }
        let name = path.file_stem().expect("it has a suffix").to_string_lossy().into_owned();
        files.insert(name, lines);
    }
    Ok(files)
}
