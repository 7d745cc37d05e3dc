//! The promises of every [`Log`](wasmill_fabric::Log).

use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use wasmill_fabric::{AppendError, LogError, LogTail};
use wasmill_protocol::LogSeq;

use crate::conformance::Fixture;

/// A record that can be told from every other one.
fn record(seq: u64) -> Bytes {
    format!("record {seq} {}", "x".repeat((seq % 700) as usize)).into()
}

/// Appends records up to number `to` to a log that ends at `from`.
async fn fill(fixture: &Fixture, from: u64, to: u64) {
    let writer = fixture.log.writer();
    let appends: Vec<_> = (from..to).map(|last| writer.append(LogSeq(last), record(last + 1))).collect();
    for (result, seq) in join_all(appends).await.into_iter().zip(from + 1..) {
        assert_eq!(result.unwrap(), LogSeq(seq));
    }
}

async fn assert_reads(tail: &mut LogTail, from: u64, to: u64) {
    for seq in from..=to {
        let (read, bytes) = tail.next().await.unwrap().unwrap();
        assert_eq!((read, bytes), (LogSeq(seq), record(seq)));
    }
}

pub(crate) async fn an_empty_log_ends_at_zero(fixture: &Fixture) {
    assert_eq!(fixture.log.last_seq().await.unwrap(), LogSeq(0));
    assert_eq!(fixture.log.first_seq().await.unwrap(), LogSeq(1));
}

pub(crate) async fn records_are_numbered_and_read_back(fixture: &Fixture) {
    assert_eq!(fixture.log.append(LogSeq(0), Bytes::new()).await.unwrap(), LogSeq(1));
    assert_eq!(fixture.log.last_seq().await.unwrap(), LogSeq(1));
    fill(fixture, 1, 600).await;
    assert_eq!(fixture.log.last_seq().await.unwrap(), LogSeq(600));
    let mut tail = fixture.log.tail(LogSeq(1));
    assert_eq!(tail.next().await.unwrap().unwrap(), (LogSeq(1), Bytes::new()));
    assert_reads(&mut tail, 2, 600).await;
    assert_reads(&mut fixture.log.tail(LogSeq(598)), 598, 600).await;
}

pub(crate) async fn a_wrong_expectation_is_a_conflict_and_writes_nothing(fixture: &Fixture) {
    fill(fixture, 0, 3).await;
    for wrong in [0, 2, 4, 1_000] {
        let error = fixture.log.append(LogSeq(wrong), record(0)).await.unwrap_err();
        let AppendError::Conflict { expected_last, last } = error else { panic!("{error}") };
        assert_eq!((expected_last, last), (LogSeq(wrong), LogSeq(3)));
    }
    fill(fixture, 3, 5).await;
    assert_reads(&mut fixture.log.tail(LogSeq(1)), 1, 5).await;
}

pub(crate) async fn the_call_fixes_the_order_and_not_the_poll(fixture: &Fixture) {
    let writer = fixture.log.writer();
    let appends: Vec<_> = (0..100).map(|last| writer.append(LogSeq(last), record(last + 1))).collect();
    for (last, append) in appends.into_iter().enumerate().rev() {
        assert_eq!(append.await.unwrap(), LogSeq(last as u64 + 1));
    }
    assert_reads(&mut fixture.log.tail(LogSeq(1)), 1, 100).await;
}

pub(crate) async fn what_was_called_after_a_failure_fails(fixture: &Fixture) {
    fill(fixture, 0, 2).await;
    let writer = fixture.log.writer();
    let appends = [2, 3, 7, 8, 9].map(|last| writer.append(LogSeq(last), record(last + 1)));
    let results: Vec<bool> = join_all(appends).await.iter().map(Result::is_ok).collect();
    assert_eq!(results, [true, true, false, false, false]);
    assert_eq!(fixture.log.last_seq().await.unwrap(), LogSeq(4));
    // Also what would fit: it was called by somebody who thinks that the others are there.
    assert!(writer.append(LogSeq(4), record(5)).await.is_err());
    assert_eq!(fixture.log.last_seq().await.unwrap(), LogSeq(4));
    assert_eq!(fixture.log.writer().append(LogSeq(4), record(5)).await.unwrap(), LogSeq(5));
}

pub(crate) async fn nothing_follows_a_record_that_was_refused_before_it_was_sent(fixture: &Fixture) {
    let writer = fixture.log.writer();
    let too_large = writer.append(LogSeq(0), vec![0; fixture.log.record_bytes_max() + 1].into());
    fill(fixture, 0, 1).await;
    let behind = writer.append(LogSeq(1), record(2));
    assert!(matches!(too_large.await, Err(AppendError::TooLarge { .. })));
    assert!(matches!(behind.await, Err(AppendError::Conflict { .. })));
    assert_eq!(fixture.log.last_seq().await.unwrap(), LogSeq(1));
}

pub(crate) async fn a_record_over_the_limit_is_refused(fixture: &Fixture) {
    let bytes_max = fixture.log.record_bytes_max();
    let error = fixture.log.append(LogSeq(0), vec![0; bytes_max + 1].into()).await.unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { bytes, bytes_max: max } if bytes == max + 1 && max == bytes_max));
    let largest = Bytes::from(vec![7; bytes_max]);
    assert_eq!(fixture.log.append(LogSeq(0), largest.clone()).await.unwrap(), LogSeq(1));
    assert!(fixture.log.tail(LogSeq(1)).next().await.unwrap().unwrap().1 == largest);
}

pub(crate) async fn a_tail_waits_for_what_is_appended_later(fixture: &Fixture) {
    let mut tail = fixture.log.tail(LogSeq(1));
    assert!(tail.next().now_or_never().is_none());
    for seq in 1..50 {
        fill(fixture, seq - 1, seq).await;
        assert_reads(&mut tail, seq, seq).await;
    }
}

pub(crate) async fn a_tail_that_begins_in_the_future_waits(fixture: &Fixture) {
    fill(fixture, 0, 3).await;
    let mut tail = fixture.log.tail(LogSeq(6));
    assert!(tail.next().now_or_never().is_none());
    fill(fixture, 3, 7).await;
    assert_reads(&mut tail, 6, 7).await;
}

pub(crate) async fn two_tails_read_the_same_while_records_are_appended(fixture: &Fixture) {
    const RECORDS: u64 = 2_000;
    let readers = [1, 500].map(|from| {
        let mut tail = fixture.log.tail(LogSeq(from));
        tokio::spawn(async move { assert_reads(&mut tail, from, RECORDS).await })
    });
    for from in (0..RECORDS).step_by(40) {
        fill(fixture, from, from + 40).await;
    }
    for reader in readers {
        reader.await.unwrap();
    }
}

pub(crate) async fn trimmed_records_are_missing_and_the_numbering_goes_on(fixture: &Fixture) {
    fill(fixture, 0, 1_000).await;
    fixture.log.trim(LogSeq(0)).await.unwrap();
    fixture.log.trim(LogSeq(700)).await.unwrap();
    fixture.log.trim(LogSeq(300)).await.unwrap();
    assert_eq!(fixture.log.first_seq().await.unwrap(), LogSeq(701));
    for gone in [1, 300, 700] {
        let mut tail = fixture.log.tail(LogSeq(gone));
        let error = tail.next().await.unwrap().unwrap_err();
        assert!(matches!(error, LogError::Missing { seq } if seq == LogSeq(gone)), "{error}");
        assert!(tail.next().await.is_none(), "a tail ends after an error");
    }
    assert_reads(&mut fixture.log.tail(LogSeq(701)), 701, 1_000).await;
    fixture.log.trim(LogSeq(5_000)).await.unwrap();
    assert_eq!(fixture.log.first_seq().await.unwrap(), LogSeq(1_001));
    assert_eq!(fixture.log.last_seq().await.unwrap(), LogSeq(1_000));
    fill(fixture, 1_000, 1_002).await;
    assert_reads(&mut fixture.log.tail(LogSeq(1_001)), 1_001, 1_002).await;
}
