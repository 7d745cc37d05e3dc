//! The upload check: everything that can be said about a module without generating code for it.
//!
//! Pure: bytes in, a description or a refusal out. It runs in the compiling child, so that even a
//! fault in it costs no more than the child.

use wasmill_protocol::Digest;
use wasmill_protocol::module::{ModuleInfo, ModuleKind, ModuleRejection};
use wasmparser::types::Types;
use wasmparser::{FuncValidatorAllocations, Parser, Payload, ValidPayload, Validator, WasmFeatures};

use super::count::{Counts, check_function};
use super::entry::{self, Surface};
use super::feature;
use super::hints;
use super::limits::{NAME_LISTED_BYTES_MAX, NAMES_LISTED_MAX};
use super::reject::{cut, rejection};
use super::sniff::{Form, sniff};
use super::start::Starts;
use crate::engine::FEATURES;

/// The caps of an installation for modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModuleCaps {
    /// Bytes of one module.
    pub module_bytes: u64,
    /// `limits.memory_bytes` that a task can have at most: a module that needs more could never
    /// start.
    pub memory_bytes: u64,
}

impl Default for ModuleCaps {
    fn default() -> Self {
        let caps = wasmill_protocol::limits::Caps::default();
        Self { module_bytes: caps.module_bytes, memory_bytes: caps.memory_bytes }
    }
}

/// Checks an upload completely: form, size, features, validity, counts, entry point and the names
/// of its imports.
///
/// `digest` is taken on trust. Time and memory grow linearly with the size: about 10 ns and 2 bytes
/// for each byte.
///
/// # Errors
///
/// The finding and the need, for the first mistake.
pub fn check(bytes: &[u8], digest: Digest, caps: &ModuleCaps) -> Result<ModuleInfo, ModuleRejection> {
    check_size(bytes.len() as u64, caps)?;
    let form = sniff(bytes)?;
    let surface = match walk(bytes, FEATURES, caps) {
        Ok((counts, types)) => Surface::read(counts.names, &types),
        Err(Stop::Refused(refused)) => return Err(refused),
        Err(Stop::Invalid(error)) => return Err(explain(bytes, form, &error, caps)),
    };
    entry::check_imports(&surface)?;
    let kind = entry::find(&surface)?;
    Ok(ModuleInfo {
        digest,
        bytes: bytes.len() as u64,
        kind,
        imports: listing(surface.imports),
        exports: listing(surface.exports),
        name: None,
        hints: if kind == ModuleKind::Command && form == Form::CoreModule {
            hints::of_command(bytes)
        } else {
            Vec::new()
        },
    })
}

/// Refuses what is larger than the cap; for callers that know the size before they have the bytes.
///
/// # Errors
///
/// Names size and cap.
pub fn check_size(bytes: u64, caps: &ModuleCaps) -> Result<(), ModuleRejection> {
    if bytes <= caps.module_bytes {
        return Ok(());
    }
    Err(rejection(format!("the module has {bytes} bytes, over the cap `module_bytes` of {}", caps.module_bytes)))
}

/// Why a walk ended early.
pub(super) enum Stop {
    /// One of our own bounds.
    Refused(ModuleRejection),
    /// Not valid WebAssembly of these features.
    Invalid(wasmparser::Error),
}

impl From<ModuleRejection> for Stop {
    fn from(refused: ModuleRejection) -> Self {
        Self::Refused(refused)
    }
}

impl From<wasmparser::Error> for Stop {
    fn from(error: wasmparser::Error) -> Self {
        Self::Invalid(error)
    }
}

/// Walks over all of a module, counting before validating, section by section.
fn walk(bytes: &[u8], features: WasmFeatures, caps: &ModuleCaps) -> Result<(Counts, Types), Stop> {
    let mut parser = Parser::new(0);
    parser.set_features(features);
    let mut validator = Validator::new_with_features(features);
    let (mut counts, mut starts) = (Counts::new(caps), Starts::default());
    let mut functions = Vec::new();
    let mut outermost = None;
    for payload in parser.parse_all(bytes) {
        let payload = payload?;
        counts.add(&payload)?;
        starts.add(&payload)?;
        match validator.payload(&payload)? {
            ValidPayload::Func(function, body) => functions.push((function, body)),
            ValidPayload::End(types) => {
                // The bodies of one module at a time: their types are kept alive until then.
                check_functions(&mut functions)?;
                outermost = Some(types);
            }
            ValidPayload::Ok | ValidPayload::Parser(_) => {}
        }
        if let Payload::End(_) = payload {
            counts.leave();
            starts.leave()?;
        }
    }
    let outermost = outermost.ok_or_else(|| rejection("the module ends before its last section does"))?;
    Ok((counts, outermost))
}

type Function<'a> = (wasmparser::FuncToValidate<wasmparser::ValidatorResources>, wasmparser::FunctionBody<'a>);

fn check_functions(functions: &mut Vec<Function<'_>>) -> Result<(), Stop> {
    let mut allocations = FuncValidatorAllocations::default();
    for (function, body) in functions.drain(..) {
        check_function(&function, &body)?;
        let mut validator = function.into_validator(allocations);
        validator.validate(&body)?;
        allocations = validator.into_allocations();
    }
    Ok(())
}

/// Says what is wrong with bytes that did not validate: above all which feature they would need.
fn explain(bytes: &[u8], form: Form, error: &wasmparser::Error, caps: &ModuleCaps) -> ModuleRejection {
    let first_error = |features| match walk(bytes, features, caps) {
        Ok(_) => None,
        Err(Stop::Invalid(error)) => Some(error.offset()),
        // A bound of ours was reached, which is further than the error.
        Err(Stop::Refused(_)) => Some(usize::MAX),
    };
    if let Some(name) = feature::needed(error, first_error) {
        return rejection(format!(
            "the module uses {name}, which Wasmill does not enable ({})",
            cut(&error.to_string(), 500)
        ));
    }
    let form = match form {
        Form::CoreModule => "module",
        Form::Component => "component",
    };
    if error.message().contains("unexpected end") {
        return rejection(format!("the {form} is truncated after {} bytes: {error}", bytes.len()));
    }
    rejection(format!("this is not a valid WebAssembly {form}: {error}"))
}

fn listing(mut names: Vec<String>) -> Vec<String> {
    names.dedup();
    names.truncate(NAMES_LISTED_MAX);
    for name in &mut names {
        *name = cut(name, NAME_LISTED_BYTES_MAX);
    }
    names
}
