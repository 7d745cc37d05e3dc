//! How an object is laid out in the stream of an object store: chunks under a subject of their own,
//! and one message that describes them.

use std::time::SystemTime;

use async_nats::jetstream::object_store::{ObjectInfo, ObjectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use wasmill_protocol::Digest;

use crate::BlobStat;

/// Names the stream of a bucket.
pub(super) fn stream_name(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// Everything of a bucket.
pub(super) fn subjects(bucket: &str) -> Vec<String> {
    vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")]
}

/// The chunks of one upload.
pub(super) fn chunks_subject(bucket: &str, upload: &str) -> String {
    format!("$O.{bucket}.C.{upload}")
}

/// The subject of a blob's description.
pub(super) fn meta_subject(bucket: &str, digest: Digest) -> String {
    format!("$O.{bucket}.M.{}", URL_SAFE.encode(digest.hex()))
}

/// Describes a blob whose chunks are there.
pub(super) fn describe(bucket: &str, stat: &BlobStat, upload: &str, chunks: usize, chunk_bytes: usize) -> ObjectInfo {
    ObjectInfo {
        name: stat.digest.hex(),
        description: None,
        metadata: Default::default(),
        headers: None,
        options: Some(ObjectOptions { link: None, max_chunk_size: Some(chunk_bytes) }),
        bucket: bucket.to_owned(),
        nuid: upload.to_owned(),
        size: usize::try_from(stat.bytes).unwrap_or(usize::MAX),
        chunks,
        modified: Some(stat.modified.into()),
        digest: Some(format!("SHA-256={}", URL_SAFE.encode(stat.digest.0))),
        deleted: false,
    }
}

/// Marks a description of bytes that were stored while they were there already.
const AGAIN: &str = "wasmill-stored-again";

/// The description of a blob that is stored once more.
pub(super) fn stored_again(info: &ObjectInfo, modified: SystemTime) -> ObjectInfo {
    let mut young = ObjectInfo { modified: Some(modified.into()), ..info.clone() };
    young.metadata.insert(AGAIN.to_owned(), String::new());
    young
}

/// Whether a blob was stored more than once.
pub(super) fn was_stored_again(info: &ObjectInfo) -> bool {
    info.metadata.contains_key(AGAIN)
}

/// The content of a description; `None` when it describes no blob, or none any more.
pub(super) fn stat(info: &ObjectInfo) -> Option<BlobStat> {
    let digest = format!("sha256:{}", info.name).parse().ok()?;
    let modified = info.modified.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    (!info.deleted).then_some(BlobStat { digest, bytes: info.size as u64, modified })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_survives_its_encoding() {
        let expected = BlobStat { digest: Digest([7; 32]), bytes: 1_000, modified: SystemTime::now() };
        let info = describe("bucket", &expected, "upload", 3, 400);
        let json = serde_json::to_vec(&info).unwrap();
        assert_eq!(stat(&serde_json::from_slice(&json).unwrap()), Some(expected));
        assert_eq!(stat(&ObjectInfo { deleted: true, ..info.clone() }), None);
        assert_eq!(stat(&ObjectInfo { name: "notes.txt".to_owned(), ..info }), None);
    }
}
