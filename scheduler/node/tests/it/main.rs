//! What holds of the crate as a whole.

mod boundary;
