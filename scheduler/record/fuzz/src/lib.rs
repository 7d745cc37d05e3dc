//! Fuzz targets of what is stored in the log.

mod targets;

/// Records of the log.
pub fn record(bytes: &[u8]) {
    targets::record(bytes);
}

/// Events of records.
pub fn event(bytes: &[u8]) {
    targets::event(bytes);
}
