//! No bytes of a client end the reader.
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails and says where and why")]

mod fuzz;
