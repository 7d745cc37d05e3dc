//! Fuzz targets of the words between processes.

mod targets;

/// Messages on the bus, and what control nodes say to each other.
pub fn messages(bytes: &[u8]) {
    targets::messages(bytes);
}
