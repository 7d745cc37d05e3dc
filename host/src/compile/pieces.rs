//! Cutting long instructions into pieces, so that a tick finds every guest in time.
//!
//! wasmtime looks for a tick, and for the end of the fuel, before `memory.fill`, `memory.copy`,
//! `memory.init` and `table.copy` begin and not again until they end: four gigabytes take seconds,
//! in which neither a limit nor a stop counts. Before a module is compiled, every such instruction
//! therefore gets code in front of it that does all but the last [`PIECE_BYTES`] or
//! [`PIECE_ELEMENTS`] in a loop, whose beginning is a place where ticks are looked for. The
//! instruction itself does the rest. Other instructions whose work depends on an operand are short:
//! tables are, and growing a memory only reserves pages.
//!
//! **Invariants.** A module does exactly what it did: results, memories, and traps with their code
//! and place, because what is out of bounds is left to the instruction whole. It costs exactly the
//! fuel that it did: the code in front is made of operators that a metered engine does not charge
//! ([`is_unpriced`]), and the guest's own use of these is charged by code of ours. No index of a
//! function, a memory or an export changes; globals come after the guest's. A module with nothing
//! to cut stays byte for byte as it is.
//!
//! Pure, and linear in the size of the module.

use std::borrow::Cow;
use std::ops::Range;

use wasmill_protocol::module::ModuleRejection;
use wasmparser::{BinaryReader, Parser};

use super::reject::rejection;

mod function;
mod module;
mod price;
mod site;

pub use price::is_unpriced;

/// Bytes that one instruction moves at most before a tick is looked for. With the first touch of
/// every page it takes less than a millisecond, and far less without; the loop around it costs
/// nothing that can be measured.
pub const PIECE_BYTES: u32 = 1024 * 1024;
/// Elements of a table that one instruction copies at most before a tick is looked for. The first
/// copy of an element takes 0.3 us.
pub const PIECE_ELEMENTS: u32 = 2 * 1024;
/// Grows with every change of what is made of a module, so that no artifact of an older rewriting
/// is used.
pub(crate) const PIECES_VERSION: u32 = 1;

/// The beginning of a module or component: the magic number and the version.
const HEADER_BYTES: usize = 8;
/// The section of a component that is a core module.
const CORE_MODULE_SECTION: u8 = 1;
/// The section of a component that is a component.
const COMPONENT_SECTION: u8 = 4;

/// Whether the engine that the module is for counts fuel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fuel {
    /// It does not.
    Uncounted,
    /// It does, and does not charge for what [`is_unpriced`].
    Counted,
}

/// How long instructions are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutting {
    /// The engine that the module is for.
    pub fuel: Fuel,
    /// Bytes of a piece of memory: [`PIECE_BYTES`], but in tests that want many pieces.
    pub piece_bytes: u32,
    /// Elements of a piece of a table: [`PIECE_ELEMENTS`], but in tests.
    pub piece_elements: u32,
}

impl Cutting {
    /// As modules are cut for an engine that does this.
    pub fn of(fuel: Fuel) -> Self {
        Self { fuel, piece_bytes: PIECE_BYTES, piece_elements: PIECE_ELEMENTS }
    }
}

/// Cuts the long instructions of a valid core module or component, and of all core modules inside
/// it.
///
/// # Errors
///
/// When the bytes are not valid, or a function would become larger than the engine takes.
pub fn cut_long_instructions(bytes: &[u8], cutting: Cutting) -> Result<Cow<'_, [u8]>, ModuleRejection> {
    let cut = if Parser::is_component(bytes) { component(bytes, cutting) } else { module::cut(bytes, cutting) };
    match cut {
        Ok(Some(cut)) => Ok(Cow::Owned(cut)),
        Ok(None) => Ok(Cow::Borrowed(bytes)),
        Err(CutError::Invalid(error)) => {
            Err(rejection(format!("the long instructions of the module cannot be cut into pieces: {error}")))
        }
        Err(CutError::FunctionTooLarge { function, bytes }) => Err(rejection(format!(
            "function {function} of the module uses `memory.fill`, `memory.copy`, `memory.init` or `table.copy` so often that it would have {bytes} bytes \
             once they are cut into pieces, over the limit of {}: use them in a function of their own, and call that",
            function::BYTES_MAX
        ))),
    }
}

/// Why nothing could be cut.
enum CutError {
    /// The bytes are not what the upload check takes.
    Invalid(wasmparser::Error),
    /// A function would have this many bytes.
    FunctionTooLarge { function: u32, bytes: usize },
}

impl From<wasmparser::Error> for CutError {
    fn from(error: wasmparser::Error) -> Self {
        Self::Invalid(error)
    }
}

/// The bytes in place of others; `None` when they stay.
type Cut = Result<Option<Vec<u8>>, CutError>;

/// One section: its number, the bytes of all of it, and those of its contents.
struct Section {
    id: u8,
    whole: Range<usize>,
    contents: Range<usize>,
}

/// The sections of a module or component, in order.
fn sections(bytes: &[u8]) -> Result<Vec<Section>, CutError> {
    let mut reader = BinaryReader::new(bytes, 0);
    reader.read_bytes(HEADER_BYTES)?;
    let mut sections = Vec::new();
    while !reader.eof() {
        let start = reader.original_position();
        let id = reader.read_u8()?;
        let length = reader.read_var_u32()? as usize;
        let begin = reader.original_position();
        reader.read_bytes(length)?;
        sections.push(Section { id, whole: start..begin + length, contents: begin..begin + length });
    }
    Ok(sections)
}

/// Appends a section.
fn put_section(out: &mut Vec<u8>, id: u8, contents: &[u8]) {
    out.push(id);
    put_u32(out, contents.len());
    out.extend_from_slice(contents);
}

/// Appends a number that is known to fit 32 bits, because modules are bounded far below that.
fn put_u32(out: &mut Vec<u8>, number: usize) {
    let mut rest = u32::try_from(number).expect("modules and functions have less than 4 GiB");
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn component(bytes: &[u8], cutting: Cutting) -> Cut {
    let mut out = Vec::new();
    let mut kept_to = 0;
    for section in sections(bytes)? {
        let contents = &bytes[section.contents];
        let cut = match section.id {
            CORE_MODULE_SECTION => module::cut(contents, cutting)?,
            COMPONENT_SECTION => component(contents, cutting)?,
            _ => None,
        };
        if let Some(cut) = cut {
            out.extend_from_slice(&bytes[kept_to..section.whole.start]);
            put_section(&mut out, section.id, &cut);
            kept_to = section.whole.end;
        }
    }
    if kept_to == 0 {
        return Ok(None);
    }
    out.extend_from_slice(&bytes[kept_to..]);
    Ok(Some(out))
}

#[cfg(test)]
mod tests;
