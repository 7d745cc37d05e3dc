//! How a task fails by its own decision.

use std::fmt;

/// The failure of one attempt, with the choice whether another attempt may help.
///
/// It deliberately does not implement [`std::error::Error`]: that is what lets `?` turn every other
/// error into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    retryable: bool,
    message: String,
}

impl Error {
    /// The task failed for good: another attempt with this input would fail as well.
    ///
    /// Takes whatever can be displayed, so it also serves as `.map_err(Error::reject)`.
    pub fn reject(message: impl fmt::Display) -> Self {
        Self { retryable: false, message: message.to_string() }
    }

    /// The attempt failed, another one may succeed. The server tries again while attempts are left.
    pub fn retry(message: impl fmt::Display) -> Self {
        Self { retryable: true, message: message.to_string() }
    }

    /// Whether another attempt may help.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The message that the user reads in the outcome of the task.
    pub fn message(&self) -> &str {
        &self.message
    }

    #[cfg(target_arch = "wasm32")]
    pub(crate) fn into_message(self) -> String {
        self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Any error may be retried. The message names the causes too, since nobody can ask the error for
/// them later.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors already print their cause inside their own text.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self { retryable: true, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Layer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn question_mark_keeps_every_cause_once() {
        fn fail() -> Result<(), Error> {
            let disk = Layer("disk is full", None);
            let write = Layer("cannot write: disk is full", Some(Box::new(disk)));
            Err(Layer("cannot save", Some(Box::new(write))))?
        }
        assert_eq!(fail(), Err(Error::retry("cannot save: cannot write: disk is full")));
    }

    #[test]
    fn reject_is_final_and_retry_is_not() {
        assert!(!Error::reject("no").is_retryable());
        assert!(Error::retry("later").is_retryable());
        assert_eq!("x".parse::<u8>().map_err(Error::reject), Err(Error::reject("invalid digit found in string")));
    }
}
