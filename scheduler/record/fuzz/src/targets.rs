//! The targets, which the tests of `record` include too, so that what was found is tried again in
//! every run.

use wasmill_protocol::LogSeq;
use wasmill_record::event::Event;
use wasmill_record::{RECORD_VERSION, Record};

/// A decoded record is the same after it was encoded and decoded once more, and is of a version
/// that we know.
pub(crate) fn record(bytes: &[u8]) {
    let Ok(record) = Record::decode(LogSeq(1), bytes) else { return };
    assert!(record.version <= RECORD_VERSION);
    assert_eq!(Record::decode(LogSeq(1), &record.encode()).unwrap(), record);
}

/// An event that decodes is the same after it was encoded and decoded once more.
pub(crate) fn event(bytes: &[u8]) {
    let Ok(event) = rmp_serde::from_slice::<Event>(bytes) else { return };
    let encoded = rmp_serde::to_vec_named(&event).unwrap();
    assert_eq!(rmp_serde::from_slice::<Event>(&encoded).unwrap(), event);
}
