//! A sandbox for tests: modules are compiled in this process, and every message that comes out is
//! kept until it is asked for.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use wasmill_host::channel::{Ended, FromSandbox, GuestRun, StopReason, ToSandbox};
use wasmill_host::compile::cut_long_instructions;
use wasmill_host::engine::{Engines, Instances, Profile};
use wasmill_host::sandbox::{Artifacts, Linkers, LoadError, LoadedModule, Sandbox, SandboxConfig};
use wasmill_protocol::limits::{INLINE_BYTES_MAX, KIB, MIB};
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::{Attempt, AttemptId, Digest, Limits, Nonce, OutcomeKind, TenantName};
use wasmtime::Module;
use wasmtime::component::Component;

/// Longer than any test should take: a wait that takes this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Guests that the test sandbox runs at the same time.
pub(crate) const GUESTS_MAX: u32 = 8;

/// Compiles in this process and keeps everything.
pub(crate) struct InProcess {
    engines: Arc<Engines>,
    modules: Mutex<BTreeMap<Digest, Vec<u8>>>,
    loaded: Mutex<BTreeMap<(Digest, Profile), Arc<LoadedModule>>>,
}

impl InProcess {
    fn new(engines: Arc<Engines>) -> Self {
        Self { engines, modules: Mutex::default(), loaded: Mutex::default() }
    }

    fn add(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest(Sha256::digest(&bytes).into());
        self.modules.lock().unwrap().insert(digest, bytes);
        digest
    }

    fn compile(&self, digest: Digest, profile: Profile) -> Result<Arc<LoadedModule>, LoadError> {
        let bytes = self.modules.lock().unwrap().get(&digest).cloned();
        let bytes: Vec<u8> = bytes.ok_or_else(|| LoadError::Fault(format!("no module {digest}")))?;
        let linkers = Linkers::new(self.engines.get(profile).unwrap()).unwrap();
        let invalid = |error: wasmtime::Error| LoadError::Invalid(format!("{error:#}"));
        let bytes = cut_long_instructions(&bytes, profile.cutting());
        let bytes = bytes.map_err(|refused| LoadError::Invalid(refused.message))?;
        let loaded = if wasmparser::Parser::is_component(&bytes) {
            linkers.link_component(&Component::from_binary(linkers.engine(), &bytes).map_err(invalid)?)?
        } else {
            linkers.link_module(&Module::from_binary(linkers.engine(), &bytes).map_err(invalid)?)?
        };
        Ok(Arc::new(loaded))
    }

    /// Puts a module there that was made some other way.
    pub(crate) fn insert(&self, digest: Digest, profile: Profile, loaded: LoadedModule) {
        self.loaded.lock().unwrap().insert((digest, profile), Arc::new(loaded));
    }
}

impl Artifacts for InProcess {
    fn cached(&self, module: Digest, profile: Profile) -> Option<Arc<LoadedModule>> {
        self.loaded.lock().unwrap().get(&(module, profile)).cloned()
    }

    fn load<'a>(
        &'a self,
        module: Digest,
        _module_path: &'a Path,
        profile: Profile,
    ) -> BoxFuture<'a, Result<Arc<LoadedModule>, LoadError>> {
        async move {
            let loaded = self.compile(module, profile)?;
            self.loaded.lock().unwrap().insert((module, profile), Arc::clone(&loaded));
            Ok(loaded)
        }
        .boxed()
    }
}

/// A running sandbox.
pub(crate) struct TestSandbox {
    pub(crate) artifacts: Arc<InProcess>,
    pub(crate) engines: Arc<Engines>,
    to: mpsc::Sender<ToSandbox>,
    from: mpsc::Receiver<FromSandbox>,
    /// Came out before it was asked for.
    early: VecDeque<FromSandbox>,
    nonce: u64,
    /// Whether a large checkpoint is said to be taken as soon as it is heard of.
    pub(crate) takes_checkpoints: bool,
}

impl TestSandbox {
    pub(crate) fn start() -> Self {
        let engines = Arc::new(Engines::new(Instances::Pooled { guests_max: GUESTS_MAX }));
        let artifacts = Arc::new(InProcess::new(Arc::clone(&engines)));
        let (to, from) = Sandbox::start(config(&engines), Arc::clone(&artifacts) as Arc<dyn Artifacts>).unwrap();
        Self { artifacts, engines, to, from, early: VecDeque::new(), nonce: 0, takes_checkpoints: true }
    }

    /// Work for a module in the text format, with limits that fit a test.
    pub(crate) fn work(&mut self, wat: &str) -> GuestRun {
        self.nonce += 1;
        let bytes = wat::parse_str(wat).unwrap();
        GuestRun {
            id: AttemptId { attempt: Attempt(1), nonce: Nonce(self.nonce), ..AttemptId::default() },
            tenant: TenantName::default(),
            module: self.artifacts.add(bytes),
            module_path: PathBuf::new(),
            // The sandbox goes by what the module exports.
            kind: ModuleKind::default(),
            input: Bytes::new(),
            program: "module".into(),
            args: Arc::new([]),
            env: Arc::default(),
            ok_exit: Arc::new([0]),
            limits: Limits {
                cpu_ms: 5_000,
                wall_ms: 30_000,
                memory_bytes: 16 * MIB,
                output_bytes: MIB,
                ..Limits::default()
            },
            captured_bytes_max: 4 * KIB,
            checkpoint_bytes_max: 4 * KIB,
            attempts_max: 3,
            seed: None,
            checkpoint: None,
            trace: None,
        }
    }

    /// The same work under a new id.
    pub(crate) fn again(&mut self, work: &GuestRun) -> GuestRun {
        self.nonce += 1;
        let mut work = work.clone();
        work.id.nonce = Nonce(self.nonce);
        work
    }

    pub(crate) async fn start_work(&self, work: GuestRun) {
        self.to.send(ToSandbox::Start(Box::new(work))).await.unwrap();
    }

    pub(crate) async fn stop(&self, id: AttemptId) {
        self.to.send(ToSandbox::Stop(id, StopReason::Asked)).await.unwrap();
    }

    pub(crate) async fn take_checkpoint(&self, id: AttemptId) {
        self.to.send(ToSandbox::CheckpointTaken(id)).await.unwrap();
    }

    /// The next message that `wanted` takes; the others are kept in order.
    pub(crate) async fn wait<T>(&mut self, mut wanted: impl FnMut(FromSandbox) -> Result<T, FromSandbox>) -> T {
        for _ in 0..self.early.len() {
            match wanted(self.early.pop_front().unwrap()) {
                Ok(found) => return found,
                Err(other) => self.early.push_back(other),
            }
        }
        loop {
            let message = self.receive().await;
            if matches!(message, FromSandbox::Load { .. }) {
                continue;
            }
            match wanted(message) {
                Ok(found) => return found,
                Err(other) => self.early.push_back(other),
            }
        }
    }

    async fn receive(&mut self) -> FromSandbox {
        let message = tokio::time::timeout(PATIENCE, self.from.recv()).await.expect("the message never came");
        let message = message.expect("the sandbox is gone");
        // As the agent does when it is stored.
        if let FromSandbox::Checkpoint { id, data, .. } = &message
            && data.len() as u64 > INLINE_BYTES_MAX
            && self.takes_checkpoints
        {
            self.to.send(ToSandbox::CheckpointTaken(*id)).await.unwrap();
        }
        message
    }

    /// The CPU time of the next message about the load. Other messages until then are kept.
    pub(crate) async fn load_cpu_us(&mut self) -> u64 {
        loop {
            match self.receive().await {
                FromSandbox::Load { cpu_us, .. } => return cpu_us,
                other => self.early.push_back(other),
            }
        }
    }

    pub(crate) async fn ended(&mut self, id: AttemptId) -> Ended {
        self.wait(|message| match message {
            FromSandbox::Ended(ended) if ended.id == id => Ok(*ended),
            other => Err(other),
        })
        .await
    }

    pub(crate) async fn run(&mut self, work: GuestRun) -> Ended {
        let id = work.id;
        self.start_work(work).await;
        self.ended(id).await
    }

    /// Closes the sandbox and gives everything that still came out, but for its load.
    pub(crate) async fn close(mut self) -> Vec<FromSandbox> {
        drop(self.to);
        let mut rest = Vec::from(self.early);
        while let Some(message) =
            tokio::time::timeout(PATIENCE, self.from.recv()).await.expect("the sandbox did not close")
        {
            rest.push(message);
        }
        rest.retain(|message| !matches!(message, FromSandbox::Load { .. }));
        rest
    }
}

pub(crate) fn config(engines: &Arc<Engines>) -> SandboxConfig {
    SandboxConfig { engines: Arc::clone(engines), threads: 2, guests_max: GUESTS_MAX as usize }
}

/// Asserts the kind of an end, showing all of it when it is another.
#[track_caller]
pub(crate) fn assert_kind(ended: &Ended, kind: OutcomeKind) {
    assert_eq!(ended.outcome.kind, kind, "{ended:?}");
}

/// A WASI 0.1 command: `body` is what `_start` does, `items` is what else the module has. The first
/// page of memory is free, and there are the functions `$write` (descriptor, address, length) and
/// `$exit`.
pub(crate) fn command(items: &str, body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            ;; Writes everything, through an iovec at 65520.
            (func $write (param $fd i32) (param $address i32) (param $length i32)
                (loop $again
                    (i32.store (i32.const 65520) (local.get $address))
                    (i32.store (i32.const 65524) (local.get $length))
                    (drop (call $fd_write (local.get $fd) (i32.const 65520) (i32.const 1) (i32.const 65528)))
                    (local.set $address (i32.add (local.get $address) (i32.load (i32.const 65528))))
                    (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 65528))))
                    (br_if $again (local.get $length))))
            ;; Sleeps through one relative subscription to a clock at 65400.
            (func $sleep (param $nanoseconds i64)
                (i64.store (i32.const 65400) (i64.const 7))
                (i32.store8 (i32.const 65408) (i32.const 0))
                (i32.store (i32.const 65416) (i32.const 1))
                (i64.store (i32.const 65424) (local.get $nanoseconds))
                (i32.store16 (i32.const 65440) (i32.const 0))
                (if (call $poll_oneoff (i32.const 65400) (i32.const 65456) (i32.const 1) (i32.const 65500))
                    (then unreachable)))
            {items}
            (func $main (export "_start") {body}))"#
    )
}

/// A task component: `body` is what `run` does with `$input` and `$length`, and it ends in the
/// address of the result, for which `$ok`, `$reject` and `$retry` (address, length) are there.
/// `imports` is inside the import of the host's interface, `lowered` are pairs of a core import and
/// the name of the function there.
pub(crate) fn task(imports: &[HostImport], items: &str, body: &str) -> String {
    let (mut outer, mut core, mut lower, mut with) = (String::new(), String::new(), String::new(), String::new());
    for HostImport { name, component, core: signature } in imports {
        outer += &format!(r#"(export "{name}" (func {component}))"#);
        core += &format!(r#"(import "host" "{name}" (func ${name} {signature}))"#);
        lower += &format!(
            r#"(core func ${name} (canon lower (func $host "{name}") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))"#
        );
        with += &format!(r#"(export "{name}" (func ${name}))"#);
    }
    let host = if imports.is_empty() {
        String::new()
    } else {
        format!(
            r#"(import "wasmill:task/host@0.1.0" (instance $host
                (type $level-type (enum "error" "warn" "info" "debug"))
                (export "level" (type $level (eq $level-type)))
                (type $info-type (record (field "task-id" string) (field "attempt" u32) (field "attempts-max" u32)
                    (field "deterministic" bool)))
                (export "attempt-info" (type $info (eq $info-type)))
                {outer}))"#
        )
    };
    format!(
        r#"(component
            (type $failure-type (variant (case "reject" string) (case "retry" string)))
            (import "failure" (type $failure (eq $failure-type)))
            {host}
            (core module $libc-module
                (memory (export "memory") 1)
                (global $next (mut i32) (i32.const 1024))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (local $start i32)
                    (local.set $start (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                    (global.set $next (i32.add (local.get $start) (local.get 3)))
                    (loop $more
                        (if (i32.gt_u (global.get $next) (i32.shl (memory.size) (i32.const 16)))
                            (then
                                (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
                                (br $more))))
                    (local.get $start)))
            (core instance $libc (instantiate $libc-module))
            {lower}
            (core module $main-module
                {core}
                (import "libc" "memory" (memory 1))
                (func $result (param $kind i32) (param $address i32) (param $length i32) (result i32)
                    (i32.store8 (i32.const 0) (i32.ne (local.get $kind) (i32.const -1)))
                    (if (i32.eq (local.get $kind) (i32.const -1))
                        (then
                            (i32.store (i32.const 4) (local.get $address))
                            (i32.store (i32.const 8) (local.get $length)))
                        (else
                            (i32.store8 (i32.const 4) (local.get $kind))
                            (i32.store (i32.const 8) (local.get $address))
                            (i32.store (i32.const 12) (local.get $length))))
                    (i32.const 0))
                (func $ok (param i32 i32) (result i32) (call $result (i32.const -1) (local.get 0) (local.get 1)))
                (func $reject (param i32 i32) (result i32) (call $result (i32.const 0) (local.get 0) (local.get 1)))
                (func $retry (param i32 i32) (result i32) (call $result (i32.const 1) (local.get 0) (local.get 1)))
                {items}
                (func $run (export "run") (param $input i32) (param $length i32) (result i32) {body}))
            (core instance $main (instantiate $main-module
                (with "libc" (instance $libc))
                (with "host" (instance {with}))))
            (func $run (param "input" (list u8)) (result (result (list u8) (error $failure)))
                (canon lift (core func $main "run") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
            (export "run" (func $run)))"#
    )
}

/// A function of the host's interface that a task imports.
pub(crate) struct HostImport {
    pub(crate) name: &'static str,
    /// Its type in a component.
    pub(crate) component: &'static str,
    /// Its type as core code calls it.
    pub(crate) core: &'static str,
}

/// All functions of the host's interface.
pub(crate) const HOST_IMPORTS: &[HostImport] = &[
    HostImport { name: "info", component: "(result $info)", core: "(param i32)" },
    HostImport { name: "remaining-ms", component: "(result f64)", core: "(result f64)" },
    HostImport { name: "remaining-cpu-ms", component: "(result f64)", core: "(result f64)" },
    HostImport { name: "remaining-fuel", component: "(result (option f64))", core: "(param i32)" },
    HostImport {
        name: "progress",
        component: r#"(param "done" f64) (param "total" f64) (param "message" string)"#,
        core: "(param f64 f64 i32 i32)",
    },
    HostImport {
        name: "log",
        component: r#"(param "level" $level) (param "message" string)"#,
        core: "(param i32 i32 i32)",
    },
    HostImport {
        name: "checkpoint-save",
        component: r#"(param "state" (list u8)) (result (result (error string)))"#,
        core: "(param i32 i32 i32)",
    },
    HostImport { name: "checkpoint-load", component: "(result (option (list u8)))", core: "(param i32)" },
];
