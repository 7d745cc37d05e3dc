//! What a message carries.

use std::any::{Any, type_name};
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value on its way to another part of the system.
///
/// It is encoded when it leaves the process, and not before: on one machine, the agent and the leader hand each other
/// what they say as it is.
pub struct Content(Form);

enum Form {
    Encoded(Bytes),
    Value { value: Box<dyn Any + Send>, type_name: &'static str, encode: fn(&(dyn Any + Send)) -> Bytes },
}

impl Content {
    /// A value, which its receiver reads as the same type.
    ///
    /// # Panics
    ///
    /// When it is encoded later and cannot be; messages always can.
    pub fn of<T: Serialize + Send + 'static>(value: T) -> Self {
        let encode = |value: &(dyn Any + Send)| match value.downcast_ref::<T>().map(rmp_serde::to_vec_named) {
            Some(Ok(bytes)) => bytes.into(),
            other => unreachable!("messages are always encodable: {other:?}"),
        };
        Self(Form::Value { value: Box::new(value), type_name: type_name::<T>(), encode })
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// When the bytes are no encoding of one. A value of another type is encoded and read.
    pub fn read<T: DeserializeOwned + 'static>(self) -> Result<T, rmp_serde::decode::Error> {
        match self.0 {
            Form::Value { value, type_name, encode } => match value.downcast::<T>() {
                Ok(value) => Ok(*value),
                Err(value) => Self(Form::Value { value, type_name, encode }).decode(),
            },
            encoded @ Form::Encoded(_) => Self(encoded).decode(),
        }
    }

    /// Its encoding.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Form::Encoded(bytes) => bytes,
            Form::Value { value, encode, .. } => encode(&*value),
        }
    }

    /// How many bytes it has, when it is encoded already.
    pub(crate) fn encoded_bytes(&self) -> Option<usize> {
        match &self.0 {
            Form::Encoded(bytes) => Some(bytes.len()),
            Form::Value { .. } => None,
        }
    }

    fn decode<T: DeserializeOwned>(self) -> Result<T, rmp_serde::decode::Error> {
        rmp_serde::from_slice(&self.into_bytes())
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self(Form::Encoded(bytes))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Encoded(bytes) => write!(f, "Content({} bytes)", bytes.len()),
            Form::Value { type_name, .. } => write!(f, "Content({type_name})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Old {
        number: u32,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct New {
        number: u32,
        #[serde(default)]
        text: String,
    }

    #[test]
    fn a_value_is_read_as_it_is_or_from_its_encoding() {
        let old = Old { number: 7 };
        assert_eq!(Content::of(old.clone()).read::<Old>().unwrap(), old);
        let encoded = Content::of(old.clone()).into_bytes();
        assert_eq!(Content::from(encoded.clone()).read::<Old>().unwrap(), old);
        let new = New { number: 7, text: String::new() };
        assert_eq!(Content::of(old).read::<New>().unwrap(), new);
        assert_eq!(Content::from(encoded).read::<New>().unwrap(), new);
    }

    #[test]
    fn an_allocation_is_handed_over_and_not_copied() {
        let text = "text".to_owned();
        let address = text.as_ptr();
        let read: String = Content::of(text).read().unwrap();
        assert_eq!((read.as_ptr(), &*read), (address, "text"));
    }

    #[test]
    fn what_is_no_value_is_an_error() {
        assert!(Content::from(Bytes::from_static(b"\xc1")).read::<Old>().is_err());
        assert!(Content::of("text".to_owned()).read::<Old>().is_err());
    }

    #[test]
    fn it_is_shown_by_its_size_or_type() {
        assert_eq!(format!("{:?}", Content::from(Bytes::from_static(b"abc"))), "Content(3 bytes)");
        assert!(format!("{:?}", Content::of(1_u32)).contains("u32"));
    }
}
