use wasmill_scheduler_core::State;

use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn config() -> SnapshotConfig {
    SnapshotConfig { records: 10, log_bytes: 10_000, keep_records: 2, copy_log_bytes: 5_000, copy_percent: 50 }
}

fn upkeep() -> Upkeep {
    Upkeep::new(config(), Current::default(), Vec::new())
}

fn at(last: u64, log_bytes: u64) -> Chain {
    Chain { last: LogSeq(last), log_bytes, ..Chain::default() }
}

fn snapshot(seq: u64) -> SnapshotRef {
    SnapshotRef { seq: LogSeq(seq), digest: Digest([u8::try_from(seq).unwrap(); 32]), bytes: 700, log_bytes: 100 * seq }
}

fn copy(seq: u64, log_bytes: u64) -> ReadModelCopy {
    ReadModelCopy { seq: LogSeq(seq), log_bytes, ..ReadModelCopy::default() }
}

fn taken(seq: u64) -> Event {
    Event { at: NOW, body: EventBody::SnapshotTaken { snapshot: snapshot(seq) } }
}

fn saved(seq: u64) -> Event {
    Event { at: NOW, body: EventBody::ReadModelSaved { copy: copy(seq, 0) } }
}

fn named(work: &[Work]) -> Vec<String> {
    let name = |work: &Work| match work {
        Work::Snapshot(_, chain) => format!("snapshot {}", chain.last),
        Work::Measure => "measure".to_owned(),
        Work::Copy { log_bytes } => format!("copy {log_bytes}"),
        Work::Trim(to) => format!("trim {to}"),
    };
    work.iter().map(name).collect()
}

#[test]
fn a_snapshot_is_due_by_records_or_by_bytes_and_one_at_a_time() {
    let mut upkeep = upkeep();
    assert!(!upkeep.wants_snapshot(NOW, &at(9, 9_999)));
    assert!(upkeep.wants_snapshot(NOW, &at(10, 1)) && upkeep.wants_snapshot(NOW, &at(1, 10_000)));
    upkeep.hold(State::default().freeze(), at(10, 1));
    assert!(!upkeep.wants_snapshot(NOW, &at(100, 1)), "one is under way");
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(9), &[], &at(11, 1))), [""; 0], "its last record is not durable");
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(10), &[], &at(11, 1))), ["snapshot 10"]);
    upkeep.ended(NOW, Ended::Snapshot(snapshot(10)));
    assert!(!upkeep.wants_snapshot(NOW, &at(19, 1_700)) && upkeep.wants_snapshot(NOW, &at(20, 1_700)));
}

#[test]
fn a_large_snapshot_waits_until_the_log_has_grown_as_much() {
    let mut upkeep = upkeep();
    upkeep.ended(NOW, Ended::Snapshot(snapshot(10)));
    assert!(!upkeep.wants_snapshot(NOW, &at(20, 1_699)) && upkeep.wants_snapshot(NOW, &at(20, 1_700)));
}

#[test]
fn what_has_failed_is_tried_again_later() {
    let mut upkeep = upkeep();
    upkeep.hold(State::default().freeze(), at(10, 1));
    upkeep.durable(NOW, LogSeq(10), &[], &at(10, 1));
    upkeep.ended(NOW, Ended::SnapshotFailed);
    let later = NOW.plus_ms(RETRY_MS);
    assert!(!upkeep.wants_snapshot(NOW, &at(11, 1)) && upkeep.wants_snapshot(later, &at(11, 1)));

    assert_eq!(named(&upkeep.durable(NOW, LogSeq(11), &[], &at(11, 5_000))), ["measure"]);
    upkeep.ended(NOW, Ended::CopyFailed);
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(12), &[], &at(12, 6_000))), [""; 0]);
    assert_eq!(named(&upkeep.durable(later, LogSeq(13), &[], &at(13, 6_000))), ["measure"]);

    let named_all = [taken(3), taken(9), saved(8)];
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(14), &named_all, &at(14, 6_000))), ["trim 1"]);
    upkeep.ended(NOW, Ended::TrimFailed);
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(15), &[], &at(15, 6_000))), [""; 0]);
    assert_eq!(named(&upkeep.durable(later, LogSeq(16), &[], &at(16, 6_000))), ["trim 1"]);
}

#[test]
fn a_copy_is_made_when_it_lets_go_of_enough() {
    let mut upkeep = upkeep();
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(1), &[], &at(1, 4_999))), [""; 0]);
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(2), &[], &at(2, 5_000))), ["measure"]);
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(3), &[], &at(3, 9_000))), [""; 0], "it is being measured");
    assert!(upkeep.ended(NOW, Ended::Measured(16_000)).is_none(), "half of it are 8,000 bytes");
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(4), &[], &at(4, 7_999))), [""; 0]);
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(5), &[], &at(5, 8_000))), ["measure"]);
    let next = upkeep.ended(NOW, Ended::Measured(16_000));
    assert_eq!(named(next.as_slice()), ["copy 8000"]);
    upkeep.ended(NOW, Ended::Copy(copy(5, 8_000)));
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(6), &[], &at(6, 12_999))), [""; 0]);
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(7), &[], &at(7, 13_000))), ["measure"]);
}

#[test]
fn the_log_is_trimmed_once_to_what_the_durable_log_names_and_never_past_an_unusable_snapshot() {
    let mut upkeep = upkeep();
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(20), &[taken(8), taken(16)], &at(20, 1))), [""; 0]);
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(21), &[saved(12)], &at(21, 1))), ["trim 6"]);
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(22), &[], &at(22, 1))), [""; 0]);

    let mut upkeep = Upkeep::new(config(), Current::default(), vec![snapshot(16).digest]);
    let named_all = [taken(8), taken(16), saved(12)];
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(20), &named_all, &at(20, 1))), [""; 0]);
    assert_eq!(named(&upkeep.durable(NOW, LogSeq(30), &[taken(24), taken(28)], &at(30, 1))), ["trim 10"]);
}

#[test]
fn a_leader_goes_on_where_the_log_says_that_the_one_before_was() {
    let current = Current { snapshots: vec![snapshot(10)], read_model: Some(copy(10, 1_000)) };
    let upkeep = Upkeep::new(config(), current.clone(), Vec::new());
    assert!(!upkeep.wants_snapshot(NOW, &at(19, 9_000)) && upkeep.wants_snapshot(NOW, &at(20, 9_000)));
    let upkeep = Upkeep::new(config(), current, vec![snapshot(10).digest]);
    assert!(upkeep.wants_snapshot(NOW, &at(19, 9_000)), "one that cannot be used counts for nothing");
}

#[test]
fn settings_that_cannot_work_are_named() {
    let error = |config: SnapshotConfig| config.check().unwrap_err().to_string();
    assert_eq!(SnapshotConfig::default().check(), Ok(()));
    let few = SnapshotConfig { records: 3, ..config() };
    assert_eq!(error(few), "`snapshot.records` is 3, at least 4 are needed");
}
