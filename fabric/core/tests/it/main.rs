//! What a pure crate may depend on.
