//! Reading objects whose values are texts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads an optional object of texts; `null` is `None`.
///
/// A map of the standard library would keep the last of two values under one key, and which one was
/// meant nobody knows.
///
/// # Errors
///
/// For everything else, and for a key that is there twice.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    Ok(Option::<Texts>::deserialize(deserializer)?.map(|texts| texts.0))
}

struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextsVisitor).map(Self)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry::<String, String>()? {
            match texts.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(entry) => return Err(A::Error::custom(format!("duplicate field `{}`", entry.key()))),
            }
        }
        Ok(texts)
    }
}
