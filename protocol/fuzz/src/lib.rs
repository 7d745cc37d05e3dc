//! Fuzz targets of the words between processes and of the documents of the HTTP interface.

mod targets;

/// Records of the log.
pub fn record(bytes: &[u8]) {
    targets::record(bytes);
}

/// Messages on the bus, and what control nodes say to each other.
pub fn messages(bytes: &[u8]) {
    targets::messages(bytes);
}

/// Documents that clients send, and the names in them.
pub fn documents(bytes: &[u8]) {
    targets::documents(bytes);
}

/// Lines of bulk submissions.
pub fn lines(bytes: &[u8]) {
    targets::lines(bytes);
}
