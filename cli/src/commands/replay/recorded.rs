//! The record that a server has of an attempt: how it ended, and all that it was given.

use std::sync::Arc;

use bytes::Bytes;
use wasmill_api::{ModuleDoc, OutcomeDoc, StatusDoc, TaskDoc, TaskEventDoc, TaskEventsDoc};
use wasmill_protocol::limits::Caps;
use wasmill_protocol::{Attempt, AttemptId, Nonce, TaskSpec};

use super::compare::{Came, Record};
use crate::client::{Client, ClientError, Path};
use crate::commands::task_path;
use crate::failure::{Exit, Failure};
use wasmill_host::channel::GuestRun;

/// An attempt that has ended.
#[derive(Debug)]
pub(super) struct Recorded {
    /// Which.
    pub(super) attempt: u32,
    /// How much is recorded of it.
    pub(super) record: Record,
    /// Its end.
    pub(super) came: Came,
    task: TaskDoc,
}

/// The inputs that it takes to run it again.
#[derive(Debug)]
pub(super) struct Given {
    /// All but the place of the module.
    pub(super) work: GuestRun,
    /// The module's bytes.
    pub(super) module: Bytes,
    /// The caps of the server.
    pub(super) caps: Caps,
    /// The version of the server.
    pub(super) version: String,
}

impl Recorded {
    /// Asks how attempt `asked` of a task ended, or the latest one.
    pub(super) async fn fetch(client: &Client, id: &str, asked: Option<u32>) -> Result<Self, Failure> {
        let task: TaskDoc = client.get(&task_path(id)).await?.json()?;
        let refused = |message: String| Failure::new(Exit::Refused, message);
        let latest = task.attempt.0;
        if latest == 0 {
            return Err(refused(format!("task {id} was never tried")).hint("`wasmill get` says why"));
        }
        let attempt = asked.unwrap_or(latest);
        if attempt == 0 || attempt > latest {
            return Err(refused(format!("there is no attempt {attempt}: the task has had {latest}")));
        }
        let history: TaskEventsDoc = client.get(&task_path(id).segment("events")).await?.json()?;
        let Some(ended) = history.items.iter().find(|event| ends(event, attempt)) else {
            return Err(match history.left_out {
                0 => refused(format!("attempt {attempt} has not ended yet")).hint("wait for it with `wasmill wait`"),
                _ => refused(format!("how attempt {attempt} ended is no longer kept")),
            });
        };
        let kind = ended.outcome.unwrap_or_default();
        // A task that was cancelled after its last attempt shows that, and not how the attempt
        // ended.
        let whole = task.outcome.clone().filter(|outcome| attempt == latest && outcome.kind == kind);
        let record = if whole.is_some() { Record::Whole } else { Record::Brief };
        let brief = || OutcomeDoc { kind, message: ended.message.clone().unwrap_or_default(), ..OutcomeDoc::default() };
        let outcome = whole.unwrap_or_else(brief);
        let output = recorded_output(client, id, record).await?;
        Ok(Self { attempt, record, came: Came { outcome, fuel: ended.fuel, output }, task })
    }

    /// Whether every run of the task is the same.
    pub(super) fn is_deterministic(&self) -> bool {
        self.task.deterministic
    }

    /// Fetches what the attempt was given.
    pub(super) async fn given(&self, client: &Client) -> Result<Given, Failure> {
        let task = &self.task;
        let id = task.id.to_string();
        let module_path = Path::new("/v1/modules").segment(&task.module.to_string());
        let gone = |error: ClientError| match error.code() {
            Some("module_unknown") => Failure::from(error)
                .hint("the module was removed since: upload the same file again with `wasmill push`"),
            _ => error.into(),
        };
        let described: ModuleDoc = client.get(&module_path).await.map_err(gone)?.json()?;
        let module = client.get(&module_path.segment("content")).await.map_err(gone)?.body;
        if super::digest(&module) != task.module {
            return Err(Failure::new(Exit::Server, format!("the server's bytes are not those of {}", task.module)));
        }
        let input = client.get(&task_path(&id).segment("input")).await?.body;
        let checkpoint = self.checkpoint(client).await?;
        let status: StatusDoc = client.get(&Path::new("/v1/status")).await?.json()?;
        let spec = TaskSpec {
            deterministic: task.deterministic,
            seed: task.seed,
            program: task.program.clone(),
            ok_exit: task.ok_exit.clone().unwrap_or_default(),
            kind: described.kind,
            ..TaskSpec::default()
        };
        let work = GuestRun {
            // The nonce tells attempts of one leader from those of another; no guest sees it.
            id: AttemptId { task: task.id, attempt: Attempt(self.attempt), nonce: Nonce::default() },
            tenant: task.tenant.clone(),
            module: task.module,
            module_path: std::path::PathBuf::new(),
            kind: described.kind,
            input,
            program: spec.program().into(),
            args: Arc::from(task.args.as_slice()),
            env: Arc::new(task.env.clone()),
            ok_exit: spec.ok_exit().into(),
            limits: task.limits,
            captured_bytes_max: status.caps.captured_bytes,
            checkpoint_bytes_max: status.caps.checkpoint_bytes,
            attempts_max: task.attempts_max,
            seed: spec.seed_of(task.id),
            trace: None,
            checkpoint,
        };
        Ok(Given { work, module, caps: status.caps, version: status.version })
    }

    async fn checkpoint(&self, client: &Client) -> Result<Option<Bytes>, Failure> {
        let path = task_path(&self.task.id.to_string()).segment("checkpoint").query("attempt", self.attempt);
        match client.get(&path).await {
            Ok(answer) => Ok(Some(answer.body)),
            Err(error) if error.code() == Some("no_checkpoint") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The result of the latest attempt, if it has one.
async fn recorded_output(client: &Client, id: &str, record: Record) -> Result<Option<Bytes>, Failure> {
    if record == Record::Brief {
        return Ok(None);
    }
    match client.get(&task_path(id).segment("output")).await {
        Ok(answer) => Ok(Some(answer.body)),
        Err(error) if matches!(error.code(), Some("no_output" | "not_final")) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn ends(event: &TaskEventDoc, attempt: u32) -> bool {
    event.event == "attempt_ended" && event.attempt == Some(attempt)
}
