//! The compiling child: a process of its own that reads one request from stdin, does it under
//! limits, and answers on stdout.
//!
//! Compiling is the most expensive thing that a stranger can ask for, and nothing is promised about
//! the compiler's time, memory or freedom from panics. A failure here costs this process only.

use std::any::Any;
use std::borrow::Cow;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use sha2::{Digest as _, Sha256};
use wasmill_protocol::Digest;
use wasmill_protocol::module::ModuleRejection;
use wasmtime::Engine;

use super::artifact::Artifact;
use super::check::{check, check_size};
use super::confine::{confine, cpu_us};
use super::key::artifact_key;
use super::pieces::cut_long_instructions;
use super::reject::{cut, rejection};
use super::request::{ArtifactStamp, Reply, ReplyResult, Request};
use super::sniff::{Form, sniff};
use crate::engine::{self, Instances, Profile};
use crate::error_chain::chain;
use crate::sandbox::Linkers;

/// The longest request that is read.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// The thread that waits for the parent to go away needs next to no stack.
const WATCHER_STACK_BYTES: usize = 64 * 1024;

/// The hidden command `wasmill compile`: all of it. Reads one request, answers it, ends
/// the process.
///
/// Ends with code 0 when it could answer, whatever the answer, and with 2 when there was no request
/// that it understands. It also ends when its stdin is closed: then nobody waits for the answer.
pub fn child_main() -> ExitCode {
    let request = match read_request() {
        Ok(request) => request,
        Err(error) => {
            // An operator who has started it by hand reads this; nobody else does.
            let _ = writeln!(std::io::stderr(), "no request to compile: {error}");
            return ExitCode::from(2);
        }
    };
    let reply = Reply { result: answer(&request), cpu_us: cpu_us() };
    let mut line = serde_json::to_vec(&reply).expect("a reply has no keys that are not text");
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(&line).and_then(|()| stdout.flush());
    // Ends the process without taking apart what was built: the operating system is faster at that.
    std::process::exit(if written.is_ok() { 0 } else { 2 });
}

fn read_request() -> io::Result<Request> {
    let mut line = Vec::new();
    io::stdin().lock().take(REQUEST_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

fn answer(request: &Request) -> ReplyResult {
    if let Err(error) = confine(&request.limits).and_then(|()| end_with_parent()) {
        return ReplyResult::Failed(format!("cannot limit the compiling process: {error}"));
    }
    // Nothing that was unwound through is used again.
    match catch_unwind(AssertUnwindSafe(|| work(request))) {
        Ok(Ok(done)) => done,
        Ok(Err(Failure::Rejected(refused))) => ReplyResult::Rejected(refused),
        Ok(Err(Failure::Fault(text))) => ReplyResult::Failed(text),
        Err(panic) => ReplyResult::Rejected(rejection(format!(
            "the compiler failed on this module, which is a fault of the compiler: {}",
            panic_text(&*panic)
        ))),
    }
}

/// Why there is no artifact.
enum Failure {
    Rejected(ModuleRejection),
    Fault(String),
}

impl From<ModuleRejection> for Failure {
    fn from(refused: ModuleRejection) -> Self {
        Self::Rejected(refused)
    }
}

fn fault(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Fault(format!("cannot {what} `{}`: {error}", path.display()))
}

fn work(request: &Request) -> Result<ReplyResult, Failure> {
    let bytes = read_module(request)?;
    let info = check(&bytes, request.digest, &request.caps)?;
    let profile: Profile = request.profile.parse().map_err(|error| Failure::Fault(format!("{error}")))?;
    let engine = engine::build(profile, Instances::OnDemand).map_err(|error| Failure::Fault(chain(&error)))?;
    let key = artifact_key(&engine);
    if key != request.key {
        let text =
            format!("the compiling program makes artifacts `{key}` and not `{}`: it is another version", request.key);
        return Err(Failure::Fault(text));
    }
    let form = sniff(&bytes)?;
    let cut = match cut_long_instructions(&bytes, profile.cutting())? {
        Cow::Owned(cut) => Some(cut),
        Cow::Borrowed(_) => None,
    };
    // Only one of them is needed while code is generated, which takes memory enough.
    let module = cut.unwrap_or(bytes);
    let code = precompile(&engine, form, &module)?;
    drop(module);
    let artifact = write_artifact(&request.artifact, &code)?;
    drop(code);
    link(&engine, form, &request.artifact)?;
    Ok(ReplyResult::Compiled { info, form, artifact })
}

fn read_module(request: &Request) -> Result<Vec<u8>, Failure> {
    let path = &request.module;
    let stat = fs::metadata(path).map_err(|error| fault("find the module", path, &error))?;
    check_size(stat.len(), &request.caps)?;
    let bytes = fs::read(path).map_err(|error| fault("read the module", path, &error))?;
    if Digest(Sha256::digest(&bytes).into()) != request.digest {
        return Err(Failure::Fault(format!(
            "the bytes of module {} are not those that it was stored with",
            request.digest
        )));
    }
    Ok(bytes)
}

fn precompile(engine: &Engine, form: Form, bytes: &[u8]) -> Result<Vec<u8>, ModuleRejection> {
    let compiled = match form {
        Form::CoreModule => engine.precompile_module(bytes),
        Form::Component => engine.precompile_component(bytes),
    };
    compiled.map_err(|error| rejection(format!("the module cannot be compiled: {}", one_line(&error))))
}

/// Writes the artifact and says what makes it whole.
///
/// It is not flushed to the disk: an artifact can always be made again, and one that a power cut
/// damaged is recognised by its stamp. The parent moves it to its place once it also links.
fn write_artifact(path: &Path, code: &[u8]) -> Result<ArtifactStamp, Failure> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| fault("create the artifact", path, &error))?;
    file.write_all(code).map_err(|error| fault("write the artifact", path, &error))?;
    Ok(ArtifactStamp { bytes: code.len() as u64, sha256: Digest(Sha256::digest(code).into()) })
}

/// Links the artifact as the sandbox will, so that this never fails for the first time when a task
/// runs.
fn link(engine: &Engine, form: Form, path: &Path) -> Result<(), Failure> {
    let fault = |error: wasmtime::Error| Failure::Fault(one_line(&error));
    let artifact = Artifact::load(engine, form, path).map_err(fault)?;
    let linkers = Linkers::new(engine).map_err(fault)?;
    artifact.link(&linkers).map_err(|error| rejection(format!("the module cannot be linked: {error}")))?;
    Ok(())
}

fn one_line(error: &wasmtime::Error) -> String {
    cut(&error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": "), 2_000)
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    cut(text.unwrap_or("it did not say why"), 500)
}

/// Ends this process when its stdin is closed: the parent is gone, or does not want the answer any
/// more.
fn end_with_parent() -> io::Result<()> {
    std::thread::Builder::new().name("parent-watch".to_owned()).stack_size(WATCHER_STACK_BYTES).spawn(|| {
        let mut byte = [0];
        // The parent writes nothing after the request, so whatever ends the reading is the end.
        while matches!(io::stdin().lock().read(&mut byte), Ok(1)) {}
        std::process::exit(2);
    })?;
    Ok(())
}
