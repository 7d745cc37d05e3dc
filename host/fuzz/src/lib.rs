//! The fuzz target of the upload check. It includes the files of the check, which need no engine, so that wasmtime need not be
//! built for it.

#![allow(dead_code, unused_imports, reason = "only a part of what is shared is needed here")]

#[path = "../../src/engine/features.rs"]
mod engine;
mod targets;

#[path = "../../src/compile"]
mod compile {
    #[path = "check.rs"]
    mod check;
    #[path = "count.rs"]
    mod count;
    #[path = "entry.rs"]
    mod entry;
    #[path = "feature.rs"]
    mod feature;
    #[path = "grants.rs"]
    mod grants;
    #[path = "limits.rs"]
    mod limits;
    #[path = "reject.rs"]
    mod reject;
    #[path = "sniff.rs"]
    mod sniff;

    pub(crate) use check::{ModuleCaps, check, check_size};
    pub(crate) use sniff::{SNIFF_BYTES, sniff};
}

/// Uploads.
pub fn check(bytes: &[u8]) {
    targets::check(bytes);
}
