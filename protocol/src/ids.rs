//! A newtype for everything that is named by a number or a string.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use uuid::Uuid;

/// Names a task: a UUIDv7, so that ids sort by creation time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

/// The order of the bytes, compared as one number: ids are the keys of the largest indexes.
impl Ord for TaskId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_u128().cmp(&other.0.as_u128())
    }
}

impl PartialOrd for TaskId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A text that does not name what it should name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseIdError {
    /// Not a UUID in its hyphenated form.
    #[error("`{0}` is not a task id: a UUID like `01890a5d-ac96-774b-bcce-b302099a8057` is expected")]
    Task(String),
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("`{0}` is not a digest: `sha256:` and 64 lower-case hexadecimal digits are expected")]
    Digest(String),
    /// Not a tenant, alias or token name.
    #[error(
        "`{0}` is not a name: 1 to {NAME_BYTES_MAX} characters of a-z, 0-9, `-`, `_`, `.` that begin with a letter or digit are expected"
    )]
    Name(String),
}

impl FromStr for TaskId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `Uuid` also accepts braces and no hyphens; one spelling per id keeps lookups and logs
        // comparable.
        match Uuid::try_parse(text) {
            Ok(uuid) if text.len() == 36 => Ok(Self(uuid)),
            _ => Err(ParseIdError::Task(excerpt(text))),
        }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The SHA-256 of some bytes, written `sha256:<64 hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The 64 hexadecimal digits without the `sha256:` in front: what file names are made of.
    pub fn hex(&self) -> String {
        use fmt::Write;
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a `String` cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseIdError::Digest(excerpt(text));
        let hex = text.strip_prefix("sha256:").ok_or_else(refused)?.as_bytes();
        if hex.len() != 64 {
            return Err(refused());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let high = hex_value(pair[0]).ok_or_else(refused)?;
            let low = hex_value(pair[1]).ok_or_else(refused)?;
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", &self.hex()[..12])
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        } else {
            let bytes = bytes::Bytes::deserialize(deserializer)?;
            let bytes = bytes.as_ref().try_into().map_err(|_| D::Error::invalid_length(bytes.len(), &"32 bytes"))?;
            Ok(Self(bytes))
        }
    }
}

/// The longest name of a tenant, an alias or a token.
pub const NAME_BYTES_MAX: usize = 63;

/// Whether `text` can name a tenant, an alias or a token; aliases may also carry one `:version`.
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= NAME_BYTES_MAX
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte))
}

/// Names a tenant. Cheap to clone: it is in every key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TenantName(Arc<str>);

impl TenantName {
    /// The tenant that always exists.
    pub fn default_tenant() -> Self {
        Self(Arc::from("default"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets a text look up what is keyed by tenant.
impl std::borrow::Borrow<str> for TenantName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Default for TenantName {
    fn default() -> Self {
        Self::default_tenant()
    }
}

impl FromStr for TenantName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_name(text) { Ok(Self(Arc::from(text))) } else { Err(ParseIdError::Name(excerpt(text))) }
    }
}

impl<'de> Deserialize<'de> for TenantName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a host for as long as its data directory lives.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostId(pub Arc<str>);

impl Default for HostId {
    fn default() -> Self {
        Self(Arc::from(""))
    }
}

impl From<&str> for HostId {
    fn from(text: &str) -> Self {
        Self(Arc::from(text))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number that follows.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Which try of a task this is, from 1; 0 before the first.
    Attempt(u32)
);
number!(
    /// The number of a leadership; it only grows.
    Term(u64)
);
number!(
    /// The place of a record in the log, from 1; 0 is the empty log.
    LogSeq(u64)
);
number!(
    /// One life of a host process: grows every time the host starts.
    Incarnation(u64)
);
number!(
    /// Drawn anew for every attempt, so that a report for another life of the same attempt is
    /// recognised.
    Nonce(u64)
);

/// One attempt of one task: what hosts deduplicate by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttemptId {
    /// The task.
    pub task: TaskId,
    /// Which try of it.
    pub attempt: Attempt,
    /// Tells this dispatch from any other of the same number.
    pub nonce: Nonce,
}

/// The beginning of a text that a user sent: enough to recognise it, never enough to flood a log.
fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_one_spelling() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in [
            digest.hex(),
            digest.to_string().to_uppercase(),
            digest.to_string().replace("ab", "AB"),
            "sha256:".into(),
            "sha256:../../etc/passwd".into(),
            format!("sha256:{}", "é".repeat(32)),
            format!("{digest}00"),
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn task_ids_have_one_spelling() {
        let id = TaskId(Uuid::from_u128(7));
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [id.0.simple().to_string(), id.0.braced().to_string(), String::new()] {
            assert!(wrong.parse::<TaskId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn task_ids_sort_as_their_bytes_do() {
        let ids = [0, 1, 255, 256, 1 << 64, u128::from(u64::MAX), u128::MAX - 1, u128::MAX].map(Uuid::from_u128);
        for (one, other) in ids.iter().flat_map(|one| ids.iter().map(move |other| (one, other))) {
            assert_eq!(TaskId(*one).cmp(&TaskId(*other)), one.as_bytes().cmp(other.as_bytes()));
        }
    }

    #[test]
    fn names() {
        for name in ["a", "default", "team-7", "a_b.c", &"x".repeat(NAME_BYTES_MAX)] {
            assert!(name.parse::<TenantName>().is_ok(), "{name}");
        }
        for name in ["", "-a", "A", "a b", "a/b", "ä", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(name.parse::<TenantName>().is_err(), "{name}");
        }
    }

    #[test]
    fn ids_survive_both_encodings() {
        let id = AttemptId { task: TaskId(Uuid::from_u128(1)), attempt: Attempt(2), nonce: Nonce(3) };
        let json = serde_json::to_string(&(id, Digest([1; 32]))).unwrap();
        assert_eq!(serde_json::from_str::<(AttemptId, Digest)>(&json).unwrap(), (id, Digest([1; 32])));
        let packed = rmp_serde::to_vec_named(&(id, Digest([1; 32]))).unwrap();
        assert_eq!(rmp_serde::from_slice::<(AttemptId, Digest)>(&packed).unwrap(), (id, Digest([1; 32])));
    }
}
