//! Values inside the rows: MessagePack without field names.

use rusqlite::types::Type;
use rusqlite::{Error, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmill_protocol::{LogSeq, TaskId, Timestamp};

use super::fold::TaskStanding;
use super::store::state_of;

/// The bytes of a value.
pub(super) fn encode<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    bytes.clear();
    if let Err(error) = rmp_serde::encode::write(bytes, value) {
        unreachable!("the types of a row are always encodable: {error}");
    }
}

/// Reads what [`encode`] wrote from a column.
pub(super) fn decode<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let bytes = row.get_ref(column)?.as_blob()?;
    rmp_serde::from_slice(bytes).map_err(|error| Error::FromSqlConversionFailure(column, Type::Blob, error.into()))
}

/// The columns that [`standing`] reads, in its order.
pub(super) const STANDING_COLUMNS: &str = "state, created, updated, finished, seq, view";

/// Reads [`STANDING_COLUMNS`], which begin at `first`.
pub(super) fn standing(row: &Row<'_>, first: usize) -> rusqlite::Result<TaskStanding> {
    let number = row.get(first)?;
    let state = state_of(number).ok_or(Error::IntegralValueOutOfRange(first, number))?;
    Ok(TaskStanding {
        state,
        created_at: time(row.get(first + 1)?),
        updated_at: time(row.get(first + 2)?),
        finished_at: row.get::<_, Option<i64>>(first + 3)?.map(time),
        seq: LogSeq(row.get::<_, i64>(first + 4)?.cast_unsigned()),
        view: decode(row, first + 5)?,
    })
}

/// SQLite's integers are signed; every time that is ever reached fits.
pub(super) fn time_number(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn time(number: i64) -> Timestamp {
    Timestamp(number.cast_unsigned())
}

/// How a task's id is stored.
pub(super) fn id_bytes(id: &TaskId) -> &[u8] {
    id.0.as_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmill_protocol::limits::Limits;
    use wasmill_protocol::message::Progress;
    use wasmill_protocol::task::{InputForm, RetryOn, RetryPolicy};
    use wasmill_protocol::{
        Attempt, Digest, FinalState, HostId, Outcome, OutcomeKind, Payload, TaskSpec, TrapCode, Usage,
    };
    use wasmill_record::event::{EndReason, Sequel};

    use super::*;
    use crate::read_model::fold::View;
    use crate::read_model::{HistoryEntry, HistoryEvent};

    /// The layout of the first version. Must be readable for ever: new fields go to the end. If
    /// that cannot be, raise `LAYOUT`.
    const SPEC: &str = "\
        dc0014a674656e616e74c4200101010101010101010101010101010101010101010101010101010101010101a7636f6d6d616e6481a6\
        496e6c696e65c402696ea46a736f6ea46e616d65ab6465736372697074696f6e81a56c6162656ca13191a361726781a3656e76a13295\
        0102030405fa94070809ab616e795f6661696c7572650a0ba36b657981a772657175697265a133c30cc4100000000000000000000000\
        000000000d";
    const VIEW: &str = "\
        9f01a4686f7374040595a774726170706564a76d65737361676506ab756e726561636861626c6591a56672616d6581a963616e63656c\
        6c656491a6726561736f6e970708090a0b0c0d81a6496e6c696e65c4036f757481a4426c6f6292c42002020202020202020202020202\
        0202020202020202020202020202020202020203a5456d707479c3a37768790e9b93016581a17391c0930266a17193036781a1709101\
        93046881a1619201a4686f737493056981a1639301020393066a81a1659401a76572726f726564a16d81a55265747279910493076b81\
        a1659401a76572726f726564a16da75265717565756593086c81a1659401a76572726f726564a16d81a546696e616c91a66661696c65\
        6493096d81a17291c0930a6e81a16692a963616e63656c6c6564a765787069726564930b6f81a16c9201a4686f73740f";

    fn spec() -> TaskSpec {
        let map = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        TaskSpec {
            tenant: "tenant".parse().unwrap(),
            module: Digest([1; 32]),
            input: Payload::Inline("in".into()),
            input_form: InputForm::Json,
            name: Some("name".into()),
            description: Some("description".into()),
            labels: map("label", "1"),
            args: vec!["arg".into()],
            env: map("env", "2"),
            limits: Limits { cpu_ms: 1, fuel: Some(2), memory_bytes: 3, wall_ms: 4, output_bytes: 5 },
            priority: -6,
            retry: RetryPolicy { attempts_max: 7, backoff_ms: 8, backoff_ms_max: 9, on: RetryOn::AnyFailure },
            not_before: Timestamp(10),
            expires_ms: Some(11),
            idempotency_key: Some("key".into()),
            require: map("require", "3"),
            deterministic: true,
            seed: Some(12),
            retry_of: Some(TaskId(uuid::Uuid::from_u128(13))),
            ..TaskSpec::default()
        }
    }

    fn view() -> View {
        let entry = |seq, event| HistoryEntry { seq: LogSeq(seq), at: Timestamp(seq + 100), event };
        let (attempt, host) = (Attempt(1), HostId::from("host"));
        let blob = Payload::Blob { digest: Digest([2; 32]), bytes: 3 };
        View {
            attempt,
            host: Some(host.clone()),
            waiting_until: Some(Timestamp(4)),
            priority: Some(5),
            outcome: Some(Arc::new(Outcome {
                exit_code: Some(6),
                trap: Some(TrapCode::Unreachable),
                backtrace: vec!["frame".into()],
                ..Outcome::new(OutcomeKind::Trapped, "message")
            })),
            end_reason: Some(EndReason::Cancelled { reason: Some("reason".into()) }),
            usage: Some(Usage {
                fuel: Some(7),
                cpu_us: 8,
                memory_peak_bytes: 9,
                queue_us: 10,
                run_us: 11,
                input_bytes: 12,
                output_bytes: 13,
                ..Usage::default()
            }),
            output: Payload::Inline("out".into()),
            captured: blob,
            checkpoint: Payload::Empty,
            cancel_requested: true,
            cancel_reason: Some("why".into()),
            started_at: Some(Timestamp(14)),
            history: vec![
                entry(1, HistoryEvent::Submitted { waiting_until: None }),
                entry(2, HistoryEvent::Queued),
                entry(3, HistoryEvent::Prioritized { priority: 1 }),
                entry(4, HistoryEvent::AttemptStarted { attempt, host: host.clone() }),
                entry(5, HistoryEvent::CheckpointSaved { attempt, bytes: 2, times: 3 }),
                entry(6, ended(attempt, Sequel::Retry { not_before: Timestamp(4) })),
                entry(7, ended(attempt, Sequel::Requeue)),
                entry(8, ended(attempt, Sequel::Final { state: FinalState::Failed })),
                entry(9, HistoryEvent::CancelRequested { reason: None }),
                entry(10, HistoryEvent::Ended { state: FinalState::Cancelled, reason: EndReason::Expired }),
                entry(11, HistoryEvent::ReportLate { attempt, host }),
            ],
            history_left_out: 15,
            ..View::default()
        }
    }

    fn ended(attempt: Attempt, next: Sequel) -> HistoryEvent {
        let (kind, message) = (OutcomeKind::Errored, "m".into());
        HistoryEvent::AttemptEnded { attempt, kind, message, next, fuel: None, cached: false }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn f48_what_was_stored_stays_readable() {
        let mut bytes = Vec::new();
        encode(&spec(), &mut bytes);
        let now = hex(&bytes);
        assert_eq!(rmp_serde::from_slice::<TaskSpec>(&unhex(SPEC)).ok(), Some(spec()), "now written: {now}");
        encode(&view(), &mut bytes);
        let now = hex(&bytes);
        assert_eq!(rmp_serde::from_slice::<View>(&unhex(VIEW)).ok(), Some(view()), "now written: {now}");
    }

    #[test]
    fn what_a_guest_said_last_is_stored() {
        let said = Progress { done: 1, total: 2, message: "said".into() };
        let outcome = Outcome { progress: Some(said), ..Outcome::default() };
        let mut bytes = Vec::new();
        encode(&outcome, &mut bytes);
        assert_eq!(rmp_serde::from_slice::<Outcome>(&bytes).unwrap(), outcome);
    }

    /// The fields that were added to the first version.
    #[test]
    fn what_was_added_is_stored() {
        let trace = wasmill_protocol::TraceParent { trace_id: [1; 16], span_id: [2; 8], sampled: true };
        for trace in [None, Some(trace)] {
            let written = TaskSpec { trace, program: Some("wc".into()), ok_exit: vec![0, 10], ..spec() };
            let mut bytes = Vec::new();
            encode(&written, &mut bytes);
            assert_eq!(rmp_serde::from_slice::<TaskSpec>(&bytes).unwrap(), written);
        }
        let ended = HistoryEvent::AttemptEnded {
            attempt: Attempt(2),
            kind: OutcomeKind::Succeeded,
            message: String::new(),
            next: Sequel::Requeue,
            fuel: Some(3),
            cached: true,
        };
        for compile_us in [0, 9] {
            let written = View {
                usage: Some(Usage { input_bytes: 4, cached: true, compile_us, ..Usage::default() }),
                history: vec![HistoryEntry { seq: LogSeq(1), at: Timestamp(2), event: ended.clone() }],
                resumed: vec![(Attempt(2), Payload::Inline("state".into()))],
                resumed_first: Some(Attempt(2)),
                ..View::default()
            };
            let mut bytes = Vec::new();
            encode(&written, &mut bytes);
            assert_eq!(rmp_serde::from_slice::<View>(&bytes).unwrap(), written);
        }
    }

    /// A value of every kind that a row holds, with nothing left empty.
    fn full() -> (TaskSpec, View) {
        let trace = wasmill_protocol::TraceParent { trace_id: [1; 16], span_id: [2; 8], sampled: true };
        let spec = TaskSpec { trace: Some(trace), program: Some("wc".into()), ok_exit: vec![0, 10], ..spec() };
        let said = Progress { done: 1, total: 2, message: "said".into() };
        let view = view();
        let outcome = view.outcome.as_deref().cloned().unwrap_or_default();
        let view = View {
            outcome: Some(Arc::new(Outcome { progress: Some(said), ..outcome })),
            usage: view.usage.map(|usage| Usage { cached: true, compile_us: 14, ..usage }),
            resumed: vec![(Attempt(2), Payload::Inline("state".into()))],
            resumed_first: Some(Attempt(2)),
            ..view
        };
        (spec, view)
    }

    /// Each place in a document where a field is.
    fn fields(document: &serde_json::Value, at: &str, found: &mut Vec<String>) {
        match document {
            serde_json::Value::Object(fields_here) => {
                for (name, value) in fields_here {
                    let place = format!("{at}/{name}");
                    fields(value, &place, found);
                    found.push(place);
                }
            }
            serde_json::Value::Array(values) => {
                values.iter().enumerate().for_each(|(index, value)| fields(value, &format!("{at}/{index}"), found));
            }
            _ => {}
        }
    }

    /// Leaves out one field after the other, wherever it is, and counts what could be read and
    /// stored without it.
    fn stored_without_each_field<T>(full: &T) -> usize
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let document = serde_json::to_value(full).unwrap();
        assert_eq!(&serde_json::from_value::<T>(document.clone()).unwrap(), full);
        let mut found = Vec::new();
        fields(&document, "", &mut found);
        let stored = found.iter().filter(|place| {
            let (parent, name) = place.rsplit_once('/').unwrap();
            let mut document = document.clone();
            document.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
            // A field without a default is never left out.
            let Ok(value) = serde_json::from_value::<T>(document) else { return false };
            let mut bytes = Vec::new();
            encode(&value, &mut bytes);
            assert_eq!(rmp_serde::from_slice::<T>(&bytes).ok().as_ref(), Some(&value), "without {place}");
            true
        });
        stored.count()
    }

    /// A field that is left out when it is empty moves those behind it: what can be left out comes
    /// last.
    #[test]
    fn rows_are_readable_whatever_is_left_out_of_them() {
        let (spec, view) = full();
        assert!(stored_without_each_field(&spec) > 20);
        assert!(stored_without_each_field(&view) > 20);
    }

    #[test]
    fn fields_that_were_added_later_have_their_defaults() {
        // An array of one element: a view of the time when there was nothing but the attempt.
        let view = rmp_serde::from_slice::<View>(&[0x91, 7]).unwrap();
        assert_eq!(view, View { attempt: Attempt(7), ..View::default() });
    }
}
