//! How a command ends: exit codes, and errors with what to do about them.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io;
use std::process::ExitCode;

/// The exit codes that users can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; for `run` and `wait`: succeeded.
    Done = 0,
    /// The task did not succeed.
    TaskFailed = 1,
    /// The command line or a local file is wrong.
    Usage = 2,
    /// The server cannot be reached, or failed.
    Server = 3,
    /// The server refused, or does not know it.
    Refused = 4,
    /// Interrupted by the user.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // Every discriminant is below 256.
        Self::from(exit as u8)
    }
}

/// Why a command ends without having done what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code of the process.
    pub(crate) exit: Exit,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    answer: Option<Vec<u8>>,
}

/// The result of a command.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    /// A failure of one line; `message` is lowercase and has no full stop.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), causes: Vec::new(), hint: None, answer: None }
    }

    /// The command line or a local file is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A local file cannot be read or written.
    pub(crate) fn file(attempted: &str, path: &std::path::Path, source: &io::Error) -> Self {
        Self::usage(format!("cannot {attempted} `{}`", path.display())).because(source)
    }

    /// Adds an error and everything that caused it.
    #[must_use]
    pub(crate) fn because(mut self, source: &(dyn Error + 'static)) -> Self {
        let mut next = Some(source);
        while let Some(error) = next {
            let text = error.to_string();
            // Some libraries repeat their source inside their own text.
            if !self.causes.iter().any(|cause| cause.contains(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Changes what the process exits with.
    #[must_use]
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the problem that the server answered, as it was.
    #[must_use]
    pub(crate) fn answered(mut self, problem: Vec<u8>) -> Self {
        self.answer = Some(problem);
        self
    }

    /// The problem that the server answered, if that is what went wrong.
    pub(crate) fn answer(&self) -> Option<&[u8]> {
        self.answer.as_deref()
    }

    /// Whether the reader of our stdout has gone away, which is no error of anybody.
    pub(crate) fn is_silent(&self) -> bool {
        self.message.is_empty()
    }
}

/// `error:`, then what caused it, then what to do; without a newline at the end.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("error: {}", self.message);
        for cause in &self.causes {
            write!(text, "\n  caused by: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(text, "\n  what to do: {hint}")?;
        }
        f.write_str(&text)
    }
}

/// An error while writing to stdout. A closed pipe (`wasmill ps | head`) ends the command quietly.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::new(Exit::Done, "")
        } else {
            Self::usage("cannot write the output").because(&error)
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let mut causes = error.chain().map(ToString::to_string);
        let message = causes.next().unwrap_or_default();
        Self { exit: Exit::Server, message, causes: causes.collect(), hint: None, answer: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_causes_once_and_what_to_do() {
        let failure = Failure::file("read", "a.wasm".as_ref(), &io::Error::other("disk on fire")).hint("buy a disk");
        assert_eq!(
            failure.to_string(),
            "error: cannot read `a.wasm`\n  caused by: disk on fire\n  what to do: buy a disk"
        );
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn a_closed_pipe_is_silent() {
        let closed = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(closed.is_silent());
        assert_eq!(closed.exit, Exit::Done);
        assert!(!Failure::from(io::Error::from(io::ErrorKind::StorageFull)).is_silent());
    }

    #[test]
    fn anyhow_chains_become_causes() {
        let error = anyhow::anyhow!("port in use").context("cannot listen on 127.0.0.1:1");
        assert_eq!(Failure::from(error).to_string(), "error: cannot listen on 127.0.0.1:1\n  caused by: port in use");
    }
}
