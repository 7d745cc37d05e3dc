//! One function: its long instructions get code in front of them, and its operators without a price
//! are charged.

use std::ops::Range;

use wasmparser::{BinaryReader, FunctionBody, Operator};

use super::module::Shape;
use super::price::{is_unpriced, put_charge};
use super::site::{Long, Places, VARIABLES, Writer};
use super::{Cut, CutError, Cutting, Fuel, put_u32};

/// Bytes of a function that the engine takes.
pub(super) const BYTES_MAX: usize = 7_654_321;
/// The prefix of all long instructions, and of a few others.
const PREFIX: u8 = 0xfc;
/// The type of the variables, as a function declares it.
const I64: u8 = 0x7e;

/// Rewrites one function.
pub(super) struct Rewriter<'a> {
    pub(super) shape: &'a Shape,
    pub(super) cutting: Cutting,
}

impl Rewriter<'_> {
    /// The body of the function instead of `body`, whose number among the functions with a body is
    /// `index`.
    pub(super) fn cut(&self, index: u32, body: &[u8]) -> Cut {
        if self.cutting.fuel == Fuel::Uncounted && !body.contains(&PREFIX) {
            return Ok(None);
        }
        let function = FunctionBody::new(BinaryReader::new(body, 0));
        let mut operators = function.get_operators_reader()?;
        let code_start = operators.original_position();
        let places = self.places(index, &function)?;
        let mut out = Vec::new();
        let (mut kept_to, mut constant, mut has_long) = (code_start, None, false);
        while !operators.eof() {
            let (operator, start) = operators.read_with_offset()?;
            let end = operators.original_position();
            if let Some(long) = self.long(&operator, constant) {
                out.extend_from_slice(&body[kept_to..start]);
                self.writer(&mut out, places).long(long);
                (kept_to, has_long) = (end, true);
            } else if let Operator::DataDrop { data_index } = operator
                && let Some(left) = self.shape.left(data_index)
            {
                out.extend_from_slice(&body[kept_to..end]);
                self.writer(&mut out, places).dropped(left);
                kept_to = end;
            } else if self.cutting.fuel == Fuel::Counted && is_unpriced(&operator) {
                out.extend_from_slice(&body[kept_to..start]);
                put_charge(&mut out);
                kept_to = start;
            }
            constant = if let Operator::I32Const { value } = operator { Some(value) } else { None };
        }
        if kept_to == code_start {
            return Ok(None);
        }
        out.extend_from_slice(&body[kept_to..]);
        let new_locals = has_long && matches!(places, Places::Locals(_));
        let cut = with_declarations(body, 0..code_start, new_locals, &out)?;
        if cut.len() > BYTES_MAX {
            return Err(CutError::FunctionTooLarge { function: self.shape.function_index(index), bytes: cut.len() });
        }
        Ok(Some(cut))
    }

    fn writer<'a>(&self, out: &'a mut Vec<u8>, places: Places) -> Writer<'a> {
        Writer::new(out, places, self.cutting)
    }

    /// Where the code of a function keeps its variables.
    fn places(&self, index: u32, function: &FunctionBody<'_>) -> Result<Places, CutError> {
        if self.cutting.fuel == Fuel::Counted {
            return Ok(Places::Globals(self.shape.globals));
        }
        let mut locals = self.shape.parameters(index);
        for run in function.get_locals_reader()? {
            locals = locals.saturating_add(run?.0);
        }
        Ok(Places::Locals(locals))
    }

    /// The instructions to cut: not what can only be short, or only trap. `constant` is the last
    /// operand, if it is written out in front.
    fn long(&self, operator: &Operator<'_>, constant: Option<i32>) -> Option<Long> {
        let Cutting { piece_bytes, piece_elements, .. } = self.cutting;
        let (long, length_max) = match *operator {
            Operator::MemoryFill { mem } => (Long::Fill { memory: mem }, self.shape.memory_bytes_max(mem)),
            Operator::MemoryCopy { dst_mem, src_mem } => {
                let bytes_max = self.shape.memory_bytes_max(dst_mem).min(self.shape.memory_bytes_max(src_mem));
                (Long::Copy { to: dst_mem, from: src_mem }, bytes_max)
            }
            Operator::MemoryInit { data_index, mem } => {
                let left = self.shape.left(data_index)?;
                (Long::Init { memory: mem, segment: data_index, left }, self.shape.memory_bytes_max(mem))
            }
            Operator::TableCopy { dst_table, src_table } => {
                let elements_max =
                    self.shape.table_elements_max(dst_table).min(self.shape.table_elements_max(src_table));
                (Long::TableCopy { to: dst_table, from: src_table }, elements_max)
            }
            _ => return None,
        };
        let piece = u64::from(if let Long::TableCopy { .. } = long { piece_elements } else { piece_bytes });
        let length_max = constant.map_or(length_max, |length| length_max.min(u64::from(length.cast_unsigned())));
        (length_max > piece).then_some(long)
    }
}

/// A body from the declarations of its locals and its code, with variables of ours declared last if
/// there are any.
fn with_declarations(body: &[u8], declared: Range<usize>, new_locals: bool, code: &[u8]) -> Result<Vec<u8>, CutError> {
    let mut out = Vec::with_capacity(declared.len() + 8 + code.len());
    if new_locals {
        let mut reader = BinaryReader::new(body, 0);
        let runs = reader.read_var_u32()? as usize;
        put_u32(&mut out, runs + 1);
        out.extend_from_slice(&body[reader.original_position()..declared.end]);
        put_u32(&mut out, VARIABLES as usize);
        out.push(I64);
    } else {
        out.extend_from_slice(&body[declared]);
    }
    out.extend_from_slice(code);
    Ok(out)
}
