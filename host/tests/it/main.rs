//! Tests of the host as a whole, in one program.

mod compile_check;
mod sandbox_support;
mod sandbox_task;
