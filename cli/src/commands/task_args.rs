//! Options of `run` and `submit` about a task.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::value::RawValue;
use wasmill_api::{LimitsAsked, SubmitTask};
use wasmill_protocol::module::ModuleKind;

use crate::client::Client;
use crate::commands::bounded::{self, Sent};
use crate::commands::push;
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
    /// The name that a command finds as its own [default: the alias, or the name of the file]
    #[arg(long, value_name = "NAME")]
    program: Option<String>,
    /// Exit codes of a command that are success, like 0,10,20
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    ok_exit: Vec<u64>,
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
    pub(crate) fn task(self, module: Module, input: Input, args: Vec<String>) -> Result<SubmitTask, Failure> {
        let limits = LimitsAsked {
            cpu_ms: self.cpu_ms,
            fuel: self.fuel,
            memory_bytes: self.memory,
            wall_ms: self.wall_ms,
            output_bytes: self.output_bytes,
        };
        Ok(SubmitTask {
            module: module.name,
            input: input.json,
            input_text: input.text,
            input_base64: input.base64,
            name: self.name,
            description: self.description,
            labels: map_of_pairs("--label", self.labels)?,
            args: Some(args).filter(|args| !args.is_empty()),
            env: map_of_pairs("--env", self.env)?,
            program: self.program.or(module.file_name),
            ok_exit: Some(self.ok_exit).filter(|codes| !codes.is_empty()),
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

/// A module as a command line names it.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// Digest or alias.
    pub(crate) name: String,
    /// The name of a command that comes from a file.
    pub(crate) file_name: Option<String>,
}

impl Module {
    /// The module that `text` names; a file is uploaded first, unless the tenant has it.
    pub(crate) async fn find(client: &Client, text: &str) -> Result<Self, Failure> {
        if !push::is_file_name(text) {
            return Ok(Self { name: text.to_owned(), file_name: None });
        }
        let file = Path::new(text);
        let module = push::ensure(client, file).await?;
        let file_name = push::file_name(file).filter(|_| module.kind == ModuleKind::Command);
        Ok(Self { name: module.digest.to_string(), file_name: file_name.map(str::to_owned) })
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
    pub(crate) async fn read(self, client: &Client) -> Result<Input, Failure> {
        let input = Input { json: self.input, text: self.input_text, base64: None };
        let Some(file) = self.input_file else { return Ok(input) };
        Ok(shortest(bounded::read(client, &file, Sent::Payload).await?))
    }
}

/// Bytes as text, which is readable afterwards, unless base64 is shorter on the way: the guest gets
/// the same either way.
fn shortest(bytes: Vec<u8>) -> Input {
    match String::from_utf8(bytes) {
        Ok(text) if escaped_bytes(&text) <= base64_bytes(text.len()) => Input { text: Some(text), ..Input::default() },
        other => {
            let bytes = other.map_or_else(std::string::FromUtf8Error::into_bytes, String::into_bytes);
            Input { base64: Some(base64::engine::general_purpose::STANDARD.encode(bytes)), ..Input::default() }
        }
    }
}

/// The bytes of a text between the quotes of JSON.
fn escaped_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

fn parse_json(text: &str) -> Result<Box<RawValue>, String> {
    // The mark that some editors begin files with; a reader of JSON may pass over it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    RawValue::from_string(text.to_owned())
        .map_err(|error| format!("not JSON: {error}; for plain text use --input-text"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::client::Trust;
    use crate::commands::block_on;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        input: InputArgs,
        #[command(flatten)]
        task: TaskArgs,
    }

    /// Of files that are small enough to need no server.
    fn read(input: InputArgs) -> Result<Input, Failure> {
        let client = Client::new("http://127.0.0.1:1", "t", None, Trust::System).unwrap();
        block_on(input.read(&client)).unwrap()
    }

    fn request(line: &[&str]) -> String {
        let line = Line::try_parse_from([&["x"], line].concat()).unwrap();
        let module = Module { name: "m".into(), file_name: None };
        let task = line.task.task(module, read(line.input).unwrap(), vec![]).unwrap();
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
        // Text of which JSON would make more than base64 does.
        std::fs::write(&file, "\0\0\0").unwrap();
        assert_eq!(request(&["--input-file", file_name]), r#"{"module":"m","input_base64":"AAAA"}"#);
    }

    #[test]
    fn what_is_sent_is_never_more_than_base64() {
        for text in ["", "a", "größe", "\n", "a\"b\\c\n\r\t\u{8}\u{c}", "\0\u{1}\u{1f} \u{7f}", "\u{2028}😀"] {
            let written = serde_json::to_string(text).unwrap();
            assert_eq!(escaped_bytes(text), written.len() - 2, "{text:?}");
        }
        for bytes in 0..20 {
            let encoded = base64::engine::general_purpose::STANDARD.encode(vec![0; bytes]);
            assert_eq!(base64_bytes(bytes), encoded.len());
        }
    }

    #[test]
    fn a_program_and_exit_codes_are_sent_as_they_are_said() {
        assert_eq!(
            request(&["--program", "wc", "--ok-exit", "0,10,20", "--ok-exit", "30"]),
            r#"{"module":"m","program":"wc","ok_exit":[0,10,20,30]}"#
        );
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
        assert_eq!(read(missing.input).unwrap_err().exit, crate::failure::Exit::Usage);
    }
}
