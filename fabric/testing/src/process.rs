//! A server as a child process.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No server takes longer to become ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);
/// How much of a server's log is shown when it has failed.
const LOG_SHOWN_BYTES: usize = 4_000;
/// Directories of servers begin with this and the id of the process that made them.
const DIR_PREFIX: &str = "wasmill-servers-";

/// Waits until `condition` holds, and panics after half a minute.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < READY_MAX, "{what}: still not after {READY_MAX:?}");
        thread::sleep(LOOK);
    }
}

/// A program with its arguments and a directory of its own, running or not.
pub struct ServerProcess {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: TempDir,
    child: Option<Child>,
}

impl ServerProcess {
    /// Makes the directory; nothing runs yet.
    pub fn new(program: PathBuf) -> Self {
        Self { program, args: Vec::new(), env: Vec::new(), dir: directory(), child: None }
    }

    /// Where its files are; also its working directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Sets the arguments for the next start.
    pub fn set_args(&mut self, args: Vec<String>) {
        self.args = args;
    }

    /// Sets what the environment of the next start has beside that of this process.
    pub fn set_env(&mut self, env: Vec<(String, String)>) {
        self.env = env;
    }

    /// Starts it and waits until `ready`, in the same directory as before.
    pub fn start(&mut self, mut ready: impl FnMut() -> bool) {
        assert!(self.child.is_none(), "`{}` runs already", self.program.display());
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the directory is ours");
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().cloned()).current_dir(self.dir()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be used twice")).stderr(log);
        let child = spawn(command);
        self.child = Some(child.unwrap_or_else(|error| panic!("cannot start `{}`: {error}", self.program.display())));
        let begun = Instant::now();
        while !ready() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("it is our child"));
            assert!(ended.is_none(), "`{}` has ended: {ended:?}\n{}", self.program.display(), self.log());
            assert!(begun.elapsed() < READY_MAX, "`{}` is not ready:\n{}", self.program.display(), self.log());
            thread::sleep(LOOK);
        }
    }

    /// Ends it at once, as a crash does, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A child that has ended by itself cannot be killed, which is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it in mid-air; it keeps its connections and answers nothing.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) {
        self.signal("TERM");
        if let Some(mut child) = self.child.take() {
            child.wait().expect("it is our child");
        }
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The end of what it has printed.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_SHOWN_BYTES)..]).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.dir().join("log.txt")
    }

    fn signal(&self, name: &str) {
        let id = self.id().expect("only a running server can be sent a signal");
        let status = Command::new("kill").args([format!("-{name}"), id.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send SIG{name} to process {id}");
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The body of what `GET path` answers with 200 on a port of the loopback.
pub(crate) fn http_get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).is_some_and(|status| status == "200").then(|| body.to_owned())
}

/// Starts a child that the kernel kills when this process ends.
///
/// The kernel watches the *thread* that started the child, so that is one that never ends.
///
/// # Errors
///
/// It cannot be started.
pub fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (command, answer) in orders {
                let _ = answer.send(tied_to_this_thread(command).spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, answered) = mpsc::channel();
    starter.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).expect("the thread never ends");
    answered.recv().expect("the thread answers every order")
}

#[allow(unsafe_code, reason = "there is no other way to make a system call between fork and exec")]
fn tied_to_this_thread(mut command: Command) -> Command {
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and prctl is a
    // plain system call.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command
}

/// A new directory. Directories of processes that are gone are removed first: statics are
/// never dropped.
fn directory() -> TempDir {
    static SWEPT: OnceLock<()> = OnceLock::new();
    SWEPT.get_or_init(|| {
        for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(DIR_PREFIX)?.split('-').next()?.parse().ok());
            if owner.is_some_and(|owner: u32| !Path::new(&format!("/proc/{owner}")).exists()) {
                // Another process may be at it too.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    });
    let prefix = format!("{DIR_PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().expect("a directory for temporary files")
}
