//! The features that guests may use, and their limits: known to the upload check without an engine.

use wasmparser::WasmFeatures;

/// The WebAssembly that a guest may use: the engine is built from it and the upload check validates
/// with it.
///
/// `wasmparser` is held at the version that wasmtime itself uses, so this is the very type that the
/// engine takes: when an update of wasmtime moves to another version, this no longer compiles until
/// both agree again.
///
/// Everything not named is off, above all threads and shared memory (the limiter is not asked for
/// those), memory64, GC, exceptions, relaxed SIMD (not deterministic) and the asynchronous
/// component model. Multi-memory is on because wasmtime 48.0.8 panics on valid components whose
/// adapters need two memories when it is off; the limiter sums all memories, so it opens nothing.
pub const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::COMPONENT_MODEL);

/// Stack that a guest has before it traps with a stack overflow: interpreters need it for the
/// recursion of their programs. Untouched stack costs address space only.
pub const GUEST_STACK_BYTES: usize = 2 * 1024 * 1024;
/// The whole fiber: what is above [`GUEST_STACK_BYTES`] is for host functions, whose overflow would
/// end the process.
pub const FIBER_STACK_BYTES: usize = 4 * 1024 * 1024;
/// Elements of one table.
pub const TABLE_ELEMENTS_MAX: usize = 128 * 1024;
/// Memories of one module, and of one component with everything inside it.
pub const MEMORIES_MAX: u32 = 16;
/// Tables of one module, and of one component with everything inside it.
pub const TABLES_MAX: u32 = 32;
/// Core instances inside one component; Python components link dozens of libraries.
pub const CORE_INSTANCES_MAX: u32 = 256;
/// Bytes that the engine itself keeps for one instance: grows with functions, globals and imports,
/// and is not in the guest's memory limit.
pub const INSTANCE_BYTES_MAX: usize = 4 * 1024 * 1024;
