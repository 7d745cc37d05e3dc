//! Programs that run to their end.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr, made readable.
    pub stderr: String,
}

impl Ended {
    /// This, if the exit code is `code`.
    ///
    /// # Panics
    ///
    /// It is another one.
    #[track_caller]
    #[must_use]
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }

    /// This, if it is done without an error.
    #[track_caller]
    #[must_use]
    pub fn done(self) -> Self {
        self.with_code(0)
    }

    /// The text on stdout, without white space at its ends.
    ///
    /// # Panics
    ///
    /// It is no UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        str::from_utf8(&self.stdout).expect("stdout is UTF-8").trim()
    }

    /// The JSON on stdout.
    ///
    /// # Panics
    ///
    /// It is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.stdout)))
    }
}

/// Runs a program to its end with `stdin`.
///
/// # Panics
///
/// It cannot be started.
pub fn run(command: &mut Command, stdin: &[u8]) -> Ended {
    let shown = format!("{command:?}");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    let mut pipe = child.stdin.take().expect("stdin is a pipe");
    let output = std::thread::scope(|scope| {
        // Beside the reading, or both sides could wait for each other. A program need not read all
        // of it.
        scope.spawn(move || drop(pipe.write_all(stdin)));
        child.wait_with_output().expect("a child can be waited for")
    });
    Ended {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
