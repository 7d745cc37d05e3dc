//! One entry of the log.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::Event;
use wasmill_protocol::command::Done;
use wasmill_protocol::ids::{Digest, LogSeq, Term};

/// The newest version of records that this code reads. A newer one is refused: an unknown record
/// halts, it is never skipped.
///
/// 2 added snapshots ([`EventBody::SnapshotTaken`](crate::event::EventBody::SnapshotTaken) and
/// [`EventBody::ReadModelSaved`](crate::event::EventBody::ReadModelSaved)), benched policies
/// ([`EventBody::PolicyBenched`](crate::event::EventBody::PolicyBenched) and
/// [`EventBody::PolicyLifted`](crate::event::EventBody::PolicyLifted)), drained hosts
/// ([`EventBody::HostDrained`](crate::event::EventBody::HostDrained)), edges between tasks
/// ([`EventBody::TaskSubmitted`](crate::event::EventBody::TaskSubmitted)) and skipped tasks
/// ([`EndReason::Skipped`](crate::event::EndReason::Skipped)).
pub const RECORD_VERSION: u32 = 2;

/// A batch of events that became durable together.
///
/// Encoded as MessagePack with named fields, so that a field can be added without breaking an older
/// reader.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The version that a reader must understand; see [`Record::version_for`].
    pub version: u32,
    /// The term of the leader that wrote it.
    pub term: Term,
    /// SHA-256 of the encoded record before this one; zero for the first. A lost or changed record
    /// breaks the chain.
    pub prev_hash: Digest,
    /// The events, in order.
    pub events: Vec<Event>,
    /// The commands of other control nodes that `events` decide, so that a node whose answer was
    /// lost knows what became of its command. `None` from a writer that names none. A reader that
    /// does not know this loses nothing but that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<Vec<Decided>>,
}

/// Commands of one call that a record decides. A call is named as in
/// [`ControlCall`](wasmill_protocol::message::control::ControlCall).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Decided {
    /// The process that has asked.
    pub asker: u64,
    /// In which of its calls.
    pub number: u64,
    /// The places of commands in that call, and what was done. Refused commands and those that
    /// changed nothing are not among them.
    pub done: Vec<(u32, Done)>,
}

/// A record that cannot be used. The reader halts: it never carries on with a shorter history.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Not a record.
    #[error("cannot decode record {seq} of the log")]
    Decode {
        /// Where.
        seq: LogSeq,
        /// Why.
        source: rmp_serde::decode::Error,
    },
    /// Written by a newer version.
    #[error("record {seq} of the log has version {version}, this program reads up to {RECORD_VERSION}: upgrade it")]
    Version {
        /// Where.
        seq: LogSeq,
        /// The version that was found.
        version: u32,
    },
}

impl Record {
    /// The version of a record with these events: the oldest that has all of them. A reader of the
    /// version before stops at what it does not know and not at every record of a newer writer, so
    /// that both can run side by side while versions change.
    pub fn version_for(events: &[Event]) -> u32 {
        events.iter().map(|event| event.body.record_version()).max().unwrap_or(1)
    }

    /// The bytes that are appended and hashed.
    ///
    /// # Panics
    ///
    /// Never for the types of this crate: MessagePack can express all of them.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes);
        bytes.into()
    }

    /// As [`Record::encode`], in place of what `bytes` has had in it: whoever writes many records has the room of one already.
    ///
    /// # Panics
    ///
    /// As [`Record::encode`].
    pub fn encode_into(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        let mut serializer = rmp_serde::Serializer::new(bytes).with_struct_map();
        if let Err(error) = self.serialize(&mut serializer) {
            unreachable!("a record is always encodable: {error}");
        }
    }

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are no record or one of a newer version; `seq` is named in the error.
    pub fn decode(seq: LogSeq, bytes: &[u8]) -> Result<Self, RecordError> {
        // The version comes first and alone: a newer record may hold events that this reader cannot
        // decode.
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Head {
            version: u32,
        }
        let decode = |source| RecordError::Decode { seq, source };
        let head: Head = rmp_serde::from_slice(bytes).map_err(decode)?;
        if head.version > RECORD_VERSION {
            return Err(RecordError::Version { seq, version: head.version });
        }
        rmp_serde::from_slice(bytes).map_err(decode)
    }
}
