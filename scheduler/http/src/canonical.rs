//! JSON in one spelling, so that values can be compared by their text.

use std::ops::Range;

/// Longer texts are not read: they would hold up everything else on the thread.
const BYTES_MAX: usize = 1 << 20;
/// Deeper brackets are not followed.
const DEPTH_MAX: usize = 128;

/// The one spelling of a JSON text: no white space, keys in order, numbers and characters by what
/// they stand for. `None` for texts that are too long or too deep; they can only be compared as
/// they are written.
///
/// `text` must be JSON. Of a key that is there twice both values are kept, in their order.
pub(super) fn canonical(text: &str) -> Option<Vec<u8>> {
    if text.len() > BYTES_MAX {
        return None;
    }
    let mut writer = Writer { text: text.as_bytes(), at: 0, written: Vec::with_capacity(text.len()) };
    writer.value(0)?;
    Some(writer.written)
}

struct Writer<'a> {
    text: &'a [u8],
    at: usize,
    written: Vec<u8>,
}

impl Writer<'_> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.text.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            _ => {
                let word = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_lowercase()).count();
                if word == 0 {
                    return None;
                }
                self.written.extend_from_slice(&self.text[self.at..self.at + word]);
                self.at += word;
                Some(())
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.written.push(b'[');
        if self.peek()? != b']' {
            loop {
                self.value(depth + 1)?;
                match self.peek()? {
                    b',' => self.at += 1,
                    _ => break,
                }
                self.written.push(b',');
            }
        }
        self.at += 1;
        self.written.push(b']');
        Some(())
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.written.push(b'{');
        let begin = self.written.len();
        // Where each key is, and where its value ends.
        let mut members: Vec<(Range<usize>, usize)> = Vec::new();
        while self.peek()? == b'"' {
            let key = self.written.len();
            self.string()?;
            let key = key..self.written.len();
            self.peek()?;
            // The colon.
            self.at += 1;
            self.value(depth + 1)?;
            members.push((key, self.written.len()));
            if self.peek()? == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        let key = |member: &(Range<usize>, usize)| &self.written[member.0.clone()];
        if !members.is_sorted_by(|left, right| key(left) <= key(right)) {
            let mut sorted = members.clone();
            sorted.sort_by(|left, right| key(left).cmp(key(right)));
            let bytes: Vec<u8> = sorted.iter().flat_map(|(key, end)| &self.written[key.start..*end]).copied().collect();
            self.written.truncate(begin);
            self.written.extend_from_slice(&bytes);
        }
        // Keys begin with a quotation mark, so nothing is needed between the members.
        self.written.push(b'}');
        Some(())
    }

    /// A string: what can stand for itself does, all else is an escape of one kind. Halves of
    /// characters stay halves.
    fn string(&mut self) -> Option<()> {
        self.at += 1;
        self.written.push(b'"');
        loop {
            match self.take()? {
                b'"' => break,
                b'\\' => self.escape()?,
                byte => self.written.push(byte),
            }
        }
        self.written.push(b'"');
        Some(())
    }

    fn escape(&mut self) -> Option<()> {
        let code = match self.take()? {
            b'u' => self.unit()?,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => 0x0a,
            b'r' => 0x0d,
            b't' => 0x09,
            byte => u32::from(byte),
        };
        let mut code = code;
        if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            let low = self.unit()?;
            if (0xdc00..0xe000).contains(&low) {
                code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            } else {
                self.at = before;
            }
        }
        match char::from_u32(code) {
            Some(character @ ('"' | '\\')) => self.written.extend_from_slice(&[b'\\', character as u8]),
            Some(character) if character >= ' ' => {
                self.written.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => self.written.extend_from_slice(format!("\\u{code:04x}").as_bytes()),
        }
        Some(())
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    /// A number as its digits, without zeros at either end, and a power of ten. None is rounded:
    /// two numbers that some reader takes for the same are not the same to every guest.
    fn number(&mut self) -> Option<()> {
        if self.text[self.at] == b'-' {
            self.written.push(b'-');
            self.at += 1;
        }
        let begin = self.written.len();
        let (mut exponent, mut in_fraction) = (0_i64, false);
        while let Some(byte @ (b'0'..=b'9' | b'.')) = self.text.get(self.at).copied() {
            self.at += 1;
            match byte {
                b'.' => in_fraction = true,
                digit => {
                    exponent -= i64::from(in_fraction);
                    if digit != b'0' || self.written.len() > begin {
                        self.written.push(digit);
                    }
                }
            }
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            let length =
                self.text[self.at..].iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-')).count();
            let written = std::str::from_utf8(&self.text[self.at..self.at + length]).ok()?;
            self.at += length;
            // One that does not fit is no number that anybody computes with.
            exponent = exponent.checked_add(written.parse::<i64>().ok()?)?;
        }
        while self.written.len() > begin && self.written.last() == Some(&b'0') {
            self.written.pop();
            exponent += 1;
        }
        if self.written.len() == begin {
            self.written.push(b'0');
            exponent = 0;
        }
        if exponent != 0 {
            self.written.extend_from_slice(format!("e{exponent}").as_bytes());
        }
        self.written.push(b';');
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn same(left: &str, right: &str) -> bool {
        for text in [left, right] {
            serde_json::from_str::<Box<serde_json::value::RawValue>>(text).unwrap();
        }
        canonical(left).unwrap() == canonical(right).unwrap()
    }

    #[test]
    fn spelling_does_not_matter() {
        for (left, right) in [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true ,\n null ] , \"a\" : 1 }"),
            (r#"{"a":{"y":1,"x":2},"":0}"#, r#"{"":0,"a":{"x":2,"y":1}}"#),
            ("[1, 1.0, 1e0, 10e-1, 0.1E+1, 100e-2]", "[1,1,1,1,1,1]"),
            ("[0, 0.0, 0e5, 0.000]", "[0,0,0,0]"),
            ("[1500, -2.50]", "[1.5e3, -25e-1]"),
            (r#""\u0061\/\u00e9\ud83d\ude00""#, r#""a/é😀""#),
            (r#""\u000a\u0022\u005c\b""#, r#""\n\"\\\u0008""#),
            (r#""\ud83d\uD83D""#, r#""\uD83D\ud83d""#),
            ("[]", "[ ]"),
            ("{}", "{\t}"),
        ] {
            assert!(same(left, right), "{left} {right}");
        }
    }

    #[test]
    fn values_do() {
        for (left, right) in [
            ("[1,2]", "[2,1]"),
            ("[1,2]", "[12]"),
            ("[[1],2]", "[[1,2]]"),
            ("1", r#""1""#),
            ("1", "-1"),
            ("0", "-0"),
            ("12345678901234567890123", "12345678901234567890124"),
            ("0.1", "0.10000000000000000555"),
            ("null", "false"),
            ("{}", "[]"),
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            (r#"{"a":"","b":1}"#, r#"{"a":1,"b":""}"#),
            (r#""\ud83d""#, r#""\ude00""#),
            (r#""\ud83d""#, r#""\\ud83d""#),
            (r#"{"a":12,"b":3}"#, r#"{"a":1,"b":23}"#),
        ] {
            assert!(!same(left, right), "{left} {right}");
        }
        assert_eq!(canonical(&"[".repeat(200)), None);
        assert_eq!(canonical("1e99999999999999999999"), None);
        assert_eq!(canonical(&format!("\"{}\"", "x".repeat(BYTES_MAX))), None);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-50_i64..50).prop_map(Value::from),
            "[a\"\\\\\n é😀]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[ab\"]{0,2}", inner, 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_same_and_only_the_same_values_have_one_spelling(left in value(), right in value()) {
            let pretty = serde_json::to_string_pretty(&left).unwrap();
            prop_assert!(same(&left.to_string(), &pretty));
            prop_assert_eq!(same(&left.to_string(), &right.to_string()), left == right);
        }
    }
}
