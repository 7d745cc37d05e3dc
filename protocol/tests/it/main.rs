//! What is stored or sent stays readable between neighbouring versions.
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails and says where and why")]

mod versions;
