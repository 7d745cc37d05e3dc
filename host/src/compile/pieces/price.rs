//! Instructions that a metered engine charges nothing for, so that code of ours costs a guest
//! nothing.

use wasm_encoder::InstructionSink;
use wasmparser::Operator;

/// Whether a metered engine charges nothing for this operator, besides those that are free in every
/// engine.
///
/// The engine's prices and this list must agree: a test of the engine compares them. A guest that
/// uses one pays all the same ([`put_charge`]).
pub fn is_unpriced(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::BrTable { .. }
            | Operator::GlobalGet { .. }
            | Operator::GlobalSet { .. }
            | Operator::I32WrapI64
            | Operator::I64Add
            | Operator::I64ExtendI32U
            | Operator::I64GtU
            | Operator::I64Rotl
            | Operator::If { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryInit { .. }
            | Operator::MemorySize { .. }
            | Operator::TableCopy { .. }
            | Operator::TableSize { .. }
    )
}

/// Costs one unit of fuel and has no effect: a constant costs one, to drop it is free, and no
/// native code comes of it.
pub(super) fn put_charge(out: &mut Vec<u8>) {
    InstructionSink::new(out).i32_const(0).drop();
}
