//! Readers of stdout and stderr that have gone away: no command panics, and what it was asked for
//! is done.

use std::process::{Command, Stdio};

use wasmill_e2e::{Server, guest};

/// A pipe that nobody reads any more.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("there are pipes");
    drop(reader);
    writer.into()
}

fn code(mut command: Command, stdout: Stdio, stderr: Stdio) -> Option<i32> {
    let status = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).status();
    status.expect("the command can be started").code()
}

#[test]
fn nobody_reads_what_a_command_says() {
    let server = Server::start();
    server.push("hello");
    let (file, new) = (guest("dice"), server.data().join("made"));
    let (file, new) = (file.to_string_lossy(), new.to_string_lossy());
    let task = server.submit(&["hello", "--input", r#"{"name": "Ada"}"#]);
    let _ = server.run(&["wait", &task]).done();
    for (arguments, expected) in [
        (&["up", "--print-config"][..], 0),
        (&["push", &file], 0),
        (&["new", &new], 0),
        (&["ps", "--limit", "1"], 0),
        (&["events", &task], 0),
        (&["logs", &task], 0),
        (&["replay", &task], 0),
        (&["token", "create", "t"], 0),
        (&["run", "hello", "--input", r#"{"name": "Ada"}"#], 0),
        (&["run", "hello", "--input", r#"{"name": ""}"#], 1),
        (&["run", "./missing.wasm"], 2),
        (&["dance"], 2),
        (&["--help"], 0),
        (&["--server", "http://127.0.0.1:1", "--token", "t", "status"], 3),
        (&["run", "nobody"], 4),
        (&["get", "nobody"], 4),
        (&["cancel", "nobody"], 4),
        (&["--json", "get", "nobody"], 4),
    ] {
        // `new` makes a directory only once.
        let _ = std::fs::remove_dir_all(&*new);
        let silent = code(server.command(arguments), Stdio::null(), closed());
        assert_eq!(silent, Some(expected), "{arguments:?} with stderr closed");
        for stderr in [Stdio::null(), closed()] {
            let _ = std::fs::remove_dir_all(&*new);
            let code = code(server.command(arguments), closed(), stderr);
            // A command that cannot write its output ends quietly.
            assert!(code == Some(expected) || code == Some(0), "{arguments:?} with stdout closed: {code:?}");
        }
    }
}

#[test]
fn a_server_goes_on_when_nobody_reads_its_log() {
    let data = tempfile::tempdir().expect("there is a temporary directory");
    let mut command = Command::new(wasmill_e2e::binary());
    command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(data.path()).env("WASMILL_LOG", "debug");
    let mut server = command.stdin(Stdio::null()).stdout(closed()).stderr(closed()).spawn().expect("it can be started");
    let address = data.path().join("server.addr");
    let status = |url: &str| {
        let mut command = Command::new(wasmill_e2e::binary());
        command.args(["status", "--server", url.trim(), "--data"]).arg(data.path());
        code(command, Stdio::null(), Stdio::null()) == Some(0)
    };
    wasmill_e2e::until("the server to answer", || std::fs::read_to_string(&address).ok().filter(|url| status(url)));
    assert_eq!(server.try_wait().expect("a child can be asked"), None, "it is still there");
    wasmill_e2e::signal(&server, "TERM");
    assert_eq!(server.wait().expect("a child can be waited for").code(), Some(0));
}
