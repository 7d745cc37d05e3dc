//! Everything between uploaded bytes and a loaded module.
//!
//! An upload is checked ([`check()`]), compiled and linked once in a child process under limits
//! ([`child_main`]), and its native code is kept on disk. [`Compiler`] is the side of the server:
//! it shares the children out among tenants, joins those who want the same, remembers what was
//! refused, and bounds what is kept.
//!
//! **Invariants.** No byte of an upload is looked at in this process beyond the first kilobyte.
//! Native code is loaded only when our own child wrote it. A refused module costs one compile,
//! however often and by whomever it is sent.

// The upload check.
mod check;
mod count;
mod entry;
mod feature;
mod grants;
mod hints;
mod limits;
mod reject;
mod sniff;
mod start;

// The code that is compiled instead of an upload.
mod pieces;

// The child, and talking to it.
mod child;
mod confine;
mod request;
mod spawn;

// The side of the server.
mod compiler;
mod meter;
mod module_cache;
mod refused;
mod store;

// The parts that these are made of.
mod artifact;
mod file;
mod flights;
mod key;

pub use crate::slots::SlotLimits;
pub use check::{ModuleCaps, check, check_size};
pub use child::child_main;
pub use compiler::{Compiler, CompilerConfig, CompilerError, CompilerStats, InspectError};
pub use key::artifact_key;
pub use meter::{CompileBudget, CompileUsage, Payer};
pub use module_cache::{ModuleCache, ModuleCacheConfig};
pub use pieces::{Cutting, Fuel, PIECE_BYTES, PIECE_ELEMENTS, cut_long_instructions, is_unpriced};
pub use request::CompileLimits;
pub use sniff::{Form, SNIFF_BYTES, sniff};
pub use spawn::{CompileFault, CompileProgram};
