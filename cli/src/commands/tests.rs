//! Client commands against a server that answers what it is told to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use clap::Parser as _;

use super::*;

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// An answer: the beginning of the request it is for, status, body.
type Canned = (&'static str, u16, String);

/// Serves connections until the process ends; a request without an answer gets 404.
fn serve(answers: Vec<Canned>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answers = answers.clone();
            // A client that goes away in the middle is nobody's error here.
            std::thread::spawn(move || drop(answer_all(stream.unwrap(), &answers)));
        }
    });
    url
}

fn answer_all(stream: TcpStream, answers: &[Canned]) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
            if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        let found = answers.iter().find(|(request, ..)| head.starts_with(request));
        let (status, body) =
            found.map_or((404, r#"{"code": "not_found", "title": "Not found"}"#), |(_, status, body)| (*status, body));
        write!(writer, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}

fn task(state: &str, outcome: &str) -> String {
    format!(r#"{{"id": "{ID}", "state": "{state}", "outcome": {{"kind": "{outcome}", "message": "as asked"}}}}"#)
}

/// The exit of a command line, against a server that knows `answers`.
fn exit(answers: Vec<Canned>, line: &str) -> Exit {
    exit_at(&serve(answers), line)
}

fn failure_at(server: &str, line: &str) -> Failure {
    let words = ["wasmill", "--server", server, "--token", "t"].into_iter().chain(line.split(' '));
    let cli = Cli::try_parse_from(words).unwrap();
    block_on(client(&cli.global, cli.command)).unwrap().unwrap_err()
}

fn exit_at(server: &str, line: &str) -> Exit {
    let words = ["wasmill", "--server", server, "--token", "t"].into_iter().chain(line.split(' '));
    let cli = Cli::try_parse_from(words).unwrap();
    match block_on(client(&cli.global, cli.command)).unwrap() {
        Ok(exit) => exit,
        Err(failure) => failure.exit,
    }
}

#[test]
fn the_exit_code_of_run_is_the_end_of_the_task() {
    for (state, outcome, expected) in [
        ("succeeded", "succeeded", Exit::Done),
        ("failed", "trapped", Exit::TaskFailed),
        ("cancelled", "cancelled", Exit::TaskFailed),
    ] {
        let answers = vec![
            ("POST /v1/tasks ", 201, task("queued", "errored")),
            ("GET /v1/tasks/01890a5d-ac96-774b-bcce-b302099a8057/logs ", 200, String::new()),
            ("GET /v1/tasks/01890a5d-ac96-774b-bcce-b302099a8057?wait_ms=", 200, task(state, outcome)),
        ];
        assert_eq!(exit(answers, "run resize --input 1"), expected, "{state}");
    }
}

#[test]
fn wait_fails_when_one_task_did_not_succeed() {
    let answers = vec![
        ("GET /v1/tasks/a?wait_ms=", 200, task("succeeded", "succeeded")),
        ("GET /v1/tasks/b?wait_ms=", 200, task("failed", "errored")),
    ];
    assert_eq!(exit(answers.clone(), "wait a"), Exit::Done);
    assert_eq!(exit(answers, "wait a b a"), Exit::TaskFailed);
}

#[test]
fn refusals_and_failures_of_the_server_are_told_apart() {
    for (status, code, expected) in [
        (400, "malformed", Exit::Refused),
        (401, "unauthorized", Exit::Refused),
        (404, "not_found", Exit::Refused),
        (422, "over_cap", Exit::Refused),
        (429, "too_many", Exit::Refused),
        (500, "internal", Exit::Server),
        (507, "disk_full", Exit::Server),
    ] {
        let body = format!(r#"{{"code": "{code}", "title": "no"}}"#);
        assert_eq!(exit(vec![("GET /v1/status ", status, body)], "status"), expected, "{status}");
    }
}

#[test]
fn what_is_no_wasmill_server_is_a_server_that_failed() {
    assert_eq!(exit(vec![("GET /v1/status ", 200, "<html>".into())], "status"), Exit::Server);
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(exit_at(&format!("http://{free}"), "status"), Exit::Server);
}

#[test]
fn one_refused_task_does_not_keep_the_others_running() {
    let answers = vec![
        ("POST /v1/tasks/a/cancel?wait_ms=10000 ", 409, r#"{"code": "already_final"}"#.into()),
        ("POST /v1/tasks/b/cancel?wait_ms=10000 ", 200, task("cancelled", "cancelled")),
    ];
    assert_eq!(exit(answers.clone(), "cancel a b"), Exit::Refused);
    assert_eq!(exit(answers, "cancel b"), Exit::Done);
}

#[test]
fn tasks_are_waited_for_and_cancelled_by_a_filter() {
    let other = ID.replace("8057", "8058");
    let page = |next: &str, id: &str| format!(r#"{{"items": [{{"id": "{id}", "state": "running"}}], "next": {next}}}"#);
    let answers = vec![
        ("GET /v1/tasks?state=running&module=m&label=k%3Dv&limit=1000&cursor=c ", 200, page("null", &other)),
        ("GET /v1/tasks?state=running&module=m&label=k%3Dv&limit=1000 ", 200, page("\"c\"", ID)),
        ("GET /v1/tasks/01890a5d-ac96-774b-bcce-b302099a8057?wait_ms=", 200, task("succeeded", "succeeded")),
        ("GET /v1/tasks/01890a5d-ac96-774b-bcce-b302099a8058?wait_ms=", 200, task("failed", "errored")),
        ("GET /v1/tasks?label=a%3Db&limit=1000 ", 200, page("null", ID)),
        ("GET /v1/tasks?state=waiting&state=queued&state=running&label=a%3Db&limit=1000 ", 200, page("null", &other)),
        (
            "POST /v1/tasks/01890a5d-ac96-774b-bcce-b302099a8058/cancel?wait_ms=10000 ",
            409,
            r#"{"code": "already_final"}"#.into(),
        ),
    ];
    assert_eq!(exit(answers.clone(), "wait --state running --module m --label k=v"), Exit::TaskFailed);
    assert_eq!(exit(answers.clone(), "wait --label a=b"), Exit::Done);
    assert_eq!(exit(answers, "cancel --label a=b"), Exit::Done, "it has ended between the two requests");
    for wrong in ["wait", "cancel", "wait a --label k=v", "cancel a --state running"] {
        let words = ["wasmill"].into_iter().chain(wrong.split(' '));
        assert!(Cli::try_parse_from(words).is_err(), "{wrong}");
    }
}

#[test]
fn a_payload_over_the_cap_is_refused_in_the_words_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("large");
    std::fs::write(&file, vec![b'x'; 300_000]).unwrap();
    let status = r#"{"caps": {"payload_bytes": 299999, "module_bytes": 1000}}"#.to_owned();
    let answers = vec![
        ("GET /v1/status ", 200, status.replace("299999", "300000")),
        ("POST /v1/tasks ", 201, task("queued", "errored")),
    ];
    let line = format!("submit m --input-file {}", file.display());
    assert_eq!(exit(answers, &line), Exit::Done);
    let answers = vec![("GET /v1/status ", 200, status)];
    for (what, line) in [("payload", line), ("module", format!("push {}", file.display()))] {
        let failure = failure_at(&serve(answers.clone()), &line);
        assert_eq!(failure.exit, Exit::Refused);
        let (cap, text) = (if what == "payload" { 299_999 } else { 1000 }, failure.to_string());
        let said = format!("the {what} has 300000 bytes, over the limit of {cap} (HTTP 413, {what}_too_large)");
        assert!(text.contains(&said), "{text}");
    }
}
