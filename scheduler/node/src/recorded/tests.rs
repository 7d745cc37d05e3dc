use wasmill_record::Decided;

use super::*;

const ASKER: u64 = 7;

/// A record that names these commands of this node, one call of one command each.
fn record(numbers: &[u64]) -> Record {
    let decided = |&number: &u64| Decided { asker: ASKER, number, done: vec![(0, Done::Created)] };
    Record { decided: Some(numbers.iter().map(decided).collect()), ..Record::default() }
}

fn read(records: &[(u64, Record)]) -> Recorded {
    let mut recorded = Recorded::new(ASKER);
    records.iter().for_each(|(seq, record)| recorded.read(LogSeq(*seq), record));
    recorded
}

fn fate(recorded: &Recorded, number: u64, position: u64, began: u64) -> Fate {
    recorded.fate((number, 0), LogSeq(position), LogSeq(began))
}

#[test]
fn the_log_tells_which_commands_it_holds() {
    let recorded = read(&[(1, record(&[])), (2, record(&[5])), (3, record(&[])), (4, record(&[]))]);
    assert_eq!(recorded.done((5, 0)), Some((LogSeq(2), Done::Created)));
    assert_eq!((recorded.done((5, 1)), recorded.done((6, 0))), (None, None));
    assert_eq!(fate(&recorded, 5, 1, 4), Fate::Done(LogSeq(2), Done::Created));
    assert_eq!(fate(&recorded, 6, 1, 4), Fate::NotRecorded);
    assert_eq!(fate(&recorded, 6, 1, 5), Fate::Unknown, "where the later term begins is not read");
}

#[test]
fn commands_of_others_are_not_ones_own() {
    let mut of_another = record(&[5]);
    of_another.decided.iter_mut().flatten().for_each(|decided| decided.asker = 8);
    let recorded = read(&[(1, of_another), (2, record(&[]))]);
    assert_eq!(fate(&recorded, 5, 0, 2), Fate::NotRecorded);
}

#[test]
fn what_was_not_seen_after_a_command_was_asked_may_hold_it() {
    let unnamed = || Record { decided: None, ..Record::default() };
    for records in [
        [(1, record(&[])), (2, unnamed()), (3, record(&[]))],
        // It began anew with a snapshot.
        [(1, record(&[])), (3, record(&[])), (4, record(&[]))],
    ] {
        let (recorded, last) = (read(&records), records[2].0);
        assert_eq!(fate(&recorded, 5, 1, last), Fate::Unknown);
        assert_eq!(fate(&recorded, 5, 2, last), Fate::NotRecorded, "it was asked later");
    }
}

#[test]
fn a_record_that_comes_again_changes_nothing() {
    let recorded = read(&[(1, record(&[])), (2, record(&[5])), (1, Record::default()), (2, record(&[6]))]);
    assert_eq!(
        (fate(&recorded, 5, 0, 2), fate(&recorded, 6, 0, 2)),
        (Fate::Done(LogSeq(2), Done::Created), Fate::NotRecorded)
    );
}

#[test]
fn what_is_forgotten_is_not_taken_for_what_was_not_recorded() {
    let mut recorded = read(&[(1, record(&[])), (2, record(&[5]))]);
    let numbers: Vec<_> = (1_000..1_000 + REMEMBERED_MAX as u64).collect();
    recorded.read(LogSeq(3), &record(&numbers));
    assert_eq!(fate(&recorded, 5, 1, 3), Fate::Unknown);
    assert_eq!(fate(&recorded, 6, 2, 3), Fate::NotRecorded);
    assert_eq!(recorded.done.len(), REMEMBERED_MAX);
}
