//! Records as they are stored, and the disk of a single machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use wasmill_protocol::{Digest, LogSeq};
use wasmill_record::{Record, RecordError};

/// A record with its bytes.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it says.
    pub record: Arc<Record>,
    /// What is stored.
    pub bytes: Bytes,
    /// What the next record is chained to.
    pub hash: Digest,
}

impl Entry {
    /// Encodes a record.
    pub fn new(record: Record) -> Self {
        let bytes = record.encode();
        Self { hash: hash(&bytes), record: Arc::new(record), bytes }
    }
}

fn hash(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Decodes records, each of them once however many read it.
///
/// Knows them by the address of their bytes, which it keeps alive, so that no other bytes ever have the same address.
#[derive(Debug, Default)]
pub struct Decoder {
    known: BTreeMap<usize, Entry>,
}

impl Decoder {
    /// What the bytes at `seq` say.
    ///
    /// # Errors
    ///
    /// When they are no record that this program can read.
    pub fn decode(&mut self, seq: LogSeq, bytes: &Bytes) -> Result<Entry, RecordError> {
        let address = bytes.as_ptr() as usize;
        if let Some(known) = self.known.get(&address) {
            return Ok(known.clone());
        }
        let record = Arc::new(Record::decode(seq, bytes)?);
        let entry = Entry { record, hash: hash(bytes), bytes: bytes.clone() };
        self.known.insert(address, entry.clone());
        Ok(entry)
    }
}

/// The disk of a single machine: records that are durable, in order, from 1.
#[derive(Debug, Default)]
pub struct Disk {
    /// Durable records.
    pub records: Vec<Entry>,
}

impl Disk {
    /// The last durable record.
    pub fn last(&self) -> LogSeq {
        LogSeq(self.records.len() as u64)
    }
}
