//! Naming the WebAssembly feature that an upload uses and Wasmill does not enable.

use wasmparser::WasmFeatures;

use crate::engine::FEATURES;

/// Features by the names that people search for. In the order in which they are tried: what needs
/// fewer others first.
const NAMES: [(WasmFeatures, &str); 22] = [
    (WasmFeatures::THREADS, "threads (shared memory and atomics)"),
    (WasmFeatures::MEMORY64, "memory64 (64-bit memories or tables)"),
    (WasmFeatures::RELAXED_SIMD, "relaxed SIMD (its results differ between machines)"),
    (WasmFeatures::LEGACY_EXCEPTIONS, "exceptions (the legacy encoding)"),
    (WasmFeatures::EXCEPTIONS, "exceptions"),
    (WasmFeatures::FUNCTION_REFERENCES, "typed function references"),
    (WasmFeatures::GC, "GC (structs, arrays and their references)"),
    (WasmFeatures::GC_TYPES, "GC types (`externref` and others)"),
    (WasmFeatures::STACK_SWITCHING, "stack switching"),
    (WasmFeatures::SHARED_EVERYTHING_THREADS, "shared-everything threads"),
    (WasmFeatures::CUSTOM_PAGE_SIZES, "custom page sizes"),
    (WasmFeatures::WIDE_ARITHMETIC, "wide arithmetic"),
    (WasmFeatures::MEMORY_CONTROL, "memory control"),
    (WasmFeatures::CUSTOM_DESCRIPTORS, "custom descriptors"),
    (WasmFeatures::COMPACT_IMPORTS, "compact imports"),
    (
        WasmFeatures::CM_ASYNC
            .union(WasmFeatures::CM_ASYNC_STACKFUL)
            .union(WasmFeatures::CM_MORE_ASYNC_BUILTINS)
            .union(WasmFeatures::CM_ERROR_CONTEXT),
        "component-model async (async functions, streams or futures, as in WASI 0.3)",
    ),
    (WasmFeatures::CM_THREADING, "component-model threads"),
    (WasmFeatures::CM_VALUES, "component-model values"),
    (WasmFeatures::CM_FIXED_LENGTH_LISTS, "component-model fixed-length lists"),
    (WasmFeatures::CM_MAP, "component-model maps"),
    (WasmFeatures::CM_GC, "component-model GC"),
    (WasmFeatures::CM_NESTED_NAMES, "component-model nested names"),
];

/// The name of the feature for want of which validation failed with `error`, when it was for want
/// of one.
///
/// The validator knows only some of the time, so the features are tried one by one: the one wanted
/// is the one with which validation gets further. `first_error` validates with the given features
/// and says where the first error is.
pub(crate) fn needed(
    error: &wasmparser::Error,
    first_error: impl Fn(WasmFeatures) -> Option<usize>,
) -> Option<&'static str> {
    let gets_further = |extra: WasmFeatures| match first_error(FEATURES | extra) {
        None => true,
        Some(offset) => offset > error.offset(),
    };
    // One walk tells ordinary invalid modules, which no feature helps, from the others.
    if !gets_further(WasmFeatures::all()) {
        return None;
    }
    let disabled = || NAMES.into_iter().filter(|(feature, _)| !FEATURES.contains(*feature));
    if let Some(missing) = error.missing_wasm_feature()
        && let Some((_, name)) = disabled().find(|(feature, _)| feature.contains(missing))
    {
        return Some(name);
    }
    // GC builds on typed function references, so it is tried together with them.
    let with_foundations = |feature: WasmFeatures| {
        if feature == WasmFeatures::GC {
            feature | WasmFeatures::FUNCTION_REFERENCES | WasmFeatures::GC_TYPES
        } else {
            feature
        }
    };
    disabled()
        .find(|(feature, _)| gets_further(with_foundations(*feature)))
        .map(|(_, name)| name)
        .or(Some("a WebAssembly feature that is not in wide use"))
}
