//! Running one compiling child, from the parent's side: starting, feeding, bounding, and telling
//! how it ended.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use wasmill_protocol::module::ModuleRejection;

use super::reject::{cut, rejection};
use super::request::{CompileLimits, Reply, ReplyResult, Request};

/// The longest answer that is read: a description lists a bounded number of bounded names.
const REPLY_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// The part of the child's stderr that is kept, to tell why it died and for our log.
const STDERR_BYTES_MAX: u64 = 16 * 1024;

/// The program that compiles: one that calls [`super::child_main`].
#[derive(Debug, Clone)]
pub struct CompileProgram {
    /// Its path.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl CompileProgram {
    /// The program that is running now, with these arguments.
    ///
    /// By the link that the kernel keeps to it, so that it is the same one even after its file was
    /// replaced.
    pub fn this_one(args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { path: PathBuf::from("/proc/self/exe"), args: args.into_iter().map(Into::into).collect() }
    }
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) result: Result<ReplyResult, Death>,
    /// CPU time in microseconds: what the child said, else an upper estimate.
    pub(crate) cpu_us: u64,
}

/// Why a child gave no answer.
#[derive(Debug)]
pub(crate) enum Death {
    /// The module did it. `lasting` says whether trying again could end in another way,
    /// `needs_more` whether with higher limits it could.
    Module { refused: ModuleRejection, lasting: bool, needs_more: bool },
    /// Something on our side did.
    Fault(CompileFault),
}

/// Compiling failed for a reason that is not the module's.
#[derive(Debug, Clone, Error)]
pub enum CompileFault {
    /// The program does not start.
    #[error("cannot start the compiling program `{path}`: {reason}")]
    Start {
        /// Which program.
        path: String,
        /// Why.
        reason: String,
    },
    /// The program ended without an answer.
    #[error("the compiling program ended with {status} and no answer: {stderr}")]
    Ended {
        /// How.
        status: String,
        /// The end of what it wrote.
        stderr: String,
    },
    /// The program says so.
    #[error("{0}")]
    Said(String),
    /// The cache cannot be written or read.
    #[error("cannot {action}: {reason}")]
    Cache {
        /// The action that was attempted.
        action: String,
        /// Why.
        reason: String,
    },
}

/// Runs a child to its end or its limit. Dropping the future kills the child.
pub(crate) async fn run(program: &CompileProgram, request: &Request) -> Ended {
    let began = Instant::now();
    let result = match start(program) {
        Ok(child) => converse(child, request).await,
        Err(error) => {
            let path = program.path.display().to_string();
            Err(Death::Fault(CompileFault::Start { path, reason: error.to_string() }))
        }
    };
    let elapsed_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    match result {
        Ok(reply) => Ended { result: Ok(reply.result), cpu_us: reply.cpu_us },
        // A child that was killed cannot say what it used; it was not more than this.
        Err(death) => Ended { result: Err(death), cpu_us: elapsed_us.min(request.limits.cpu_s * 1_000_000) },
    }
}

fn start(program: &CompileProgram) -> io::Result<Child> {
    Command::new(&program.path)
        .args(&program.args)
        .env_clear()
        // One heap for all threads: each further one would reserve address space, which is limited.
        .env("MALLOC_ARENA_MAX", "1")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

async fn converse(mut child: Child, request: &Request) -> Result<Reply, Death> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three were asked for as pipes");
    };
    let mut line = serde_json::to_vec(request).expect("a request has no keys that are not text");
    line.push(b'\n');
    let talk = async {
        // A child that does not read will not answer either, so this needs no look at its error.
        let (_, reply, stderr) =
            tokio::join!(stdin.write_all(&line), read_all(stdout, REPLY_BYTES_MAX), read_all(stderr, STDERR_BYTES_MAX));
        (child.wait().await, reply, stderr)
    };
    let outcome = tokio::time::timeout(Duration::from_millis(request.limits.wall_ms), talk).await;
    // Open until here: the child takes its end for ours.
    drop(stdin);
    let Ok((status, reply, stderr)) = outcome else {
        // It may have ended at this very moment, then there is nothing to kill.
        let _ = child.kill().await;
        return Err(Death::Module {
            refused: rejection(format!("compiling took longer than {} ms", request.limits.wall_ms)),
            lasting: false,
            needs_more: false,
        });
    };
    let stderr = cut(String::from_utf8_lossy(&stderr).trim(), 2_000);
    if !stderr.is_empty() {
        tracing::debug!(module = %request.digest, %stderr, "the compiling child wrote to stderr");
    }
    match status {
        Ok(status) if status.success() => serde_json::from_slice(&reply).map_err(|_| ended(status, &stderr)),
        Ok(status) => Err(why(status, &stderr, &request.limits)),
        Err(error) => Err(Death::Fault(CompileFault::Ended { status: error.to_string(), stderr })),
    }
}

async fn read_all(from: impl AsyncRead + Unpin, bytes_max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // The bytes before an error are still worth having, and the exit status tells the rest.
    let _ = from.take(bytes_max).read_to_end(&mut bytes).await;
    bytes
}

/// Tells from the way a child died which limit it was.
fn why(status: ExitStatus, stderr: &str, limits: &CompileLimits) -> Death {
    const PANIC_CODE: i32 = 101;
    let lasting = |message: String| Death::Module { refused: rejection(message), lasting: true, needs_more: false };
    let over_limit = |message: String| Death::Module { refused: rejection(message), lasting: true, needs_more: true };
    match (status.signal(), status.code()) {
        (Some(libc::SIGXCPU), _) => over_limit(format!("compiling needs more than {} s of CPU time", limits.cpu_s)),
        (Some(libc::SIGXFSZ), _) => {
            lasting(format!("the compiled code is larger than {} MiB", limits.artifact_bytes >> 20))
        }
        (Some(libc::SIGABRT), _) if stderr.contains("memory allocation of") => over_limit(out_of_memory(limits)),
        (Some(libc::SIGKILL), _) => Death::Module {
            refused: rejection("the compiler was killed from outside: most likely the machine ran out of memory"),
            lasting: false,
            needs_more: false,
        },
        (Some(signal), _) => lasting(format!("the compiler crashed on this module (signal {signal})")),
        (None, Some(PANIC_CODE)) => lasting("the compiler panicked on this module".to_owned()),
        (None, _) => ended(status, stderr),
    }
}

fn ended(status: ExitStatus, stderr: &str) -> Death {
    Death::Fault(CompileFault::Ended { status: status.to_string(), stderr: stderr.to_owned() })
}

/// The refusal of a module for which the compiler's memory does not suffice.
pub(crate) fn out_of_memory(limits: &CompileLimits) -> String {
    format!("compiling needs more than {} MiB of memory", limits.memory_bytes >> 20)
}
