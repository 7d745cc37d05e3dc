use std::collections::HashSet;
use std::fmt;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::*;

/// Any JSON value whose objects have no key twice.
struct Distinct;

struct DistinctVisitor;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DistinctVisitor)
    }
}

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Distinct;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_str<E>(self, _: &str) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_unit<E>(self) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Distinct, A::Error> {
        while items.next_element::<Distinct>()?.is_some() {}
        Ok(Distinct)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Distinct, A::Error> {
        let mut keys = HashSet::new();
        while let Some((key, _)) = entries.next_entry::<String, Distinct>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom("the same key twice"));
            }
        }
        Ok(Distinct)
    }
}

fn classified(pieces: &[&[u8]]) -> Form {
    let mut classifier = Classifier::new();
    pieces.iter().for_each(|piece| classifier.push(piece));
    classifier.finish()
}

#[test]
fn c30_what_every_reader_can_read_is_shown_as_json() {
    for text in [
        r#"{"a": [1, 2]}"#,
        "null",
        " \t\r\n7 ",
        "[]",
        "{}",
        r#"{"":{"":[{},[]]}}"#,
        r#"["\ud83d\ude00", "\u0000", "\"\\\/\b\f\n\r\t", "é😀"]"#,
        "[-0, 0.0, -0.5e-7, 1E+2, 12345678901234567890123, 0e999999999999999999999]",
        "[1.7976931348623157e308, -17976931348623157e292, 1e308, 1e-400, 1e-99999999999999999999]",
        "[0.00000000000000000000000000000000000000000000000000001e360, 100000e303]",
        r#"[{"a":1},{"a":2},{"b":{"a":1},"a":3}]"#,
    ] {
        assert!(is_readable(text.as_bytes()), "{text}");
        assert!(serde_json::from_str::<Value>(text).is_ok(), "{text}");
    }
}

#[test]
fn c30_what_some_reader_cannot_read_is_not_shown_as_json() {
    for text in [
        "",
        " ",
        "hello",
        r#"{"a":}"#,
        "1 2",
        "[1,]",
        "{,}",
        r#"{"a":1,}"#,
        "[1}",
        "]",
        "nul",
        "truefalse",
        "NaN",
        "Infinity",
        "-",
        "01",
        "1.",
        ".5",
        "1e",
        "1e+",
        "+1",
        "0x1",
        r#""a"#,
        "\"\n\"",
        r#""\x""#,
        r#""\u12g4""#,
        r#"{"a"}"#,
        r#"{1:2}"#,
        "[1 2]",
        r#"{"a" 1}"#,
        "\u{feff}1",
        // Numbers beyond a double.
        "1e309",
        "-1e400",
        "[1e1000]",
        "17976931348623159e292",
        "1e99999999999999999999999",
        "0.0001e313",
        "123456789e301",
        // Halves of characters.
        r#""\ud83d""#,
        r#""\ude00""#,
        r#""\ud83dx""#,
        r#""\ud83d\n""#,
        r#""\ud83d\ud83d""#,
        r#""\ude00\ud83d""#,
        r#"{"\ud83d":1}"#,
        // The same key twice, however it is written.
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"b":[],"\u0061":1}"#,
        r#"[{"😀":1,"\ud83d\ude00":1}]"#,
        r#"{"/":1,"\/":2}"#,
    ] {
        assert!(!is_readable(text.as_bytes()), "{text}");
    }
    assert!(!is_readable(b"\"\xff\""));
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    assert!(is_readable(&nested(DEPTH_MAX)));
    assert!(!is_readable(&nested(DEPTH_MAX + 1)));
    let long = format!("1{}", "0".repeat(308));
    assert!(is_readable(long.as_bytes()));
    assert!(!is_readable(format!("{long}0").as_bytes()));
}

#[test]
fn objects_with_too_many_keys_are_not_remembered() {
    let object = |keys: usize| {
        let entries: Vec<String> = (0..keys).map(|key| format!("\"{key}\":0")).collect();
        format!("{{{}}}", entries.join(","))
    };
    assert!(is_readable(object(KEYS_MAX).as_bytes()));
    assert!(!is_readable(object(KEYS_MAX + 1).as_bytes()));
    let closed = object(KEYS_MAX / 2);
    assert!(is_readable(format!("[{closed},{closed},{closed}]").as_bytes()), "what is closed is forgotten");
}

#[test]
fn the_form_is_found_in_pieces() {
    assert_eq!(classified(&[]), Form::Text);
    assert_eq!(classified(&[b"{\"a\"", b":[\"\xf0\x9f", b"", b"\x98\x80\"]}"]), Form::Json);
    assert_eq!(classified(&[b"\xe2", b"\x82", b"\xac"]), Form::Text);
    assert_eq!(classified(&[b"[1e", b"400]"]), Form::Text);
    assert_eq!(classified(&[b"\"\xe2\x82", b"\""]), Form::Bytes);
    assert_eq!(classified(&[b"a\xe2\x82"]), Form::Bytes);
    assert_eq!(classified(&[b"\xff", b"a"]), Form::Bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A second implementation, which keeps everything.
    #[test]
    fn agrees_with_a_parser(text in r#"([\[\]{}:, "\\u0-9deEa.+-]|"[ab]":|\\u(d83d|de00|0061)|true|1e30[0-9]|[1-9]{17}e29[0-9]){0,12}"#) {
        // The one spelling of the largest double that is refused although it is rounded to it.
        prop_assume!(!text.contains("17976931348623158"));
        prop_assert_eq!(is_readable(text.as_bytes()), serde_json::from_str::<Distinct>(&text).is_ok(), "{}", text);
    }

    #[test]
    fn pieces_do_not_matter(text in r#"([\[\]{}:, "\\u0-9eE.+-]|"[ab]":|\\u(d83d|de00)|true|€|😀){0,12}"#, cut in 0..40_usize) {
        let bytes = text.as_bytes();
        let (left, right) = bytes.split_at(cut.min(bytes.len()));
        prop_assert_eq!(classified(&[left, right]), classified(&[bytes]));
        prop_assert_eq!(classified(&[bytes]) == Form::Json, is_readable(bytes));
    }
}
