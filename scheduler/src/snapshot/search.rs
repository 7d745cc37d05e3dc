//! Finding snapshots: the log names them, and nothing else does.

use futures::StreamExt;
use memchr::memmem::Finder;
use wasmill_fabric::{Log, LogError};
use wasmill_protocol::LogSeq;
use wasmill_record::Record;
use wasmill_record::event::EventBody;
use wasmill_record::snapshot::{ReadModelCopy, SnapshotRef};

use crate::driver::DriverError;

/// Records that are looked at first. A snapshot is seldom named by the very last ones.
const WINDOW_RECORDS: u64 = 256;
/// Each further look goes back by this many times as much.
const WINDOW_GROWTH: u64 = 4;

/// Goes back through the log in growing windows, and so reads little more than what follows the
/// newest snapshot, which is read in any case.
pub(crate) struct Search<'a> {
    log: &'a dyn Log,
    /// The first record of the log.
    first: LogSeq,
    /// The first record that was looked at.
    seen: LogSeq,
    window: u64,
    /// The snapshots that were found and not given out, oldest first.
    found: Vec<SnapshotRef>,
}

impl<'a> Search<'a> {
    /// A search in the records from `first` to `last`.
    pub(crate) fn new(log: &'a dyn Log, first: LogSeq, last: LogSeq) -> Self {
        Self { log, first, seen: last.next(), window: WINDOW_RECORDS, found: Vec::new() }
    }

    /// The newest snapshot that was not given out yet.
    pub(crate) async fn next(&mut self) -> Result<Option<SnapshotRef>, DriverError> {
        while self.found.is_empty() && self.seen > self.first {
            let to = LogSeq(self.seen.0 - 1);
            self.seen = LogSeq(self.seen.0.saturating_sub(self.window)).max(self.first);
            self.window *= WINDOW_GROWTH;
            let found = &mut self.found;
            each_naming(self.log, self.seen, to, SNAPSHOT_TAKEN, |body| {
                if let EventBody::SnapshotTaken { snapshot } = body {
                    found.push(snapshot);
                }
            })
            .await?;
        }
        Ok(self.found.pop())
    }
}

/// The newest copy of the read model that the records from `from` to `to` name.
pub(crate) async fn newest_copy(log: &dyn Log, from: LogSeq, to: LogSeq) -> Result<Option<ReadModelCopy>, DriverError> {
    let mut newest = None;
    each_naming(log, from, to, READ_MODEL_SAVED, |body| {
        if let EventBody::ReadModelSaved { copy } = body {
            newest = Some(copy);
        }
    })
    .await?;
    Ok(newest)
}

const SNAPSHOT_TAKEN: &str = "SnapshotTaken";
const READ_MODEL_SAVED: &str = "ReadModelSaved";

/// Hands over the events of records whose bytes hold `name`: most are passed over without being
/// decoded.
async fn each_naming(
    log: &dyn Log,
    from: LogSeq,
    to: LogSeq,
    name: &str,
    mut each: impl FnMut(EventBody),
) -> Result<(), DriverError> {
    let name = Finder::new(name);
    let mut tail = log.tail(from);
    let mut next = from;
    while next <= to {
        let Some(record) = tail.next().await else { return Err(LogError::Missing { seq: next }.into()) };
        let (seq, bytes) = record?;
        next = seq.next();
        if name.find(&bytes).is_some() {
            Record::decode(seq, &bytes)?.events.into_iter().for_each(|event| each(event.body));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wasmill_fabric::embedded;
    use wasmill_protocol::Timestamp;
    use wasmill_record::RECORD_VERSION;
    use wasmill_record::event::Event;

    use super::*;

    async fn append(log: &dyn Log, seq: u64, body: EventBody) {
        let events = vec![Event { at: Timestamp(seq), body }];
        let record = Record { version: RECORD_VERSION, events, ..Record::default() };
        log.append(LogSeq(seq - 1), record.encode()).await.unwrap();
    }

    #[tokio::test]
    async fn the_newest_come_first_and_nothing_before_the_beginning_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let log = embedded::open(dir.path()).unwrap().log;
        const RECORDS: u64 = 3_000;
        let named = [7, 1_000, 1_001, RECORDS - 1];
        for seq in 1..=RECORDS {
            let snapshot = SnapshotRef { seq: LogSeq(seq - 1), ..SnapshotRef::default() };
            let copy = ReadModelCopy { seq: LogSeq(seq - 1), ..ReadModelCopy::default() };
            let body = match seq {
                seq if named.contains(&seq) => EventBody::SnapshotTaken { snapshot },
                seq if seq % 1_500 == 0 => EventBody::ReadModelSaved { copy },
                // A text of a user that looks like one of ours.
                _ => EventBody::AliasRemoved { tenant: Default::default(), name: "SnapshotTaken".to_owned() },
            };
            append(&*log, seq, body).await;
        }
        let found = async |first: u64| {
            let mut search = Search::new(&*log, LogSeq(first), LogSeq(RECORDS));
            let mut found = Vec::new();
            while let Some(snapshot) = search.next().await.unwrap() {
                found.push(snapshot.seq.0 + 1);
            }
            found
        };
        assert_eq!(found(1).await, [RECORDS - 1, 1_001, 1_000, 7]);
        log.trim(LogSeq(1_000)).await.unwrap();
        assert_eq!(found(1_001).await, [RECORDS - 1, 1_001]);
        let copy = newest_copy(&*log, LogSeq(1_001), LogSeq(RECORDS)).await.unwrap();
        assert_eq!(copy.map(|copy| copy.seq), Some(LogSeq(RECORDS - 1)));
        assert_eq!(newest_copy(&*log, LogSeq(1_600), LogSeq(2_000)).await.unwrap(), None);
    }
}
