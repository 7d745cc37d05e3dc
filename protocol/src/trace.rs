//! The place in a trace that something happens under, as W3C Trace Context has it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A span of a trace that other spans can be below.
///
/// Written as the header `traceparent` of <https://www.w3.org/TR/trace-context/>; stored and sent
/// as 25 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Names the trace; never all zeros.
    pub trace_id: [u8; 16],
    /// Names the span within it; never all zeros.
    pub span_id: [u8; 8],
    /// Whether the trace is recorded: what is below a trace that is not recorded is not recorded
    /// either.
    pub sampled: bool,
}

/// A text or bytes that name no span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a W3C traceparent: `00-<32 hex>-<16 hex>-<2 hex>` in lower case, and no id of zeros, is expected")]
pub struct ParseTraceParentError;

/// The only version whose length is known; later ones begin alike.
const VERSION: &str = "00";
/// Characters of version 00.
const TEXT_BYTES: usize = 55;
/// Bytes of the stored form: trace, span, flags.
const STORED_BYTES: usize = 25;
/// The flag that says that the trace is recorded.
const SAMPLED: u8 = 1;
const _: () = assert!(TEXT_BYTES == "00-".len() + 2 * 16 + "-".len() + 2 * 8 + "-00".len());
const _: () = assert!(STORED_BYTES == 16 + 8 + size_of_val(&SAMPLED));

impl TraceParent {
    fn of(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Result<Self, ParseTraceParentError> {
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Err(ParseTraceParentError);
        }
        Ok(Self { trace_id, span_id, sampled: flags & SAMPLED != 0 })
    }

    fn flags(self) -> u8 {
        if self.sampled { SAMPLED } else { 0 }
    }
}

impl FromStr for TraceParent {
    type Err = ParseTraceParentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let (first, rest) = bytes.split_at_checked(TEXT_BYTES).ok_or(ParseTraceParentError)?;
        let [version] = hex(&first[..2])?;
        // A later version may say more behind another hyphen; 00 says nothing more, and ff is no
        // version.
        let length_fits = rest.is_empty() || (version != 0 && rest[0] == b'-');
        let hyphens = [2, 35, 52].iter().all(|&at| first[at] == b'-');
        if !length_fits || !hyphens || version == 0xff {
            return Err(ParseTraceParentError);
        }
        let [flags] = hex(&first[53..])?;
        Self::of(hex(&first[3..35])?, hex(&first[36..52])?, flags)
    }
}

/// Lower-case hexadecimal digits, two for each of the `N` bytes.
fn hex<const N: usize>(digits: &[u8]) -> Result<[u8; N], ParseTraceParentError> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ParseTraceParentError),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Ok(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}-")?;
        self.trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags())
    }
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        let mut bytes = [0; STORED_BYTES];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.span_id);
        bytes[24] = self.flags();
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for TraceParent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
        }
        let bytes = bytes::Bytes::deserialize(deserializer)?;
        let bytes: &[u8; STORED_BYTES] = bytes[..].try_into().map_err(|_| D::Error::custom(ParseTraceParentError))?;
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        trace_id.copy_from_slice(&bytes[..16]);
        span_id.copy_from_slice(&bytes[16..24]);
        Self::of(trace_id, span_id, bytes[24]).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn read_and_written_as_the_standard_has_it() {
        let parent: TraceParent = TEXT.parse().unwrap();
        assert!(parent.sampled && parent.trace_id[0] == 0x0a && parent.span_id[7] == 0x31);
        assert_eq!(parent.to_string(), TEXT);
        // Flags that are not known are not passed on; a later version may say more.
        let later = TEXT.replacen("00", "7f", 1).replace("-01", "-03-more");
        assert_eq!(later.parse(), Ok(parent));
        assert_eq!(TEXT.replace("-01", "-fe").parse(), Ok(TraceParent { sampled: false, ..parent }));
    }

    #[test]
    fn what_is_not_exactly_one_is_refused() {
        for wrong in [
            String::new(),
            TEXT[..54].to_owned(),
            format!("{TEXT}-"),
            format!("{TEXT}0"),
            TEXT.to_uppercase(),
            TEXT.replacen("00", "ff", 1),
            TEXT.replacen('-', "_", 1),
            TEXT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            TEXT.replace("b7ad6b7169203331", &"0".repeat(16)),
            format!("{}é", &TEXT[..54]),
        ] {
            assert_eq!(wrong.parse::<TraceParent>(), Err(ParseTraceParentError), "{wrong}");
        }
    }

    #[test]
    fn stored_in_25_bytes() {
        for parent in [TEXT.parse().unwrap(), TraceParent { sampled: false, ..TEXT.parse().unwrap() }] {
            let bytes = rmp_serde::to_vec_named(&parent).unwrap();
            assert_eq!(bytes.len(), 2 + STORED_BYTES);
            assert_eq!(rmp_serde::from_slice::<TraceParent>(&bytes).unwrap(), parent);
            let text = serde_json::to_string(&parent).unwrap();
            assert_eq!(serde_json::from_str::<TraceParent>(&text).unwrap(), parent);
        }
        let short = rmp_serde::to_vec_named(&bytes::Bytes::from_static(&[1; 24])).unwrap();
        assert!(rmp_serde::from_slice::<TraceParent>(&short).is_err());
    }
}
