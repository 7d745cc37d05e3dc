//! Tests of the host as a whole, in one program.

mod compile_check;
