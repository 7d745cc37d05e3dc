//! The fuzz target of the upload check. It includes the files of the check, which need no engine, so that wasmtime need not be
//! built for it.

#![allow(dead_code, unused_imports, reason = "only a part of what is shared is needed here")]

#[path = "../../src/engine/features.rs"]
mod engine;
mod targets;

mod compile {
    #[path = "../../../src/compile/check.rs"]
    mod check;
    #[path = "../../../src/compile/count.rs"]
    mod count;
    #[path = "../../../src/compile/entry.rs"]
    mod entry;
    #[path = "../../../src/compile/feature.rs"]
    mod feature;
    #[path = "../../../src/compile/grants.rs"]
    mod grants;
    #[path = "../../../src/compile/limits.rs"]
    mod limits;
    #[path = "../../../src/compile/reject.rs"]
    mod reject;
    #[path = "../../../src/compile/sniff.rs"]
    mod sniff;

    pub(crate) use check::{ModuleCaps, check, check_size};
    pub(crate) use sniff::{SNIFF_BYTES, sniff};
}

/// Uploads.
pub fn check(bytes: &[u8]) {
    targets::check(bytes);
}
