//! The targets, which the tests of `protocol` include too, so that what was found is tried again in
//! every run.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmill_protocol::TaskSpec;
use wasmill_protocol::command::{Command, Reply};
use wasmill_protocol::message::{Assignment, FromHost, Heartbeat, HostAck, HostInfo, ToHost};

/// The first byte says which message the others are.
pub(crate) fn messages(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 9 {
        0 => packed::<ToHost>(bytes),
        1 => packed::<FromHost>(bytes),
        2 => packed::<Heartbeat>(bytes),
        3 => packed::<HostAck>(bytes),
        4 => packed::<HostInfo>(bytes),
        5 => packed::<Assignment>(bytes),
        6 => packed::<Command>(bytes),
        7 => packed::<Reply>(bytes),
        _ => packed::<TaskSpec>(bytes),
    }
}

fn packed<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = rmp_serde::from_slice::<T>(bytes) else { return };
    let encoded = rmp_serde::to_vec_named(&message).unwrap();
    assert_eq!(rmp_serde::from_slice::<T>(&encoded).unwrap(), message);
}
