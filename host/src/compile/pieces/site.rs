//! The code in front of one long instruction.
//!
//! It takes the three operands from the stack, does all pieces but the last if all of it is within
//! bounds, and leaves on the stack what the instruction has still to do. Calculations are in 64
//! bits, where sums of addresses and lengths cannot wrap around.

use wasm_encoder::{BlockType, InstructionSink};

use super::Cutting;
use super::price::put_charge;

/// 2 to the power of this are the bytes of a page.
const PAGE_BITS: i64 = 16;

/// A long instruction. The numbers are those of memories unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Long {
    /// `memory.fill`
    Fill { memory: u32 },
    /// `memory.copy`
    Copy { to: u32, from: u32 },
    /// `memory.init`; `left` is the global that holds how many bytes the segment has left.
    Init { memory: u32, segment: u32, left: u32 },
    /// `table.copy`, with the numbers of tables.
    TableCopy { to: u32, from: u32 },
}

/// Where the code keeps its variables and constants.
///
/// In an engine that counts fuel they are globals, because reading a local has a price there and is
/// far too common among guests to be charged by code of ours.
#[derive(Debug, Clone, Copy)]
pub(super) enum Places {
    /// Locals from this number on; constants are written out.
    Locals(u32),
    /// Globals from this number on.
    Globals(u32),
}

/// The variables, by their place.
#[derive(Debug, Clone, Copy)]
enum Variable {
    /// Where the rest begins that is to be written.
    To = 0,
    /// Where the rest begins that is to be read; of a fill, its value.
    From = 1,
    /// The length of the rest.
    Length = 2,
}

/// How many variables there are.
pub(super) const VARIABLES: u32 = 3;

/// The constants, by their place after the variables.
#[derive(Debug, Clone, Copy)]
enum Constant {
    Piece = 0,
    MinusPiece = 1,
    TablePiece = 2,
    MinusTablePiece = 3,
    PageBits = 4,
    Zero = 5,
}

/// How many constants there are.
const CONSTANTS: usize = 6;

/// The values of the constants, by their place.
pub(super) fn constants(cutting: Cutting) -> [i64; CONSTANTS] {
    let (bytes, elements) = (i64::from(cutting.piece_bytes), i64::from(cutting.piece_elements));
    [bytes, -bytes, elements, -elements, PAGE_BITS, 0]
}

/// Writes code.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    places: Places,
    constants: [i64; CONSTANTS],
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, places: Places, cutting: Cutting) -> Self {
        Self { out, places, constants: constants(cutting) }
    }

    /// A long instruction with all its pieces.
    pub(super) fn long(&mut self, long: Long) {
        if let Places::Globals(_) = self.places {
            // The price of the instruction itself.
            put_charge(self.out);
        }
        for variable in [Variable::Length, Variable::From, Variable::To] {
            self.sink().i64_extend_i32_u();
            self.set(variable);
        }
        self.more_than_a_piece(long);
        self.sink().if_(BlockType::Empty);
        self.beyond_bounds(long);
        self.sink().if_(BlockType::Empty).else_();
        self.pieces(long);
        self.sink().end().end();
        for variable in [Variable::To, Variable::From, Variable::Length] {
            self.operand(variable);
        }
        self.instruction(long);
    }

    /// Notes that a segment was dropped.
    pub(super) fn dropped(&mut self, left: u32) {
        self.constant(Constant::Zero);
        self.sink().global_set(left);
    }

    /// Whether writing or reading would go beyond an end: then the instruction is left to trap
    /// before it does anything.
    fn beyond_bounds(&mut self, long: Long) {
        let (to, from) = match long {
            Long::Fill { memory } => (End::OfMemory(memory), None),
            Long::Copy { to, from } => (End::OfMemory(to), Some(End::OfMemory(from))),
            Long::Init { memory, left, .. } => (End::OfMemory(memory), Some(End::InGlobal(left))),
            Long::TableCopy { to, from } => (End::OfTable(to), Some(End::OfTable(from))),
        };
        self.beyond(Variable::To, to);
        if let Some(end) = from {
            self.sink().i64_extend_i32_u();
            self.beyond(Variable::From, end);
            // Either is enough: their sum is 0 when neither is.
            self.sink().i64_extend_i32_u().i64_add().i32_wrap_i64();
        }
    }

    /// Whether as much as is left, from where the variable says, goes beyond the end.
    fn beyond(&mut self, start: Variable, end: End) {
        self.get(start);
        self.get(Variable::Length);
        self.sink().i64_add();
        match end {
            End::OfMemory(memory) => {
                self.sink().memory_size(memory).i64_extend_i32_u();
                self.constant(Constant::PageBits);
                self.sink().i64_rotl();
            }
            End::OfTable(table) => {
                self.sink().table_size(table).i64_extend_i32_u();
            }
            End::InGlobal(left) => {
                self.sink().global_get(left);
            }
        }
        self.sink().i64_gt_u();
    }

    /// Everything but the last piece.
    fn pieces(&mut self, long: Long) {
        match long {
            // A target behind its source is copied from the end, so that nothing is overwritten
            // that is still to be read.
            Long::Copy { to, from } | Long::TableCopy { to, from } if to == from => {
                self.get(Variable::To);
                self.get(Variable::From);
                self.sink().i64_gt_u().if_(BlockType::Empty);
                self.pieces_from_the_end(long);
                self.sink().else_();
                self.pieces_from_the_start(long);
                self.sink().end();
            }
            _ => self.pieces_from_the_start(long),
        }
    }

    fn pieces_from_the_start(&mut self, long: Long) {
        self.sink().loop_(BlockType::Empty);
        self.operand(Variable::To);
        self.operand(Variable::From);
        self.piece(long);
        let (piece, _) = piece_of(long);
        self.add(Variable::To, piece);
        if !matches!(long, Long::Fill { .. }) {
            self.add(Variable::From, piece);
        }
        self.again(long);
    }

    fn pieces_from_the_end(&mut self, long: Long) {
        self.sink().loop_(BlockType::Empty);
        for start in [Variable::To, Variable::From] {
            self.get(start);
            self.get(Variable::Length);
            self.sink().i64_add();
            self.constant(piece_of(long).1);
            self.sink().i64_add().i32_wrap_i64();
        }
        self.piece(long);
        self.again(long);
    }

    /// One piece, whose first two operands are on the stack.
    fn piece(&mut self, long: Long) {
        self.constant(piece_of(long).0);
        self.sink().i32_wrap_i64();
        self.instruction(long);
    }

    /// The end of a loop: once more, or out of the block around it.
    fn again(&mut self, long: Long) {
        self.add(Variable::Length, piece_of(long).1);
        self.more_than_a_piece(long);
        // A branch on a condition has a price, and is too common for another one; a table of
        // branches is rare.
        self.sink().br_table([1], 0).end();
    }

    fn more_than_a_piece(&mut self, long: Long) {
        self.get(Variable::Length);
        self.constant(piece_of(long).0);
        self.sink().i64_gt_u();
    }

    fn instruction(&mut self, long: Long) {
        match long {
            Long::Fill { memory } => self.sink().memory_fill(memory),
            Long::Copy { to, from } => self.sink().memory_copy(to, from),
            Long::Init { memory, segment, .. } => self.sink().memory_init(memory, segment),
            Long::TableCopy { to, from } => self.sink().table_copy(to, from),
        };
    }

    fn add(&mut self, variable: Variable, constant: Constant) {
        self.get(variable);
        self.constant(constant);
        self.sink().i64_add();
        self.set(variable);
    }

    fn operand(&mut self, variable: Variable) {
        self.get(variable);
        self.sink().i32_wrap_i64();
    }

    fn get(&mut self, variable: Variable) {
        match self.places {
            Places::Locals(first) => self.sink().local_get(first + variable as u32),
            Places::Globals(first) => self.sink().global_get(first + variable as u32),
        };
    }

    fn set(&mut self, variable: Variable) {
        match self.places {
            Places::Locals(first) => self.sink().local_set(first + variable as u32),
            Places::Globals(first) => self.sink().global_set(first + variable as u32),
        };
    }

    fn constant(&mut self, constant: Constant) {
        let value = self.constants[constant as usize];
        match self.places {
            Places::Locals(_) => self.sink().i64_const(value),
            Places::Globals(first) => self.sink().global_get(first + VARIABLES + constant as u32),
        };
    }

    fn sink(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(self.out)
    }
}

/// The length of a piece, and its negative.
fn piece_of(long: Long) -> (Constant, Constant) {
    match long {
        Long::TableCopy { .. } => (Constant::TablePiece, Constant::MinusTablePiece),
        _ => (Constant::Piece, Constant::MinusPiece),
    }
}

/// Where something ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The end of a memory.
    OfMemory(u32),
    /// The end of a table.
    OfTable(u32),
    /// As many bytes as a global says.
    InGlobal(u32),
}
