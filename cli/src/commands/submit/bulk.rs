//! Many tasks in one request, streamed both ways.

use std::io::Write as _;
use std::path::Path as FilePath;

use futures::StreamExt as _;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method};
use serde::Deserialize;
use tokio::io::{AsyncRead, BufReader};
use tokio_util::io::ReaderStream;
use wasmill_api::NDJSON;

use crate::client::{Client, ClientError, Path, Problem};
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

use super::defaults::Defaults;

/// Bytes that are read from the file at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// The longest line that is kept of an answer; the server's are far shorter.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Refused lines that are described one by one.
const REFUSALS_SHOWN_MAX: u64 = 20;

/// A line of the answer.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    status: u16,
}

/// Submits every line of `file`. Ids go to stdout in the order of the lines, a line without a task
/// is empty there and is described on stderr.
pub(super) async fn submit(client: &Client, json: bool, file: &FilePath, defaults: Option<Defaults>) -> Outcome {
    let reader: Box<dyn AsyncRead + Send + Unpin> = if file == FilePath::new("-") {
        Box::new(tokio::io::stdin())
    } else {
        let opened = tokio::fs::File::open(file).await;
        Box::new(opened.map_err(|source| Failure::file("read tasks from", file, &source))?)
    };
    let body = match defaults {
        None => Body::wrap_stream(ReaderStream::with_capacity(reader, CHUNK_BYTES)),
        Some(defaults) => Body::wrap_stream(defaults.fill_all(BufReader::with_capacity(CHUNK_BYTES, reader))),
    };
    let request = client.request(Method::POST, &Path::new("/v1/tasks")).header(CONTENT_TYPE, NDJSON);
    let response = client.send(request.body(body)).await?;
    let mut chunks = response.bytes_stream();
    let mut answers = Answers { json, line: Vec::new(), number: 0, refused: 0 };
    while let Some(chunk) = chunks.next().await {
        answers.take(&chunk.map_err(|source| ClientError::broken(client.server(), source))?)?;
    }
    answers.finish()
}

/// Turns the stream of answers into lines.
struct Answers {
    json: bool,
    line: Vec<u8>,
    number: u64,
    refused: u64,
}

impl Answers {
    fn take(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        let mut out = output::stdout();
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.print(line.trim_ascii_end(), &mut out)?;
            } else if self.line.len() > LINE_BYTES_MAX {
                return Err(Failure::new(Exit::Server, "the server answered with a line that has no end"));
            }
        }
        Ok(out.flush()?)
    }

    fn print(&mut self, line: &[u8], out: &mut impl std::io::Write) -> Result<(), Failure> {
        self.number += 1;
        let answer: Line = serde_json::from_slice(line).map_err(|error| {
            Failure::new(Exit::Server, format!("the answer to line {} cannot be understood", self.number))
                .because(&error)
        })?;
        if answer.id.is_none() {
            self.refused += 1;
            if self.refused <= REFUSALS_SHOWN_MAX {
                output::tell(&format!("line {}: {}", self.number, Problem::read(answer.status, line, None).text()));
            }
        }
        if self.json {
            out.write_all(line)?;
        } else {
            out.write_all(answer.id.unwrap_or_default().as_bytes())?;
        }
        Ok(out.write_all(b"\n")?)
    }

    fn finish(mut self) -> Outcome {
        if !self.line.is_empty() {
            self.take(b"\n")?;
        }
        if self.refused == 0 {
            return Ok(Exit::Done);
        }
        let (refused, lines) = (self.refused, self.number);
        Err(Failure::new(Exit::Refused, format!("{refused} of {lines} tasks were refused"))
            .hint("correct those lines and submit them again; tasks with an idempotency key are never submitted twice"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_across_chunks() {
        let mut answers = Answers { json: false, line: Vec::new(), number: 0, refused: 0 };
        for chunk in [&b"{\"id\": \"a\"}\n{\"id\""[..], b": \"b\"}\n{\"status\": 422, \"code\": \"x\"}"] {
            answers.take(chunk).unwrap();
        }
        let failure = answers.finish().unwrap_err();
        assert_eq!(failure.exit, Exit::Refused);
        assert!(failure.to_string().starts_with("error: 1 of 3 tasks were refused"), "{failure}");
    }

    #[test]
    fn nonsense_is_the_servers_fault() {
        let mut answers = Answers { json: false, line: Vec::new(), number: 0, refused: 0 };
        assert_eq!(answers.take(b"<html>\n").unwrap_err().exit, Exit::Server);
    }
}
