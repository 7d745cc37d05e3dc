//! The targets, which the tests of `api` include too, so that what was found is tried again in
//! every run.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmill_api::lines::{Cut, Line, Lines};
use wasmill_api::{
    CancelTask, ChangeTenant, CreateTenant, CreateToken, PatchTask, PutAlias, StatusDoc, SubmitTask, TaskDoc,
};
use wasmill_protocol::limits::Caps;
use wasmill_protocol::{Digest, TaskId, TenantName, Timestamp, TraceParent};

/// The first byte says which document the others are.
pub(crate) fn documents(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 10 {
        0 => drop(document::<PutAlias>(bytes)),
        1 => drop(document::<CreateTenant>(bytes)),
        2 => drop(document::<ChangeTenant>(bytes)),
        3 => drop(document::<CreateToken>(bytes)),
        4 => drop(document::<CancelTask>(bytes)),
        5 => drop(document::<PatchTask>(bytes)),
        // A document that a client of this workspace reads.
        6 => drop(document::<TaskDoc>(bytes)),
        7 => drop(document::<StatusDoc>(bytes)),
        8 => names(bytes),
        _ => {
            if let Some(task) = document::<SubmitTask>(bytes) {
                submission(&task);
            }
        }
    }
}

/// A document has one spelling when it is written: two submissions are the same task when they are
/// written alike.
fn document<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let document: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_string(&document).unwrap();
    let again: T = serde_json::from_str(&written).unwrap_or_else(|error| panic!("{error}: {written}"));
    assert_eq!(serde_json::to_string(&again).unwrap(), written);
    Some(document)
}

/// A task that passes the check is within the caps.
fn submission(task: &SubmitTask) {
    let caps = Caps::default();
    if task.check(&caps).is_err() {
        return;
    }
    let payloads = [task.input.is_some(), task.input_text.is_some(), task.input_base64.is_some()];
    assert!(payloads.iter().filter(|given| **given).count() <= 1);
    assert!(task.priority.is_none_or(|priority| (-100..=100).contains(&priority)));
    assert!(task.attempts_max.is_none_or(|attempts| (1..=u64::from(caps.attempts)).contains(&attempts)));
    assert!(task.idempotency_key.as_ref().is_none_or(|key| !key.is_empty() && key.chars().count() <= 128));
    let limits = task.limits.unwrap_or_default();
    assert!(limits.cpu_ms.is_none_or(|cpu_ms| (1..=caps.cpu_ms).contains(&cpu_ms)));
    assert!(limits.memory_bytes.is_none_or(|bytes| (1..=caps.memory_bytes).contains(&bytes)));
    assert!(limits.wall_ms.is_none_or(|wall_ms| (1..=caps.wall_ms).contains(&wall_ms)));
}

/// Every name has one spelling.
fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    spelt::<TaskId>(text, true);
    spelt::<Digest>(text, true);
    spelt::<TenantName>(text, true);
    spelt::<TraceParent>(text, false);
    // Microseconds are not shown.
    spelt::<Timestamp>(&text.parse::<Timestamp>().map(|time| time.to_string()).unwrap_or_default(), true);
}

fn spelt<T: FromStr + Display + PartialEq + Debug>(text: &str, only_so: bool) {
    let Ok(name) = text.parse::<T>() else { return };
    let shown = name.to_string();
    // A UUID may be given in capitals, and is shown in small letters.
    assert!(!only_so || shown.eq_ignore_ascii_case(text), "{shown} {text}");
    assert!(shown.parse::<T>().is_ok_and(|again| again == name), "{shown} is read back");
}

/// However a body comes in chunks, its lines are those that splitting it gives. The first two bytes
/// bound a line and a chunk.
pub(crate) fn lines(bytes: &[u8]) {
    let [line_bytes_max, chunk_bytes_max, body @ ..] = bytes else { return };
    let mut expected = Vec::new();
    for (number, line) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        let long = line.len() > usize::from(*line_bytes_max);
        if long || !line.iter().all(u8::is_ascii_whitespace) {
            expected.push((number, (!long).then(|| line.to_vec())));
        }
    }
    let mut found = Vec::new();
    let mut take = |line: Line| found.push((line.number, line.text.ok().map(|text| text.to_vec())));
    let mut cutter = Lines::new(u64::from(*line_bytes_max));
    for chunk in body.chunks(usize::from(*chunk_bytes_max).max(1)).map(Bytes::copy_from_slice) {
        let mut begin = 0;
        loop {
            match cutter.next(&chunk, begin) {
                Cut::Line(line, end) => {
                    assert!(end > begin);
                    begin = end;
                    take(line);
                }
                Cut::Rest(rest) => {
                    assert!(cutter.bytes_with(&chunk[rest..]) <= u64::from(*line_bytes_max));
                    cutter.keep(&chunk[rest..]);
                    break;
                }
            }
        }
    }
    cutter.finish().into_iter().for_each(take);
    assert_eq!(found, expected);
}
