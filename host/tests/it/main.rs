//! Tests of the host as a whole, in one program.
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails and says where and why")]

mod agent;
mod compile_bench;
mod compile_cache;
mod compile_check;
mod compile_child;
mod compile_pieces;
mod compile_pieces_modules;
mod fuzz;
mod sandbox_command;
mod sandbox_deterministic;
mod sandbox_hostile;
mod sandbox_limits;
mod sandbox_long;
mod sandbox_random;
mod sandbox_stop;
mod sandbox_streams;
mod sandbox_support;
mod sandbox_task;

// The names that the fuzz targets use, which are a part of this program too.
use wasmill_host::{compile, engine};
