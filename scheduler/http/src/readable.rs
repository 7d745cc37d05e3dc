//! Which bytes every reader of JSON can read as a JSON value.
//!
//! A document that holds one value that some reader refuses cannot be read by it at all, `state`
//! and `outcome` included. So a value of a user's is shown as JSON only if it is within what all
//! readers agree on: RFC 8259 with the limits of RFC 7493. Numbers fit a double, strings are made
//! of whole characters, no object has a key twice, and brackets are not nested too deeply.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};

/// Deeper values would make the parsers of some clients give up on the whole answer.
pub(super) const DEPTH_MAX: usize = 64;

/// Keys of the objects that are open at one time. A value with more is not shown as JSON: they
/// would have to be remembered.
const KEYS_MAX: usize = 100_000;

/// Whether `bytes` are one JSON value that every reader can read.
pub(super) fn is_readable(bytes: &[u8]) -> bool {
    let mut check = JsonCheck::new();
    std::str::from_utf8(bytes).is_ok() && check.push(bytes) && check.finish()
}

/// The form of bytes that come in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON value that every reader can read.
    Json,
    /// UTF-8.
    Text,
    /// Anything else.
    Bytes,
}

/// Finds the form of bytes that come in pieces, in bounded memory.
pub(super) struct Classifier {
    text: Utf8Check,
    json: JsonCheck,
}

impl Classifier {
    /// Nothing has come yet.
    pub(super) fn new() -> Self {
        Self { text: Utf8Check::default(), json: JsonCheck::new() }
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.text.push(bytes);
        self.json.push(bytes);
    }

    /// Everything has come.
    pub(super) fn finish(self) -> Form {
        match (self.text.finish(), self.json.finish()) {
            (true, true) => Form::Json,
            (true, false) => Form::Text,
            (false, _) => Form::Bytes,
        }
    }
}

/// Whether bytes that come in pieces are UTF-8.
#[derive(Default)]
struct Utf8Check {
    /// The beginning of a character that the last piece has cut.
    begun: Vec<u8>,
    failed: bool,
}

impl Utf8Check {
    fn push(&mut self, mut bytes: &[u8]) {
        while !self.failed && !self.begun.is_empty() {
            let Some((first, rest)) = bytes.split_first() else { return };
            self.begun.push(*first);
            bytes = rest;
            match std::str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                Err(error) => self.failed = error.error_len().is_some(),
            }
        }
        if self.failed {
            return;
        }
        if let Err(error) = std::str::from_utf8(bytes) {
            self.failed = error.error_len().is_some();
            self.begun = bytes[error.valid_up_to()..].to_vec();
            self.begun.truncate(4);
        }
    }

    fn finish(self) -> bool {
        !self.failed && self.begun.is_empty()
    }
}

/// Reads one JSON value byte by byte. That it is UTF-8 is left to others.
struct JsonCheck {
    next: Expected,
    open: Vec<Open>,
    keys: usize,
    string: StringRead,
    number: NumberRead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Value,
    /// A value, or the end of an array that has just begun.
    FirstItem,
    /// A key, or the end of an object that has just begun.
    FirstKey,
    Key,
    Colon,
    /// The rest of `true`, `false` or `null`.
    Word(&'static [u8]),
    String,
    Number,
    /// A comma, the end of what is open, or of everything.
    Next,
    /// It is no JSON, or not for every reader.
    Failed,
}

enum Open {
    Array,
    /// With hashes of its keys.
    Object(HashSet<u64>),
}

#[derive(Default)]
struct StringRead {
    /// Set for a key.
    key: Option<DefaultHasher>,
    escape: Escape,
    /// The first half of a pair, whose second half must follow.
    high: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Escape {
    #[default]
    None,
    Begun,
    Unicode {
        digits: u8,
        unit: u32,
    },
}

impl JsonCheck {
    fn new() -> Self {
        Self {
            next: Expected::Value,
            open: Vec::new(),
            keys: 0,
            string: StringRead::default(),
            number: NumberRead::default(),
        }
    }

    /// Whether it may still become a value.
    fn push(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            self.next = self.take(*byte).unwrap_or(Expected::Failed);
            if self.next == Expected::Failed {
                return false;
            }
        }
        true
    }

    fn finish(mut self) -> bool {
        if self.next == Expected::Number {
            self.next = if self.number.is_readable() { Expected::Next } else { Expected::Failed };
        }
        self.next == Expected::Next && self.open.is_empty()
    }

    fn take(&mut self, byte: u8) -> Option<Expected> {
        match self.next {
            Expected::Failed => None,
            Expected::String => self.take_in_string(byte),
            Expected::Number => {
                if self.number.take(byte) {
                    return Some(Expected::Number);
                }
                if !self.number.is_readable() {
                    return None;
                }
                self.next = Expected::Next;
                self.take(byte)
            }
            Expected::Word(rest) => {
                let (first, rest) = rest.split_first()?;
                (*first == byte).then_some(if rest.is_empty() { Expected::Next } else { Expected::Word(rest) })
            }
            next if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => Some(next),
            Expected::Value => self.begin(byte),
            Expected::FirstItem if byte == b']' => self.close(),
            Expected::FirstItem => self.begin(byte),
            Expected::FirstKey if byte == b'}' => self.close(),
            Expected::FirstKey | Expected::Key => {
                self.string = StringRead { key: Some(DefaultHasher::new()), ..StringRead::default() };
                (byte == b'"').then_some(Expected::String)
            }
            Expected::Colon => (byte == b':').then_some(Expected::Value),
            Expected::Next => match (self.open.last()?, byte) {
                (Open::Array, b',') => Some(Expected::Value),
                (Open::Object(_), b',') => Some(Expected::Key),
                (Open::Array, b']') | (Open::Object(_), b'}') => self.close(),
                _ => None,
            },
        }
    }

    fn begin(&mut self, byte: u8) -> Option<Expected> {
        match byte {
            b'{' => self.open(Open::Object(HashSet::new()), Expected::FirstKey),
            b'[' => self.open(Open::Array, Expected::FirstItem),
            b'"' => {
                self.string = StringRead::default();
                Some(Expected::String)
            }
            b't' => Some(Expected::Word(b"rue")),
            b'f' => Some(Expected::Word(b"alse")),
            b'n' => Some(Expected::Word(b"ull")),
            b'-' | b'0'..=b'9' => {
                self.number = NumberRead::default();
                self.number.take(byte).then_some(Expected::Number)
            }
            _ => None,
        }
    }

    fn open(&mut self, open: Open, next: Expected) -> Option<Expected> {
        self.open.push(open);
        (self.open.len() <= DEPTH_MAX).then_some(next)
    }

    fn close(&mut self) -> Option<Expected> {
        if let Open::Object(keys) = self.open.pop()? {
            self.keys -= keys.len();
        }
        Some(Expected::Next)
    }

    fn take_in_string(&mut self, byte: u8) -> Option<Expected> {
        let string = &mut self.string;
        match (string.escape, byte) {
            (Escape::None, 0..=0x1f) => return None,
            (Escape::None, b'\\') => string.escape = Escape::Begun,
            (Escape::None, _) if string.high.is_some() => return None,
            (Escape::None, b'"') => return self.end_string(),
            (Escape::None, _) => string.hash(&[byte]),
            (Escape::Begun, b'u') => string.escape = Escape::Unicode { digits: 0, unit: 0 },
            (Escape::Begun, _) if string.high.is_some() => return None,
            (Escape::Begun, _) => {
                string.hash(&[unescaped(byte)?]);
                string.escape = Escape::None;
            }
            (Escape::Unicode { digits, unit }, _) => {
                let unit = unit * 16 + char::from(byte).to_digit(16)?;
                string.escape = Escape::Unicode { digits: digits + 1, unit };
                if digits == 3 {
                    string.escape = Escape::None;
                    string.take_unit(unit)?;
                }
            }
        }
        Some(Expected::String)
    }

    fn end_string(&mut self) -> Option<Expected> {
        let Some(key) = self.string.key.take() else { return Some(Expected::Next) };
        let Some(Open::Object(keys)) = self.open.last_mut() else { return None };
        self.keys += 1;
        (keys.insert(key.finish()) && self.keys <= KEYS_MAX).then_some(Expected::Colon)
    }
}

impl StringRead {
    /// A key is the same however it is written, so what is hashed is what it stands for.
    fn hash(&mut self, bytes: &[u8]) {
        if let Some(key) = &mut self.key {
            bytes.iter().for_each(|byte| key.write_u8(*byte));
        }
    }

    /// Takes a UTF-16 code unit. `None` when no character comes of it.
    fn take_unit(&mut self, unit: u32) -> Option<()> {
        let code = match (self.high.take(), unit) {
            (None, 0xd800..=0xdbff) => {
                self.high = Some(unit);
                return Some(());
            }
            (None, _) => unit,
            (Some(high), 0xdc00..=0xdfff) => 0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00),
            (Some(_), _) => return None,
        };
        let character = char::from_u32(code)?;
        self.hash(character.encode_utf8(&mut [0; 4]).as_bytes());
        Some(())
    }
}

fn unescaped(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

/// Reads a number without keeping it: how large it is follows from its first digits, where they
/// stand, and its exponent.
#[derive(Default)]
struct NumberRead {
    part: Part,
    /// The first digits that are not leading zeros.
    digits: u64,
    digit_count: u32,
    /// The value is `0.DIGITS` times ten to this and the exponent.
    point: i64,
    exponent: i64,
    exponent_is_negative: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Part {
    #[default]
    Nothing,
    Minus,
    /// A zero before the point, after which no other digit may come.
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

/// Digits that the largest double is written with.
const DIGITS: u32 = 17;
/// The largest double is `0.17976931348623157e309`; what begins with the same digits is rounded to
/// it.
const LARGEST: (i64, u64) = (309, 17_976_931_348_623_157);

impl NumberRead {
    /// Whether the byte belongs to the number.
    fn take(&mut self, byte: u8) -> bool {
        self.part = match (self.part, byte) {
            (Part::Nothing, b'-') => Part::Minus,
            (Part::Nothing | Part::Minus, b'0') => Part::Zero,
            (Part::Nothing | Part::Minus | Part::Whole, b'0'..=b'9') => {
                self.digit(byte);
                self.point += 1;
                Part::Whole
            }
            (Part::Zero | Part::Whole, b'.') => Part::Point,
            (Part::Point | Part::Fraction, b'0'..=b'9') => {
                if !self.digit(byte) {
                    self.point -= 1;
                }
                Part::Fraction
            }
            (Part::Zero | Part::Whole | Part::Fraction, b'e' | b'E') => Part::E,
            (Part::E, b'+' | b'-') => {
                self.exponent_is_negative = byte == b'-';
                Part::Sign
            }
            (Part::E | Part::Sign | Part::Exponent, b'0'..=b'9') => {
                self.exponent = self.exponent.saturating_mul(10).saturating_add(i64::from(byte - b'0'));
                Part::Exponent
            }
            _ => return false,
        };
        true
    }

    /// Whether a digit other than zero has come by now.
    fn digit(&mut self, byte: u8) -> bool {
        if self.digit_count == 0 && byte == b'0' {
            return false;
        }
        if self.digit_count < DIGITS {
            self.digits = self.digits * 10 + u64::from(byte - b'0');
            self.digit_count += 1;
        }
        true
    }

    /// Whether it is complete and a double can hold it.
    fn is_readable(&self) -> bool {
        if !matches!(self.part, Part::Zero | Part::Whole | Part::Fraction | Part::Exponent) {
            return false;
        }
        if self.digit_count == 0 {
            return true;
        }
        let exponent = if self.exponent_is_negative { -self.exponent } else { self.exponent };
        let digits = self.digits * 10_u64.pow(DIGITS - self.digit_count);
        (self.point.saturating_add(exponent), digits) <= LARGEST
    }
}

#[cfg(test)]
mod tests;
