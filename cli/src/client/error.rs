//! Failures between client and server, and what to do about each.

use thiserror::Error;
use wasmill_api as api;

use crate::failure::{Exit, Failure};
use crate::output::printable;

/// Why a request has no good answer.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// No connection.
    #[error("cannot reach the server at {server}")]
    Unreachable {
        /// Its URL.
        server: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("the server at {server} did not finish its answer")]
    Broken {
        /// Its URL.
        server: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The server answered with an error.
    #[error("{}", .0.text())]
    Problem(Box<Problem>),
    /// The answer is not what the interface promises.
    #[error("the answer to {path} cannot be understood")]
    Unreadable {
        /// The request's path.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A request that cannot be written as JSON.
    #[error("the request cannot be written as JSON")]
    Unsendable {
        /// Why.
        source: serde_json::Error,
    },
    /// Not a URL of a server.
    #[error("`{server}` is not the URL of a server: {reason}")]
    BadServer {
        /// The value that was given.
        server: String,
        /// Why not.
        reason: String,
    },
    /// A token with characters that no token has.
    #[error("the token has characters that cannot be sent")]
    BadToken,
    /// A tenant name with characters that no name has.
    #[error("the tenant name `{name}` has characters that cannot be sent")]
    BadTenant {
        /// The value that was given.
        name: String,
    },
}

impl ClientError {
    /// Tells a server that is not there from one that went away.
    pub(crate) fn broken(server: &str, source: reqwest::Error) -> Self {
        // The URL is in our own text already.
        let (server, is_connect) = (server.to_owned(), source.is_connect() || source.is_timeout());
        let source = source.without_url();
        if is_connect { Self::Unreachable { server, source } } else { Self::Broken { server, source } }
    }

    /// The stable code of the server's problem, if it is one.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.doc.code),
            _ => None,
        }
    }

    /// Whether the same request can have another answer soon: a server that restarts or is busy.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 429 | 502 | 503 | 504),
            _ => false,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Unreadable { .. } => Exit::Server,
            Self::Problem(problem) if problem.status >= 500 => Exit::Server,
            Self::Problem(_) => Exit::Refused,
            Self::Unsendable { .. } | Self::BadServer { .. } | Self::BadToken | Self::BadTenant { .. } => Exit::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } if distrusts(source) => {
                Some("name the authority that has signed its certificate with --ca or WASMILL_CA".into())
            }
            Self::Unreachable { .. } => {
                Some("start a server with `wasmill up`, or name another one with --server or WASMILL_SERVER".into())
            }
            Self::Broken { .. } => Some("look at the server's log; the same command can be repeated".into()),
            Self::Unreadable { .. } => Some("check that --server names a Wasmill server of the same version".into()),
            Self::Problem(problem) => problem.hint(),
            Self::BadServer { .. } => Some("give one like http://127.0.0.1:7700".into()),
            Self::BadToken => Some("give the token's text only, as `wasmill token create` printed it".into()),
            Self::Unsendable { .. } | Self::BadTenant { .. } => None,
        }
    }
}

/// Whether a connection failed because the server's certificate is not trusted.
fn distrusts(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        // The error inside an error of I/O is not its source.
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let mut failure = Self::new(error.exit(), error.to_string());
        if let Some(source) = std::error::Error::source(&error) {
            failure = failure.because(source);
        }
        if let ClientError::Problem(problem) = &error
            && !problem.body.is_empty()
        {
            failure = failure.answered(problem.body.clone());
        }
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// An answer of `application/problem+json` (RFC 9457), or what stands for one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The HTTP status.
    pub(crate) status: u16,
    /// How long to wait before the next try, in seconds.
    retry_after: Option<String>,
    doc: api::Problem,
    /// The document as it came; nothing when it was none.
    body: Vec<u8>,
}

impl Problem {
    /// Reads an answer; something that is no problem document (a proxy's page) becomes one by its
    /// status.
    pub(crate) fn read(status: u16, body: &[u8], retry_after: Option<String>) -> Self {
        const EXCERPT_CHARS_MAX: usize = 200;
        let doc = serde_json::from_slice::<api::Problem>(body).ok().filter(|doc| !doc.code.is_empty());
        let document = if doc.is_some() { body.to_vec() } else { Vec::new() };
        let doc = doc.unwrap_or_else(|| {
            let detail = String::from_utf8_lossy(body).trim().chars().take(EXCERPT_CHARS_MAX).collect();
            api::Problem { detail, ..api::Problem::default() }
        });
        Self { status, retry_after, doc, body: document }
    }

    /// The server's problem, where and with which code, on one line.
    pub(crate) fn text(&self) -> String {
        let said = [&self.doc.detail, &self.doc.title].into_iter().find(|text| !text.is_empty());
        let said = said.map_or("the server refused without saying why", String::as_str);
        let field = self.doc.field.as_ref().filter(|field| !said.contains(field.as_str()));
        let field = field.map(|field| format!("field `{field}`: ")).unwrap_or_default();
        let code = if self.doc.code.is_empty() { String::new() } else { format!(", {}", self.doc.code) };
        printable(&format!("{field}{said} (HTTP {}{code})", self.status))
    }

    fn hint(&self) -> Option<String> {
        let hint = match (self.status, self.doc.code.as_str()) {
            (401, _) => "give a valid token with --token or WASMILL_TOKEN; the local server's is in DIR/admin.token",
            (403, _) => "use a token of a stronger role; an admin makes one with `wasmill token create`",
            (404, _) => {
                "list what is there with `wasmill modules`, `wasmill alias ls` or `wasmill ps`, and check --tenant"
            }
            (_, "already_final") => "submit it again with `wasmill retry`",
            (_, "not_final") => "wait for it with `wasmill wait`",
            (_, "module_in_use") => "wait for its tasks or cancel them first",
            (507, _) => "free disk space where the server keeps its data",
            (429 | 503, _) => {
                return Some(match &self.retry_after {
                    Some(seconds) => format!("try again in {seconds} s"),
                    None => "try again later".into(),
                });
            }
            (500.., _) => "look at the server's log",
            _ => return None,
        };
        Some(hint.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(status: u16, body: &str) -> (Exit, String) {
        let failure =
            Failure::from(ClientError::Problem(Box::new(Problem::read(status, body.as_bytes(), Some("3".into())))));
        (failure.exit, failure.to_string())
    }

    #[test]
    fn problems_say_what_where_and_what_to_do() {
        let body = r#"{"type": "about:blank", "title": "Unknown module", "status": 404, "code": "unknown_module",
            "detail": "no module or alias `resize`", "field": "module", "more": [1]}"#;
        let (exit, text) = shown(404, body);
        assert_eq!(exit, Exit::Refused);
        assert!(text.starts_with("error: no module or alias `resize` (HTTP 404, unknown_module)\n"), "{text}");
        assert!(text.contains("what to do: list what is there"), "{text}");

        let (exit, text) = shown(422, r#"{"code": "over_cap", "detail": "70 is over 64", "field": "limits.cpu_ms"}"#);
        assert_eq!(exit, Exit::Refused);
        assert_eq!(text, "error: field `limits.cpu_ms`: 70 is over 64 (HTTP 422, over_cap)");
    }

    #[test]
    fn what_is_no_problem_document_is_still_an_error() {
        let (exit, text) = shown(502, "<html>\u{1b}[2Jbad gateway</html>");
        assert_eq!(exit, Exit::Server);
        assert!(text.starts_with("error: <html>?[2Jbad gateway</html> (HTTP 502)"), "{text}");
        let (_, text) = shown(500, "");
        assert!(text.starts_with("error: the server refused without saying why (HTTP 500)"), "{text}");
    }

    #[test]
    fn busy_servers_name_the_time_to_wait() {
        let (exit, text) = shown(503, r#"{"code": "busy", "title": "Busy"}"#);
        assert_eq!(exit, Exit::Server);
        assert_eq!(text, "error: Busy (HTTP 503, busy)\n  what to do: try again in 3 s");
        let (exit, _) = shown(429, r#"{"code": "too_many"}"#);
        assert_eq!(exit, Exit::Refused);
    }
}
