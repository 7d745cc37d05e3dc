//! The common part of the end-to-end tests: a server of their own for each, the command line, and
//! the example guests.
//!
//! Binary and guests are built by `cargo xtask test`, which also says where they are.

mod cluster;
mod collector;
mod command;
mod request;
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use cluster::{Cluster, Member};
pub use collector::{Collector, Span};
pub use command::{Ended, run};
pub use server::{Server, signal};

/// How long anything may take that is waited for. Far more than it takes; only a failure ever waits
/// so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at what is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until there is something.
///
/// # Panics
///
/// There is nothing for [`PATIENCE`]; `what` says what was waited for.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// The built binary.
///
/// # Panics
///
/// It is not there.
pub fn binary() -> PathBuf {
    built("WASMILL_BIN", "wasmill")
}

/// The module of an example.
///
/// # Panics
///
/// It is not there.
pub fn guest(name: &str) -> PathBuf {
    let dir = built("WASMILL_GUESTS", "../guests");
    let module = dir.join(format!("{name}.wasm"));
    assert!(module.is_file(), "{} is missing: build it with `cargo xtask guests`", module.display());
    module
}

/// The module of an example, as a command takes it.
///
/// # Panics
///
/// It is not there.
pub fn guest_file(name: &str) -> String {
    guest(name).to_string_lossy().into_owned()
}

/// The program that a variable names, else the one beside this test's own program.
fn built(variable: &str, beside: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(
        || {
            let program = std::env::current_exe().expect("a program knows its own file");
            let deps = program.parent().expect("a program is in a directory");
            deps.parent().expect("cargo puts tests into a directory of its own").join(beside)
        },
        PathBuf::from,
    );
    assert!(path.exists(), "{} is missing: run these tests with `cargo xtask test`", path.display());
    path
}
