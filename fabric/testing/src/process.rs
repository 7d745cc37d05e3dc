//! One server process.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// No server takes this long to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a server that starts.
const POLL: Duration = Duration::from_millis(10);

/// A process that ends with the test program, whatever happens to that.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A process that is not started yet. What it prints is appended to `log`.
    pub(crate) fn new(program: PathBuf, arguments: Vec<OsString>, log: PathBuf) -> Self {
        Self { program, arguments, log, child: None }
    }

    /// Starts it, which does not wait until it is ready.
    ///
    /// # Panics
    ///
    /// It runs already, or cannot be started.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.program.display());
        let open = || OpenOptions::new().create(true).append(true).open(&self.log);
        let (out, err) = (open().expect("a log file can be opened"), open().expect("a log file can be opened"));
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(out).stderr(err);
        let child = spawn(command).unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display()));
        self.child = Some(child);
    }

    /// Waits until `ready` says so.
    ///
    /// # Panics
    ///
    /// The process has ended, or is not ready in a minute. The end of what it printed is shown.
    pub(crate) fn wait_until(&mut self, what: &str, ready: impl Fn() -> bool) {
        let begun = Instant::now();
        while !ready() {
            let child = self.child.as_mut().expect("only a started process gets ready");
            let ended = child.try_wait().expect("a child can be waited for");
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "{} is not {what} ({ended:?}):\n{}",
                self.program.display(),
                self.said()
            );
            thread::sleep(POLL);
        }
    }

    /// Its id.
    ///
    /// # Panics
    ///
    /// It is not running.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }

    /// `kill -9`, and waits until it is gone. One that is not running is fine.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    ///
    /// It does not end in a minute.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal(&child, libc::SIGTERM);
        let begun = Instant::now();
        while child.try_wait().expect("a child can be waited for").is_none() {
            assert!(begun.elapsed() < PATIENCE, "{} does not stop", self.program.display());
            thread::sleep(POLL);
        }
    }

    /// SIGSTOP: it stays as it is and does nothing.
    pub fn pause(&self) {
        signal(self.child.as_ref().expect("it is running"), libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal(self.child.as_ref().expect("it is running"), libc::SIGCONT);
    }

    /// The end of what it printed.
    pub fn said(&self) -> String {
        const LINES: usize = 40;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[allow(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
fn signal(child: &Child, signal: libc::c_int) {
    let id = child.id().cast_signed();
    // SAFETY: no memory is involved; the child was not waited for, so the id is still its own.
    let sent = unsafe { libc::kill(id, signal) };
    assert_eq!(sent, 0, "cannot send signal {signal} to process {id}: {}", io::Error::last_os_error());
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread that starts every process. The kernel tells a child of the death of the *thread* that started it, and the thread of a test ends
/// long before the program.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (sender, orders) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, answer) in orders {
            // Who asked is still waiting.
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(sender)
});

fn spawn(mut command: Command) -> io::Result<Child> {
    #[allow(unsafe_code, reason = "the standard library cannot ask for a signal at the parent's death")]
    // SAFETY: between fork and exec only `prctl` is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let (answer, answered) = mpsc::channel();
    SPAWNER.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).expect("the spawner never ends");
    answered.recv().expect("the spawner answers")
}
