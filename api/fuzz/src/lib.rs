//! Fuzz targets of the documents of the HTTP interface.

mod targets;

/// Documents that clients send, and the names in them.
pub fn documents(bytes: &[u8]) {
    targets::documents(bytes);
}

/// Lines of bulk submissions.
pub fn lines(bytes: &[u8]) {
    targets::lines(bytes);
}
