//! Files that are sent whole: read up to what the server takes, and refused here when they are
//! larger.
//!
//! A server refuses a body that is too large before it has read it, and closes the connection. A
//! client that still sends then sees the closing and not the answer, and so it is said before
//! anything is sent, in the server's words.

use std::io::Read;
use std::path::Path as FilePath;

use wasmill_api::{Problem as ProblemDoc, StatusDoc};
use wasmill_protocol::limits::Caps;

use crate::client::{Client, ClientError, Path, Problem};
use crate::failure::Failure;

/// Up to so many bytes are sent without asking for the cap: a server's answer to them always
/// arrives.
const UNASKED_BYTES_MAX: u64 = 256 * 1024;

/// The form in which a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The payload of a task.
    Payload,
    /// A module.
    Module,
}

impl Sent {
    fn bytes_max(self, caps: &Caps) -> u64 {
        match self {
            Self::Payload => caps.payload_bytes,
            Self::Module => caps.module_bytes,
        }
    }

    /// The problem that the server would answer.
    fn too_large(self, bytes: &str, bytes_max: u64) -> Problem {
        let (code, title, what) = match self {
            Self::Payload => ("payload_too_large", "The payload is over the limit", "payload"),
            Self::Module => ("module_too_large", "The module is over the limit", "module"),
        };
        let document = ProblemDoc {
            kind: format!("urn:wasmill:problem:{code}"),
            title: title.to_owned(),
            status: 413,
            code: code.to_owned(),
            detail: format!("the {what} has {bytes} bytes, over the limit of {bytes_max}"),
            limit: i64::try_from(bytes_max).ok(),
            ..ProblemDoc::default()
        };
        Problem::read(413, &serde_json::to_vec(&document).unwrap_or_default(), None)
    }
}

/// Reads a file, or stdin for `-`, no further than it is worth.
pub(crate) async fn read(client: &Client, file: &FilePath, sent: Sent) -> Result<Vec<u8>, Failure> {
    let attempted = match sent {
        Sent::Payload => "read the payload from",
        Sent::Module => "read",
    };
    let unreadable = |source| Failure::file(attempted, file, &source);
    let stdin = file == FilePath::new("-");
    let mut reader: Box<dyn Read> = if stdin {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).map_err(unreadable)?)
    };
    let mut bytes = Vec::new();
    (&mut reader).take(UNASKED_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    if (bytes.len() as u64) < UNASKED_BYTES_MAX {
        return Ok(bytes);
    }
    let status: StatusDoc = client.get(&Path::new("/v1/status")).await?.json()?;
    let bytes_max = sent.bytes_max(&status.caps);
    // One byte more tells that there is more.
    let rest = bytes_max.saturating_add(1).saturating_sub(bytes.len() as u64);
    (&mut reader).take(rest).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 <= bytes_max {
        return Ok(bytes);
    }
    let length =
        std::fs::metadata(file).ok().filter(|file| !stdin && file.is_file()).map(|file| file.len().to_string());
    let length = length.unwrap_or_else(|| format!("more than {bytes_max}"));
    Err(ClientError::Problem(Box::new(sent.too_large(&length, bytes_max))).into())
}
