//! Whether an attempt that was run again did what was recorded.

use bytes::Bytes;
use serde::Serialize;
use wasmill_api::OutcomeDoc;
use wasmill_protocol::OutcomeKind;

use crate::commands::describe;
use crate::units::show_bytes;

/// The end of an attempt, recorded or just now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Came {
    /// How it ended.
    pub(super) outcome: OutcomeDoc,
    /// The fuel that it used, when that was counted.
    pub(super) fuel: Option<u64>,
    /// Its result, when there is one.
    pub(super) output: Option<Bytes>,
}

/// How much is recorded of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// Everything: it is the latest one.
    Whole,
    /// Kind, the beginning of the message, and fuel: a later attempt followed.
    Brief,
}

/// Something that is not as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// `outcome`, `backtrace`, `fuel` or `output`.
    pub(super) what: &'static str,
    pub(super) recorded: String,
    pub(super) now: String,
}

/// Everything that is not as it was recorded.
pub(super) fn differences(record: Record, recorded: &Came, now: &Came) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut differ = |what, recorded, now| differences.push(Difference { what, recorded, now });
    if !same_outcome(record, &recorded.outcome, &now.outcome) {
        differ("outcome", describe::headline(&recorded.outcome), describe::headline(&now.outcome));
    }
    if record == Record::Whole && recorded.outcome.backtrace != now.outcome.backtrace {
        differ("backtrace", frames(&recorded.outcome), frames(&now.outcome));
    }
    if let Some(fuel) = recorded.fuel.filter(|_| !is_timed(recorded.outcome.kind))
        && now.fuel != Some(fuel)
    {
        differ("fuel", fuel.to_string(), now.fuel.map_or_else(|| "none".to_owned(), |fuel| fuel.to_string()));
    }
    if record == Record::Whole && recorded.output != now.output {
        differ("output", describe_output(recorded.output.as_ref()), describe_output(now.output.as_ref()));
    }
    differences
}

fn same_outcome(record: Record, recorded: &OutcomeDoc, now: &OutcomeDoc) -> bool {
    match record {
        Record::Whole => {
            // Servers did not always record the code of a success.
            let unrecorded = recorded.kind == OutcomeKind::Succeeded && recorded.exit_code.is_none();
            let same_code = unrecorded || recorded.exit_code == now.exit_code;
            same_code && (recorded.kind, recorded.trap, &recorded.message) == (now.kind, now.trap, &now.message)
        }
        Record::Brief => recorded.kind == now.kind && now.message.starts_with(&recorded.message),
    }
}

fn frames(outcome: &OutcomeDoc) -> String {
    outcome.backtrace.as_ref().map_or_else(|| "none".to_owned(), |frames| frames.join(" < "))
}

fn describe_output(output: Option<&Bytes>) -> String {
    output.map_or_else(
        || "none".to_owned(),
        |output| format!("{}, {}", show_bytes(output.len() as u64), super::digest(output)),
    )
}

/// Whether a clock has ended the attempt, so that how far it came is chance.
fn is_timed(kind: OutcomeKind) -> bool {
    matches!(kind, OutcomeKind::CpuExceeded | OutcomeKind::DeadlineExceeded) || is_foreign(kind)
}

/// Whether the outcome says nothing of the guest.
fn is_foreign(kind: OutcomeKind) -> bool {
    use OutcomeKind::{Cancelled, HostFault, HostLost, Returned};
    matches!(kind, Cancelled | HostFault | HostLost | Returned)
}

/// Notes on a comparison.
pub(super) fn notes(deterministic: bool, recorded: OutcomeKind, same: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if is_foreign(recorded) {
        notes.push(format!("`{}` came from outside of the guest, and this run need not end in it", recorded.as_str()));
    } else if is_timed(recorded) {
        notes.push(
            "a limit on time ended the attempt: how far the guest came, and its fuel, depend on the machine".to_owned(),
        );
    }
    if !deterministic {
        notes.push(
            "the task is not deterministic: its clock and its randomness are real, and whatever follows from them may differ; \
             `--deterministic` at submission makes every run the same"
                .to_owned(),
        );
    } else if !same && !is_timed(recorded) {
        notes.push(
            "the task is deterministic: another version of Wasmill can explain a difference, nothing else should"
                .to_owned(),
        );
    }
    notes
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::TrapCode;

    use super::*;

    fn trapped() -> Came {
        let outcome = OutcomeDoc {
            kind: OutcomeKind::Trapped,
            message: "wasm trap: unreachable".into(),
            trap: Some(TrapCode::Unreachable),
            backtrace: Some(vec!["inner".into(), "outer".into()]),
            ..OutcomeDoc::default()
        };
        Came { outcome, fuel: Some(100), output: None }
    }

    fn succeeded(output: &'static [u8]) -> Came {
        let outcome = OutcomeDoc { kind: OutcomeKind::Succeeded, ..OutcomeDoc::default() };
        Came { outcome, fuel: None, output: Some(Bytes::from_static(output)) }
    }

    fn what(record: Record, recorded: &Came, now: &Came) -> Vec<&'static str> {
        differences(record, recorded, now).iter().map(|difference| difference.what).collect()
    }

    #[test]
    fn everything_that_is_recorded_is_compared() {
        let recorded = trapped();
        let outcome = |change: fn(&mut OutcomeDoc)| {
            let mut came = trapped();
            change(&mut came.outcome);
            came
        };
        for (now, expected) in [
            (trapped(), &[][..]),
            (outcome(|outcome| outcome.kind = OutcomeKind::Errored), &["outcome"]),
            (outcome(|outcome| outcome.message.push('!')), &["outcome"]),
            (outcome(|outcome| outcome.trap = Some(TrapCode::Other)), &["outcome"]),
            (outcome(|outcome| outcome.exit_code = Some(1)), &["outcome"]),
            (outcome(|outcome| outcome.backtrace = None), &["backtrace"]),
            (Came { fuel: Some(101), ..trapped() }, &["fuel"]),
            (Came { fuel: None, ..trapped() }, &["fuel"]),
            (Came { output: Some(Bytes::new()), ..trapped() }, &["output"]),
            (succeeded(b"x"), &["outcome", "backtrace", "fuel", "output"]),
        ] {
            assert_eq!(what(Record::Whole, &recorded, &now), expected, "{now:?}");
        }
        assert_eq!(what(Record::Whole, &succeeded(b"a"), &succeeded(b"b")), ["output"]);
        let differences = differences(Record::Whole, &succeeded(b""), &succeeded(b"b"));
        assert!(differences[0].recorded.starts_with("0 B, sha256:e3b0c442"), "{differences:?}");
    }

    #[test]
    fn of_an_earlier_attempt_less_is_known() {
        let outcome = OutcomeDoc { kind: OutcomeKind::Trapped, message: "wasm trap".into(), ..OutcomeDoc::default() };
        let brief = Came { outcome, fuel: Some(100), output: None };
        assert_eq!(what(Record::Brief, &brief, &trapped()), [""; 0]);
        assert_eq!(what(Record::Brief, &brief, &Came { fuel: Some(1), ..trapped() }), ["fuel"]);
        assert_eq!(what(Record::Brief, &brief, &succeeded(b"")), ["outcome", "fuel"]);
    }

    #[test]
    fn fuel_is_not_compared_when_a_clock_decided() {
        let timed = |fuel| {
            let outcome =
                OutcomeDoc { kind: OutcomeKind::CpuExceeded, message: "used".into(), ..OutcomeDoc::default() };
            Came { outcome, fuel: Some(fuel), output: None }
        };
        assert_eq!(what(Record::Whole, &timed(5), &timed(6)), [""; 0]);
        assert_eq!(notes(true, OutcomeKind::CpuExceeded, true).len(), 1);
    }

    #[test]
    fn notes_say_what_may_differ() {
        assert_eq!(notes(true, OutcomeKind::Trapped, true), [""; 0]);
        assert!(notes(true, OutcomeKind::Trapped, false)[0].contains("another version"));
        assert!(notes(false, OutcomeKind::Trapped, true)[0].contains("not deterministic"));
        assert!(notes(true, OutcomeKind::HostLost, false)[0].contains("from outside"));
    }
}
