//! `wasmill results`: what tasks gave, by a filter, in one request.

use std::path::{Path as FilePath, PathBuf};

use base64::Engine as _;
use futures::StreamExt as _;
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use serde_json::value::RawValue;
use wasmill_api::NDJSON;
use wasmill_protocol::TaskState;

use crate::client::{Client, ClientError, Path};
use crate::commands::filter::FilterArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// The longest line: a result of 64 MiB in base64, and its task.
const LINE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The options of `results`.
#[derive(Debug, clap::Args)]
pub(crate) struct ResultsArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Write each result into a file of this directory, named by the task's id, instead of all of
    /// them to stdout
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A line of the answer: a task, and its result in the first of these forms that can say it.
#[derive(Debug, Deserialize)]
struct Line {
    id: String,
    state: TaskState,
    #[serde(default)]
    output: Option<Box<RawValue>>,
    #[serde(default)]
    output_text: Option<String>,
    #[serde(default)]
    output_base64: Option<String>,
}

/// Prints a line of JSON for each task, oldest first, or writes its result into a file and prints
/// which.
pub(crate) async fn run(client: &Client, json: bool, args: &ResultsArgs) -> Outcome {
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).map_err(|error| Failure::file("make the directory", dir, &error))?;
    }
    let path = args.filter.apply(Path::new("/v1/tasks")).query("output", true);
    let response = client.send(client.request(Method::GET, &path).header(ACCEPT, NDJSON)).await?;
    let mut chunks = response.bytes_stream();
    let mut line = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|source| ClientError::broken(client.server(), source))?;
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                take(&line, json, args.dir.as_deref())?;
                line.clear();
            } else if line.len() > LINE_BYTES_MAX {
                return Err(Failure::new(Exit::Server, "the server answered with a line that has no end"));
            }
        }
    }
    if !line.is_empty() {
        take(&line, json, args.dir.as_deref())?;
    }
    Ok(Exit::Done)
}

fn take(line: &[u8], json: bool, dir: Option<&FilePath>) -> Result<(), Failure> {
    let Some(dir) = dir else { return output::print_json(line) };
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Server, format!("a line of the answer cannot be understood: {error}"))
    };
    let task: Line = serde_json::from_slice(line).map_err(|error| unreadable(&error))?;
    let Some(bytes) = task.bytes().map_err(|error| unreadable(&error))? else {
        return output::print_line(&format!("{} {}", task.id, task.state.as_str()));
    };
    // An id of the server's that is no id would be a path of its choosing.
    let id: wasmill_protocol::TaskId = task.id.parse().map_err(|error| unreadable(&error))?;
    let file = dir.join(id.to_string());
    std::fs::write(&file, bytes).map_err(|error| Failure::file("write the result to", &file, &error))?;
    if json {
        output::print_json(line)
    } else {
        output::print_line(&format!("{id} {} {}", task.state.as_str(), file.display()))
    }
}

impl Line {
    fn bytes(&self) -> Result<Option<Vec<u8>>, base64::DecodeError> {
        if let Some(output) = &self.output_base64 {
            return base64::engine::general_purpose::STANDARD.decode(output).map(Some);
        }
        let text = self.output_text.as_ref().map(|text| text.as_bytes().to_vec());
        Ok(text.or_else(|| self.output.as_ref().map(|value| value.get().as_bytes().to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(fields: &str) -> Option<Vec<u8>> {
        let line: Line = serde_json::from_str(&format!("{{\"id\":\"x\",\"state\":\"succeeded\"{fields}}}")).unwrap();
        line.bytes().unwrap()
    }

    #[test]
    fn a_result_is_the_bytes_that_the_guest_gave() {
        assert_eq!(bytes(r#","output":{"a": [1e2]}"#).unwrap(), b"{\"a\": [1e2]}");
        assert_eq!(bytes(r#","output":null,"output_text":"gr\u00f6\u00dfe\n""#).unwrap(), "größe\n".as_bytes());
        assert_eq!(bytes(r#","output":null,"output_base64":"/wA=""#).unwrap(), [0xff, 0]);
        assert_eq!(bytes(r#","output":null"#), None);
        assert_eq!(bytes(""), None);
    }
}
