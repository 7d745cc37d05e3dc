//! Modules for [`crate::compile_pieces`], as text.

use std::fmt::Write;

/// Numbers from a seed; the same for ever.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % u64::from(end)) as u32
    }

    fn one_in(&mut self, number: u32) -> bool {
        self.below(number) == 0
    }

    /// An address or a length that is likely to be at an edge.
    pub(crate) fn operand(&mut self, piece: u32, size: u32) -> i32 {
        let edges = edges(piece, size);
        let number = if self.one_in(3) { self.below(size) } else { edges[self.below(edges.len() as u32) as usize] };
        number.cast_signed()
    }
}

/// Numbers at an edge of a piece, of a memory or of 32 bits.
fn edges(piece: u32, size: u32) -> Vec<u32> {
    let mut edges = vec![0, 1, i32::MAX.cast_unsigned(), i32::MIN.cast_unsigned(), u32::MAX];
    for at in [piece, 2 * piece, 3 * piece, size - 2 * piece, size - piece, size, 0u32.wrapping_sub(piece)] {
        edges.extend([at.wrapping_sub(1), at, at.wrapping_add(1)]);
    }
    edges
}

/// Every address with every other and every length, at all edges; `extra` is the length of
/// something.
pub(crate) fn operands(piece: u32, size: u32, extra: u32) -> Vec<[i32; 3]> {
    let mut numbers = edges(piece, size);
    numbers.extend([extra - piece, extra - 1, extra, extra + 1]);
    let lengths =
        [0, 1, piece, piece + 1, 2 * piece, 2 * piece + 1, extra, extra + 1, size - piece, size, size + 1, u32::MAX];
    let mut operands = Vec::new();
    for to in &numbers {
        for from in &numbers {
            // A third of them, each combination of two with some third.
            let length = lengths[(to ^ from).wrapping_mul(2_654_435_761) as usize % lengths.len()];
            operands.push([to.cast_signed(), from.cast_signed(), length.cast_signed()]);
        }
    }
    operands
}

/// A module that exports `run` with three parameters, its memories and its globals.
pub(crate) fn random_module(random: &mut Random, piece: u32) -> String {
    let long = "0123456789abcdef".repeat((3 * piece as usize + 40) / 16);
    let maximum = ["", "1", "2"][random.below(3) as usize];
    let mut program = Program { random, piece, depth: 0 };
    let (helper, run) = (program.statements(3), program.statements(8));
    let result = program.expression(2);
    format!(
        r#"(module
            (type $f (func (param i32) (result i32)))
            (memory (export "m0") 1) (memory (export "m1") 1 {maximum})
            (global $g0 (export "g0") (mut i32) (i32.const 3)) (global $g1 (export "g1") (mut i64) (i64.const 5))
            (table $t 3 40 funcref) (elem (table $t) (i32.const 0) func $helper) (elem $e func $helper $run)
            (data $d0 "{long}") (data $d1 "short") (data $d2 (i32.const 100) "{long}")
            (func $helper (type $f) (local $k0 i32) (local $k1 i32) (local $k2 i32) (local $l i32) (local $x i32) (local $y i32)
                {helper} (i32.add (local.get 0) (i32.const 1)))
            (func $run (export "run") (param $x i32) (param $y i32) (param $z i32) (result i32)
                (local $k0 i32) (local $k1 i32) (local $k2 i32) (local $l i32)
                {run} {result}))"#
    )
}

/// Writes statements and expressions. All loops end, and only `$run` calls `$helper`, which
/// therefore contains no call.
struct Program<'a> {
    random: &'a mut Random,
    piece: u32,
    depth: u32,
}

impl Program<'_> {
    fn statements(&mut self, number: u32) -> String {
        (0..number).map(|_| self.statement()).collect::<Vec<_>>().join("\n")
    }

    fn statement(&mut self) -> String {
        self.depth += 1;
        let kinds = if self.depth > 3 { 10 } else { 15 };
        let (a, b) = (self.random.below(2), self.random.below(2));
        let mut text = String::new();
        let written = match self.random.below(kinds) {
            0 | 1 => write!(text, "(memory.fill {a} {})", self.operands()),
            2 | 3 => write!(text, "(memory.copy {a} {b} {})", self.operands()),
            4 => write!(text, "(memory.init {a} $d{} {})", self.random.below(3), self.operands()),
            5 => write!(text, "(data.drop $d{})", self.random.below(3)),
            6 => write!(text, "(i32.store8 {a} {} {})", self.address(), self.expression(1)),
            7 => write!(text, "(local.set $l {})", self.expression(2)),
            8 => write!(
                text,
                "(global.set $g0 {}) (global.set $g1 (i64.extend_i32_u {}))",
                self.expression(1),
                self.expression(1)
            ),
            9 => write!(
                text,
                "(drop (memory.grow {a} (i32.const {b}))) (table.fill $t (i32.const 0) (ref.null func) (i32.const {b}))"
            ),
            10 => write!(text, "(if {} (then {}) (else {}))", self.expression(1), self.statement(), self.statement()),
            11 => write!(
                text,
                "(block $out (block $in (br_table $in $out {}) ) {})",
                self.expression(1),
                self.statement()
            ),
            12 => write!(
                text,
                "(block $out {} (br_if $out {}) {})",
                self.statement(),
                self.expression(1),
                self.statement()
            ),
            13 => {
                let k = self.depth.min(3) - 1;
                write!(
                    text,
                    "(local.set $k{k} (i32.const 2)) (loop $again {} (local.set $k{k} (i32.sub (local.get $k{k}) (i32.const 1)))
                        (br_if $again (i32.gt_s (local.get $k{k}) (i32.const 0))))",
                    self.statement()
                )
            }
            _ => write!(
                text,
                "(table.copy $t $t (i32.const 1) (i32.const 0) (i32.const {b})) (local.set $l {})",
                self.expression(2)
            ),
        };
        written.unwrap();
        self.depth -= 1;
        text
    }

    /// Three operands of a long instruction, mostly within bounds.
    fn operands(&mut self) -> String {
        if self.random.one_in(6) {
            return format!("{} {} {}", self.expression(1), self.expression(1), self.expression(1));
        }
        let length = match self.random.below(3) {
            0 => format!("(i32.const {})", self.random.below(4 * self.piece)),
            1 => format!("(i32.rem_u {} (i32.const {}))", self.expression(1), 3 * self.piece + 2),
            _ => format!("(i32.and {} (i32.const 0x7fff))", self.expression(1)),
        };
        let from = if self.random.one_in(2) {
            "(i32.const 0)".into()
        } else {
            format!("(i32.rem_u {} (i32.const {}))", self.expression(1), self.piece + 1)
        };
        format!("{} {from} {length}", self.address())
    }

    fn address(&mut self) -> String {
        format!("(i32.and {} (i32.const 0x7fff))", self.expression(1))
    }

    fn expression(&mut self, depth: u32) -> String {
        let kinds = if depth == 0 { 5 } else { 13 };
        let memory = self.random.below(2);
        let constant = self.random.operand(self.piece, 65_536);
        match self.random.below(kinds) {
            0 => format!("(i32.const {constant})"),
            1 => "(local.get $x)".to_owned(),
            2 => "(local.get $y)".to_owned(),
            3 => "(local.get $l)".to_owned(),
            4 => "(global.get $g0)".to_owned(),
            5 => format!("(i32.wrap_i64 (i64.add (global.get $g1) (i64.extend_i32_u {})))", self.expression(depth - 1)),
            6 => format!("(i32.wrap_i64 (i64.rotl (i64.extend_i32_u {}) (i64.const 9)))", self.expression(depth - 1)),
            7 => format!("(i64.gt_u (global.get $g1) (i64.extend_i32_u {}))", self.expression(depth - 1)),
            8 => format!("(i32.add (memory.size {memory}) {})", self.expression(depth - 1)),
            9 => format!("(i32.load8_u {memory} (i32.and {} (i32.const 0xffff)))", self.expression(depth - 1)),
            10 => format!(
                "(if (result i32) {} (then {}) (else {}))",
                self.expression(depth - 1),
                self.expression(depth - 1),
                self.expression(depth - 1)
            ),
            11 => format!(
                "(select {} {} {})",
                self.expression(depth - 1),
                self.expression(depth - 1),
                self.expression(depth - 1)
            ),
            _ => format!("(local.tee $l (i32.xor {} (i32.const {constant})))", self.expression(depth - 1)),
        }
    }
}
