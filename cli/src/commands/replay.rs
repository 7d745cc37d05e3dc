//! `wasmill replay`: an attempt once more, on this machine.

mod compare;
mod recorded;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use wasmill_api::{OutcomeDoc, UsageDoc};
use wasmill_host::channel::Ended;
use wasmill_host::compile::CompileProgram;
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::{Digest, TaskSpec};

use crate::client::Client;
use crate::commands::describe;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;
use compare::{Came, Difference};
use recorded::{Given, Recorded};

/// The options of `replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The task's id
    id: String,
    /// Which of its attempts [default: the latest]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

/// Fetches what the attempt was given, runs it in a sandbox of our own, and says whether it did
/// what was recorded: exit code 0 when it did, 1 when not.
pub(crate) async fn run(client: &Client, json: bool, args: &ReplayArgs) -> Outcome {
    let recorded = Recorded::fetch(client, &args.id, args.attempt).await?;
    let given = recorded.given(client).await?;
    let mut notes = Vec::new();
    if given.version != env!("CARGO_PKG_VERSION") {
        notes.push(format!("the server has version {}, this program {}", given.version, env!("CARGO_PKG_VERSION")));
    }
    output::tell(&format!("replaying attempt {} of task {} on this machine", recorded.attempt, args.id));
    let kind = given.work.kind;
    let mut ended = run_here(given).await?;
    ended.outcome.clip();
    output::pass_on(&ended.captured);
    let now = came(kind, &ended);
    let differences = compare::differences(recorded.record, &recorded.came, &now);
    let same = differences.is_empty();
    notes.extend(compare::notes(recorded.is_deterministic(), recorded.came.outcome.kind, same));
    if json {
        print_json(&recorded, &args.id, (&ended, &now), &differences, &notes)?;
    } else {
        if let Some(output) = &now.output {
            output::print_bytes(output)?;
        }
        tell(&recorded, &now, &differences, &notes);
    }
    Ok(if same { Exit::Done } else { Exit::TaskFailed })
}

async fn run_here(given: Given) -> Result<Ended, Failure> {
    let Given { mut work, module, caps, .. } = given;
    let temporary =
        tempfile::tempdir().map_err(|error| Failure::usage("cannot make a temporary directory").because(&error))?;
    work.module_path = temporary.path().join("module.wasm");
    std::fs::write(&work.module_path, &module)
        .map_err(|error| Failure::file("write the module to", &work.module_path, &error))?;
    let (cache, program) = (temporary.path().join("cache"), CompileProgram::this_one(["compile"]));
    let ended = wasmill_host::replay::replay(work, &cache, program, &caps).await;
    ended.map_err(|error| Failure::new(Exit::Server, "cannot run the attempt here").because(&error))
}

fn came(kind: ModuleKind, ended: &Ended) -> Came {
    let has_result = TaskSpec { kind, ..TaskSpec::default() }.has_result(&ended.outcome);
    let output = has_result.then(|| ended.output.clone());
    Came { outcome: OutcomeDoc::from(&ended.outcome), fuel: ended.usage.fuel, output }
}

fn tell(recorded: &Recorded, now: &Came, differences: &[Difference], notes: &[String]) {
    output::tell(&format!("replayed: {}", describe::outcome(&now.outcome)));
    if differences.is_empty() {
        let fuel = recorded.came.fuel.map(|fuel| format!(", fuel {fuel}")).unwrap_or_default();
        output::tell(&format!("same as recorded: {}{fuel}", recorded.came.outcome.kind.as_str()));
    }
    for Difference { what, recorded, now } in differences {
        output::tell(&format!("{what} differs\n  recorded: {recorded}\n  now:      {now}"));
    }
    for note in notes {
        output::tell(&format!("note: {note}"));
    }
}

fn print_json(
    recorded: &Recorded,
    id: &str,
    (ended, now): (&Ended, &Came),
    differences: &[Difference],
    notes: &[String],
) -> Result<(), Failure> {
    let output = now.output.as_ref().map(|output| base64::engine::general_purpose::STANDARD.encode(output));
    let document = json!({
        "task": id,
        "attempt": recorded.attempt,
        "same": differences.is_empty(),
        "outcome": now.outcome,
        "usage": UsageDoc::from(&ended.usage),
        "output_base64": output,
        "recorded": { "outcome": recorded.came.outcome, "fuel": recorded.came.fuel },
        "differences": differences,
        "notes": notes,
    });
    output::print_json(document.to_string().as_bytes())
}

fn digest(bytes: &Bytes) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
