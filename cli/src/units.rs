//! Sizes, times and pairs: as users write them, and as tables show them.

use std::collections::BTreeMap;

use wasmill_api::Time;
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::{Digest, Timestamp};

use crate::failure::Failure;

const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

/// Reads `65536`, `64KiB`, `64 MiB`, `1GB` as bytes; the unit's case does not matter.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let found = UNITS.iter().find_map(|(unit, factor)| lower.strip_suffix(unit).map(|number| (number, *factor)));
    let (number, factor) = found.unwrap_or((&lower, 1));
    let number: u64 = number.trim_end().parse().map_err(|_| {
        format!("`{text}` is not a size: a whole number of bytes, or one with KiB, MiB, GiB, KB, MB or GB, is expected")
    })?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is over the largest size of {} bytes", u64::MAX))
}

/// Reads `key=value`; the key must not be empty, the value may be and may contain `=`.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not a pair: `key=value` is expected")),
    }
}

/// Pairs as a map; `None` when there are none.
///
/// # Errors
///
/// A key is there twice: which of its values is meant nobody knows.
pub(crate) fn map_of_pairs(
    option: &str,
    pairs: Vec<(String, String)>,
) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        if map.contains_key(&key) {
            return Err(Failure::usage(format!("`{option}` names `{key}` twice")));
        }
        map.insert(key, value);
    }
    Ok((!map.is_empty()).then_some(map))
}

/// `812 B`, `1.5 KiB`, `64.0 MiB`.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    for unit in ["KiB", "MiB", "GiB"] {
        value /= 1024.0;
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
    }
    format!("{:.1} TiB", value / 1024.0)
}

/// `850 us`, `12.3 ms`, `4.56 s`, `3m 20s`, `5h 10m`, `3d 4h`.
pub(crate) fn show_us(us: u64) -> String {
    let seconds = us / 1_000_000;
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.2} s", us as f64 / 1e6),
        _ if seconds < 3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// How long before `now` something was.
pub(crate) fn show_age(then: Time, now: Timestamp) -> String {
    match now.us_since(then.0) {
        us if us < 60_000_000 => format!("{}s", us / 1_000_000),
        us => show_us(us),
    }
}

/// As the interface names it.
pub(crate) fn show_kind(kind: ModuleKind) -> &'static str {
    match kind {
        ModuleKind::Task => "task",
        ModuleKind::Command => "command",
    }
}

/// The wall clock of this machine.
pub(crate) fn wall_clock() -> Timestamp {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX))
}

/// `sha256:` and the first 12 of 64 digits: enough for people to tell modules apart.
pub(crate) fn short_digest(digest: &Digest) -> String {
    format!("sha256:{}", &digest.hex()[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("12b", 12),
            ("64KiB", 65_536),
            ("64 mib", 67_108_864),
            ("4GiB", 4 << 30),
            ("1TiB", 1 << 40),
            ("2KB", 2_000),
            ("3mb", 3_000_000),
            ("1GB", 1_000_000_000),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "64M", "64 MiBs", "99999999999999999999", "99999999999TiB", "0x10"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_are_read() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_pair("a="), Ok(("a".into(), String::new())));
        for text in ["", "a", "=b"] {
            assert!(parse_pair(text).is_err(), "{text}");
        }
    }

    #[test]
    fn c30_a_key_that_is_there_twice_is_refused() {
        let pairs = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), String::new())).collect::<Vec<_>>();
        assert!(map_of_pairs("--label", pairs(&[])).unwrap().is_none());
        assert_eq!(map_of_pairs("--label", pairs(&["a", "b"])).unwrap().unwrap().len(), 2);
        let error = map_of_pairs("--label", pairs(&["a", "b", "a"])).unwrap_err();
        assert!(error.to_string().contains("`--label` names `a` twice"), "{error}");
    }

    #[test]
    fn amounts_are_shown() {
        assert_eq!(
            [0, 1023, 1536, 67_108_864, 5 << 40].map(show_bytes),
            ["0 B", "1023 B", "1.5 KiB", "64.0 MiB", "5.0 TiB"]
        );
        assert_eq!(
            [999, 12_345, 4_560_000, 200_000_000, 18_600_000_000, 273_600_000_000].map(show_us),
            ["999 us", "12.3 ms", "4.56 s", "3m 20s", "5h 10m", "3d 4h"]
        );
        let now: Timestamp = "2026-03-01T12:00:10.000Z".parse().unwrap();
        for (then, age) in [("2026-03-01T12:00:00.000Z", "10s"), ("2026-03-01T11:57:00.000Z", "3m 10s")] {
            assert_eq!(show_age(then.parse().unwrap(), now), age);
        }
    }
}
