//! From an assignment to the work that the sandbox gets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use wasmill_fabric::Blobs;
use wasmill_protocol::limits::Caps;
use wasmill_protocol::message::Assignment;
use wasmill_protocol::{AttemptId, Digest, Payload, TaskSpec};

use super::modules::ModuleFiles;
use super::readiness::{Made, Readiness, Wanted};
use super::{FETCHES_MAX, FETCHES_PER_TENANT_MAX};
use crate::channel::GuestRun;
use crate::compile::Payer;
use crate::engine::Profile;
use crate::error_chain::chain;
use crate::sandbox::LoadError;
use crate::slots::{SlotLimits, Slots};

/// Makes work of assignments.
#[derive(Clone)]
pub(super) struct Preparation(Arc<Inner>);

struct Inner {
    blobs: Arc<dyn Blobs>,
    modules: ModuleFiles,
    fetches: Arc<Slots>,
    captured_bytes_max: u64,
    checkpoint_bytes_max: u64,
    // Most tasks have none; they share one of each.
    program_default: Arc<str>,
    ok_exit_default: Arc<[u8]>,
    args_none: Arc<[String]>,
    env_none: Arc<BTreeMap<String, String>>,
}

impl Preparation {
    pub(super) fn new(blobs: Arc<dyn Blobs>, modules: ModuleFiles, caps: &Caps) -> Self {
        Self(Arc::new(Inner {
            blobs,
            modules,
            fetches: Slots::new(SlotLimits::endless_lines(FETCHES_MAX, FETCHES_PER_TENANT_MAX)),
            captured_bytes_max: caps.captured_bytes,
            checkpoint_bytes_max: caps.checkpoint_bytes,
            program_default: TaskSpec::PROGRAM_DEFAULT.into(),
            ok_exit_default: TaskSpec::OK_EXIT_DEFAULT.into(),
            args_none: Arc::default(),
            env_none: Arc::default(),
        }))
    }

    /// The work, when everything is at hand: the way that most attempts take. Else it is to be
    /// [fetched](Self::fetch).
    pub(super) fn at_once(&self, assignment: &Assignment) -> Option<Box<GuestRun>> {
        let (input, checkpoint) = (inline(&assignment.spec.input)?, inline(&assignment.checkpoint)?);
        let module_path = self.0.modules.path(assignment.spec.module)?;
        let checkpoint = (assignment.checkpoint != Payload::Empty).then_some(checkpoint);
        Some(self.work(assignment.id, &assignment.spec, module_path, input, checkpoint))
    }

    /// The work, after what is missing was fetched; a few at a time. The error is for people.
    pub(super) async fn fetch(self, assignment: Assignment) -> Result<Box<GuestRun>, String> {
        let _permit = self.0.fetches.turn(&assignment.spec.tenant).await;
        let Assignment { id, spec, checkpoint, .. } = assignment;
        let module_path = self.0.modules.fetch(spec.module).await.map_err(|error| chain(&error))?;
        let input = self.read("payload", &spec.input).await?;
        let checkpoint = match &checkpoint {
            Payload::Empty => None,
            payload => Some(self.read("checkpoint", payload).await?),
        };
        Ok(self.work(id, &spec, module_path, input, checkpoint))
    }

    /// Compiles or loads a module, after it was fetched if need be.
    pub(super) async fn make_ready(
        self,
        readiness: Arc<dyn Readiness>,
        module: Digest,
        profile: Profile,
        payer: Payer,
    ) -> Made {
        let fetched = {
            let _permit = self.0.fetches.turn(&payer.tenant).await;
            self.0.modules.fetch(module).await
        };
        match fetched {
            Ok(path) => readiness.make_ready(Wanted { module, profile, path, payer }).await,
            Err(error) => Made { compile_us: 0, result: Err(LoadError::Fault(chain(&error))) },
        }
    }

    async fn read(&self, what: &str, payload: &Payload) -> Result<Bytes, String> {
        match payload {
            Payload::Empty => Ok(Bytes::new()),
            Payload::Inline(bytes) => Ok(bytes.clone()),
            Payload::Blob { digest, bytes } => {
                let read = self.0.blobs.read(*digest, *bytes).await;
                read.map_err(|error| format!("cannot fetch the {what}: {}", chain(&error)))
            }
        }
    }

    fn work(
        &self,
        id: AttemptId,
        spec: &TaskSpec,
        module_path: PathBuf,
        input: Bytes,
        checkpoint: Option<Bytes>,
    ) -> Box<GuestRun> {
        let inner = &self.0;
        let args = if spec.args.is_empty() { Arc::clone(&inner.args_none) } else { Arc::from(spec.args.as_slice()) };
        let program = spec.program.as_deref().map_or_else(|| Arc::clone(&inner.program_default), Arc::from);
        let ok_exit = if spec.ok_exit.is_empty() { Arc::clone(&inner.ok_exit_default) } else { spec.ok_exit().into() };
        let env = if spec.env.is_empty() { Arc::clone(&inner.env_none) } else { Arc::new(spec.env.clone()) };
        Box::new(GuestRun {
            id,
            tenant: spec.tenant.clone(),
            module: spec.module,
            module_path,
            kind: spec.kind,
            input,
            program,
            args,
            env,
            ok_exit,
            limits: spec.limits,
            captured_bytes_max: inner.captured_bytes_max,
            checkpoint_bytes_max: inner.checkpoint_bytes_max,
            attempts_max: spec.retry.attempts_max,
            seed: spec.seed_of(id.task),
            checkpoint,
            trace: spec.trace,
        })
    }
}

fn inline(payload: &Payload) -> Option<Bytes> {
    match payload {
        Payload::Empty => Some(Bytes::new()),
        Payload::Inline(bytes) => Some(bytes.clone()),
        Payload::Blob { .. } => None,
    }
}
