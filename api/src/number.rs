//! Reading whole numbers out of JSON, with messages for people.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads an optional number from 0 to 2^64 - 1; `null` is `None`.
///
/// JSON does not tell `1` from `1.0` or `1e0`, so neither does this.
///
/// # Errors
///
/// For everything else, in words that do not name Rust's types.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Option::<Whole>::deserialize(deserializer)?.map(|whole| whole.0))
}

/// Reads an optional number that may be negative; `null` is `None`.
///
/// # Errors
///
/// For everything else, in words that do not name Rust's types.
pub fn optional_signed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::<Signed>::deserialize(deserializer)?.map(|signed| signed.0))
}

/// Reads what tells `null` (`Some(None)`) from absent (`None`, through `#[serde(default)]`).
///
/// # Errors
///
/// As [`optional`].
pub fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    optional(deserializer).map(Some)
}

/// Reads an optional number from 0 to 2^64 - 1, or its digits as text: what holds numbers as
/// doubles cannot write every such number.
///
/// # Errors
///
/// As [`optional`].
pub fn optional_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Option::<WholeOrText>::deserialize(deserializer)?.map(|whole| whole.0))
}

/// Reads an optional list of numbers as [`optional`] reads one; `null` is `None`.
///
/// # Errors
///
/// For everything else, in words that do not name Rust's types.
pub fn optional_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u64>>, D::Error> {
    let list = Option::<Vec<Whole>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|whole| whole.0).collect()))
}

struct Whole(u64);
struct WholeOrText(u64);
struct Signed(i64);

/// 2^53: up to here every whole number is a float of its own.
const FLOAT_EXACT_MAX: f64 = 9_007_199_254_740_992.0;

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(WholeVisitor { or_text: false }).map(Self)
    }
}

impl<'de> Deserialize<'de> for WholeOrText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor { or_text: true }).map(Self)
    }
}

struct WholeVisitor {
    or_text: bool,
}

impl Visitor<'_> for WholeVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number that is not negative and fits 64 bits")?;
        f.write_str(if self.or_text { ", or its digits as text" } else { "" })
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<u64, E> {
        match whole_float(value) {
            Some(whole) if whole >= 0 => self.visit_i64(whole),
            _ => Err(E::invalid_value(Unexpected::Float(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<u64, E> {
        if !self.or_text {
            return Err(E::invalid_type(Unexpected::Str(value), &self));
        }
        let digits = value.bytes().all(|byte| byte.is_ascii_digit());
        value.parse().ok().filter(|_| digits).ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self))
    }
}

impl<'de> Deserialize<'de> for Signed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SignedVisitor;
        impl Visitor<'_> for SignedVisitor {
            type Value = Signed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Signed, E> {
                Ok(Signed(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Signed, E> {
                // A number out of range is refused by its bound later: that message is the
                // better one.
                Ok(Signed(i64::try_from(value).unwrap_or(i64::MAX)))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Signed, E> {
                whole_float(value).map(Signed).ok_or_else(|| E::invalid_value(Unexpected::Float(value), &self))
            }
        }
        deserializer.deserialize_i64(SignedVisitor)
    }
}

fn whole_float(value: f64) -> Option<i64> {
    // Within these bounds the conversion is exact.
    (value.fract() == 0.0 && value.abs() <= FLOAT_EXACT_MAX).then_some(value as i64)
}
