//! The common part of the tests of each package with stored or sent types: the neighbouring
//! versions of a type.

use serde::{Deserialize, Serialize};

/// Something that a newer version might write: all fields of today, and one that today's reader has
/// never heard of.
#[derive(Serialize)]
struct Newer<'a, T> {
    #[serde(flatten)]
    today: &'a T,
    from_the_future: &'static str,
}

/// The message of an old writer that knew no field at all.
#[derive(Serialize, Deserialize)]
struct Oldest {}

/// The reader of today understands a writer that knows one field more, and one that knows none.
pub(crate) fn check<T: Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug + Default>(value: &T) {
    let newer = rmp_serde::to_vec_named(&Newer { today: value, from_the_future: "unknown" }).unwrap();
    assert_eq!(&rmp_serde::from_slice::<T>(&newer).unwrap(), value);
    let oldest = rmp_serde::to_vec_named(&Oldest {}).unwrap();
    assert_eq!(rmp_serde::from_slice::<T>(&oldest).unwrap(), T::default());
}
