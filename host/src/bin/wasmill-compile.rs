//! The compiling child alone, for tests: the `wasmill` binary does the same as its hidden command
//! `compile`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wasmill_host::compile::child_main()
}
