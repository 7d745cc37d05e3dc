//! Why a process cannot be part of its cluster.

use std::io;
use std::path::PathBuf;

use async_nats::jetstream::ErrorCode;
use thiserror::Error;

use super::ConfigError;

/// The cluster cannot be used.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// It cannot be reached with this configuration.
    #[error("the configuration of the cluster makes no sense")]
    Config(#[from] ConfigError),
    /// A file of the configuration cannot be read.
    #[error("cannot read `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not now; trying again may help.
    #[error("cannot {action} at {}: {reason}", urls.join(", "))]
    Unreachable {
        /// The action that was attempted.
        action: &'static str,
        /// Where.
        urls: Vec<String>,
        /// Why not.
        reason: String,
    },
    /// The servers do not let us, or cannot do it. Trying again does not help.
    #[error("cannot {action}: {reason}")]
    Refused {
        /// The action that was attempted.
        action: &'static str,
        /// The servers' reason.
        reason: String,
    },
    /// No server that can be reached keeps anything.
    #[error(
        "JetStream is not enabled on NATS at {}: give each server a `jetstream` section with a `store_dir`, as in `deploy/nats.conf`",
        urls.join(", ")
    )]
    NoJetStream {
        /// The servers.
        urls: Vec<String>,
    },
    /// Another control node has the name of this one.
    #[error(
        "another control node of cluster `{cluster}` is named `{node}` and runs at `{address}`: give this one another `--id` and an empty data directory"
    )]
    NameTaken {
        /// Of which cluster.
        cluster: String,
        /// The name.
        node: String,
        /// The machine of the other one.
        address: String,
    },
    /// The cluster has had a log, and it is gone, or another one is in its place.
    #[error(
        "the {what} of cluster `{cluster}` is not the one it was: {found}; restore it, or see `docs/operating.md` for how to begin anew without it"
    )]
    Vanished {
        /// Log or blobs.
        what: &'static str,
        /// Of which cluster.
        cluster: String,
        /// The one that is there instead.
        found: String,
    },
    /// The stream on the servers was changed so that it would lose records.
    #[error("stream `{stream}` is configured to lose records: {found}")]
    Misconfigured {
        /// Which.
        stream: String,
        /// The setting that is wrong.
        found: String,
    },
    /// The directory for copies of blobs cannot be used.
    #[error("cannot use `{}` for copies of blobs", path.display())]
    Cache {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No random number, no thread.
    #[error("cannot {action}")]
    System {
        /// The action that was attempted.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

/// The error of a stream or a bucket that could not be opened. An answer of a server that is only
/// starting, or whose fellows are, passes; a mistake of the configuration does not.
pub(super) fn cannot_open(action: &'static str, urls: &[String], error: &dyn std::error::Error) -> ConnectError {
    let reason = chain(error);
    match refusal(error) {
        Some(ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT) => {
            let reason = format!("JetStream is not enabled for this account: {reason}");
            ConnectError::Refused { action, reason }
        }
        Some(code) if CONFIGURATION.contains(&code) => ConnectError::Refused { action, reason },
        None if reason.contains(NOBODY_KEEPS) => ConnectError::NoJetStream { urls: urls.to_vec() },
        _ => ConnectError::Unreachable { action, urls: urls.to_vec(), reason },
    }
}

/// JetStream's answers to a request that it will never grant, however often it is made.
const CONFIGURATION: [ErrorCode; 5] = [
    ErrorCode::STREAM_INVALID_CONFIG,
    ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED,
    ErrorCode::STREAM_SUBJECT_OVERLAP,
    ErrorCode::MAXIMUM_STREAMS_LIMIT,
    ErrorCode::CLUSTER_REQUIRED,
];
/// The client's message when nobody answers for JetStream.
const NOBODY_KEEPS: &str = "requested JetStream resource does not exist";

/// An error and what caused it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some print their source inside their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// Why JetStream has refused something. Some of the client's errors carry its answer as their
/// source, some as their kind; all of them print it.
pub(super) fn refusal(error: &dyn std::error::Error) -> Option<ErrorCode> {
    let text = chain(error);
    let (_, rest) = text.rsplit_once("error code ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(ErrorCode)
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, PublishError, PublishErrorKind};

    use super::*;

    #[test]
    fn a_refusal_is_found_wherever_the_client_puts_it() {
        let text = r#"{"code": 404, "err_code": 10059, "description": "stream not found"}"#;
        let refused: async_nats::jetstream::Error = serde_json::from_str(text).unwrap();
        let as_kind = CreateStreamError::new(CreateStreamErrorKind::JetStream(refused.clone()));
        let as_source = PublishError::with_source(PublishErrorKind::Other, refused);
        assert_eq!(refusal(&as_kind), Some(ErrorCode::STREAM_NOT_FOUND));
        assert_eq!(refusal(&as_source), Some(ErrorCode::STREAM_NOT_FOUND));
        assert_eq!(refusal(&PublishError::new(PublishErrorKind::TimedOut)), None);
    }
    /// Answers of a server while it or its fellows start, and those to a wrong configuration.
    #[test]
    fn f56_only_what_is_wrong_with_the_configuration_is_final() {
        let said = |code: u16, status: u16| {
            let text = format!(r#"{{"code": {status}, "err_code": {code}, "description": "…"}}"#);
            let refused: async_nats::jetstream::Error = serde_json::from_str(&text).unwrap();
            let error = CreateStreamError::new(CreateStreamErrorKind::JetStream(refused));
            cannot_open("open the log", &["nats://n1".to_owned()], &error)
        };
        for (passing, status) in
            [(10_008, 503), (10_009, 500), (10_005, 400), (10_059, 404), (10_023, 503), (10_047, 500)]
        {
            assert!(matches!(said(passing, status), ConnectError::Unreachable { .. }), "{passing}");
        }
        for (wrong, status) in [(10_052, 500), (10_074, 500), (10_065, 400), (10_039, 503), (10_076, 503)] {
            assert!(matches!(said(wrong, status), ConnectError::Refused { .. }), "{wrong}");
        }
        assert!(said(10_039, 503).to_string().contains("JetStream is not enabled"));
        let late = CreateStreamError::new(CreateStreamErrorKind::TimedOut);
        assert!(matches!(cannot_open("open the log", &[], &late), ConnectError::Unreachable { .. }));
    }
}
