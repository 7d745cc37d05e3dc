//! What `run` and `submit` say about a task.

use std::path::PathBuf;

use base64::Engine as _;
use serde_json::value::RawValue;
use wasmill_protocol::api::{LimitsAsked, SubmitTask};

use crate::failure::Failure;
use crate::units::{map_of_pairs, parse_bytes, parse_pair};

/// The payload, at most one of them.
#[derive(Debug, Default, clap::Args)]
#[group(multiple = false)]
pub(crate) struct InputArgs {
    /// Payload: any JSON, given to the guest as it is written here
    #[arg(long, value_name = "JSON", value_parser = parse_json, help_heading = "Payload")]
    input: Option<Box<RawValue>>,
    /// Payload: a text
    #[arg(long, value_name = "TEXT", help_heading = "Payload")]
    input_text: Option<String>,
    /// Payload: the bytes of a file; `-` reads stdin
    #[arg(long, value_name = "FILE", help_heading = "Payload")]
    input_file: Option<PathBuf>,
}

/// Everything about a task but module, payload and arguments.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct TaskArgs {
    /// Name, for people and filters
    #[arg(long)]
    name: Option<String>,
    /// Description, for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Label, for people and filters; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Environment variable of a command; can be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// CPU time of one attempt in milliseconds
    #[arg(long, value_name = "N", help_heading = "Limits")]
    cpu_ms: Option<u64>,
    /// Fuel of one attempt; unlimited unless set
    #[arg(long, value_name = "N", help_heading = "Limits")]
    fuel: Option<u64>,
    /// Memory of one attempt, like 64MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Limits")]
    memory: Option<u64>,
    /// Time of one attempt on the clock in milliseconds
    #[arg(long, value_name = "N", help_heading = "Limits")]
    wall_ms: Option<u64>,
    /// Size of the result, like 1MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Limits")]
    output_bytes: Option<u64>,
    /// -100 to 100, higher first among the tasks of your tenant
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i64>,
    /// Attempts in all
    #[arg(long, value_name = "N")]
    pub(crate) attempts: Option<u64>,
    /// Only on hosts with this label; can be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    require: Vec<(String, String)>,
    /// Seeded randomness and a frozen clock: the same payload then gives the same bytes
    #[arg(long)]
    deterministic: bool,
    /// Seed for --deterministic; else the task's id
    #[arg(long, value_name = "N", requires = "deterministic")]
    seed: Option<u64>,
}

impl TaskArgs {
    /// The task as the server wants it.
    ///
    /// # Errors
    ///
    /// A label, a variable or a requirement is there twice.
    pub(crate) fn task(self, module: String, input: Input, args: Vec<String>) -> Result<SubmitTask, Failure> {
        let limits = LimitsAsked {
            cpu_ms: self.cpu_ms,
            fuel: self.fuel,
            memory_bytes: self.memory,
            wall_ms: self.wall_ms,
            output_bytes: self.output_bytes,
        };
        Ok(SubmitTask {
            module,
            input: input.json,
            input_text: input.text,
            input_base64: input.base64,
            name: self.name,
            description: self.description,
            labels: map_of_pairs("--label", self.labels)?,
            args: Some(args).filter(|args| !args.is_empty()),
            env: map_of_pairs("--env", self.env)?,
            limits: Some(limits).filter(|limits| *limits != LimitsAsked::default()),
            priority: self.priority,
            attempts_max: self.attempts,
            require: map_of_pairs("--require", self.require)?,
            deterministic: self.deterministic.then_some(true),
            seed: self.seed,
            ..SubmitTask::default()
        })
    }
}

/// A payload in one of the forms in which it can be sent.
#[derive(Debug, Default)]
pub(crate) struct Input {
    json: Option<Box<RawValue>>,
    text: Option<String>,
    base64: Option<String>,
}

impl InputArgs {
    /// Reads the payload.
    pub(crate) fn read(self) -> Result<Input, Failure> {
        let mut input = Input { json: self.input, text: self.input_text, base64: None };
        if let Some(file) = self.input_file {
            let bytes = read_file(&file).map_err(|source| Failure::file("read the payload from", &file, &source))?;
            // The guest gets the same bytes either way; text is smaller on the way and readable afterwards.
            match String::from_utf8(bytes) {
                Ok(text) => input.text = Some(text),
                Err(error) => {
                    input.base64 = Some(base64::engine::general_purpose::STANDARD.encode(error.as_bytes()));
                }
            }
        }
        Ok(input)
    }
}

fn read_file(file: &std::path::Path) -> std::io::Result<Vec<u8>> {
    if file == std::path::Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(file)
}

fn parse_json(text: &str) -> Result<Box<RawValue>, String> {
    // What some editors begin files with; a reader of JSON may pass over it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    RawValue::from_string(text.to_owned())
        .map_err(|error| format!("not JSON: {error}; for plain text use --input-text"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        input: InputArgs,
        #[command(flatten)]
        task: TaskArgs,
    }

    fn request(line: &[&str]) -> String {
        let line = Line::try_parse_from([&["x"], line].concat()).unwrap();
        let task = line.task.task("m".into(), line.input.read().unwrap(), vec![]).unwrap();
        serde_json::to_string(&task).unwrap()
    }

    #[test]
    fn nothing_is_sent_that_was_not_said() {
        assert_eq!(request(&[]), r#"{"module":"m"}"#);
    }

    #[test]
    fn json_is_sent_character_for_character() {
        assert_eq!(
            request(&["--input", r#" {"b": 1e400, "a": 12345678901234567890123} "#]),
            r#"{"module":"m","input":{"b": 1e400, "a": 12345678901234567890123}}"#
        );
    }

    #[test]
    fn limits_and_labels_are_sent_in_their_units() {
        let line = ["--memory", "64MiB", "--fuel", "7", "--label", "a=1", "--label", "b=2", "--priority", "-5"];
        assert_eq!(
            request(&line),
            r#"{"module":"m","labels":{"a":"1","b":"2"},"limits":{"fuel":7,"memory_bytes":67108864},"priority":-5}"#
        );
    }

    #[test]
    fn files_are_sent_as_text_or_as_base64() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let file_name = file.to_str().unwrap();
        std::fs::write(&file, "größe\n").unwrap();
        assert_eq!(request(&["--input-file", file_name]), "{\"module\":\"m\",\"input_text\":\"größe\\n\"}");
        std::fs::write(&file, [0xff, 0x00]).unwrap();
        assert_eq!(request(&["--input-file", file_name]), r#"{"module":"m","input_base64":"/wA="}"#);
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for line in [
            &["--input", "1", "--input-text", "2"][..],
            &["--input", "{"],
            &["--memory", "64M"],
            &["--label", "a"],
            &["--priority", "high"],
            &["--seed", "1"],
            &["--attempts", "-1"],
        ] {
            assert!(Line::try_parse_from([&["x"], line].concat()).is_err(), "{line:?}");
        }
        let missing = Line::try_parse_from(["x", "--input-file", "/does/not/exist"]).unwrap();
        assert_eq!(missing.input.read().unwrap_err().exit, crate::failure::Exit::Usage);
    }
}
