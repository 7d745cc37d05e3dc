//! The fuzz targets of the upload check and of what is made of a module after it. They include the
//! files of these, which need no engine, so that wasmtime need not be built for it.

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
    mod pieces;
    #[path = "reject.rs"]
    mod reject;
    #[path = "sniff.rs"]
    mod sniff;
    #[path = "start.rs"]
    mod start;

    pub(crate) use check::{ModuleCaps, check, check_size};
    pub(crate) use pieces::{Cutting, Fuel, cut_long_instructions};
    pub(crate) use sniff::{SNIFF_BYTES, sniff};
}

/// Uploads.
pub fn check(bytes: &[u8]) {
    targets::check(bytes);
}

/// Modules whose long instructions are cut: the bytes as they are, and a valid module that is drawn
/// from them.
pub fn pieces(bytes: &[u8]) {
    targets::pieces(bytes);
    let config = wasm_smith::Config {
        bulk_memory_enabled: true,
        reference_types_enabled: true,
        simd_enabled: true,
        max_memories: 3,
        max_tables: 3,
        gc_enabled: false,
        exceptions_enabled: false,
        threads_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        custom_page_sizes_enabled: false,
        wide_arithmetic_enabled: false,
        shared_everything_threads_enabled: false,
        ..wasm_smith::Config::default()
    };
    if let Ok(module) = wasm_smith::Module::new(config, &mut arbitrary::Unstructured::new(bytes)) {
        targets::pieces(&module.to_bytes());
    }
}
