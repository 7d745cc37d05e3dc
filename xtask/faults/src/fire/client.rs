//! A client: asks without end, writes everything down, and repeats what was not answered clearly.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};

use super::history::{Answer, Call, Clock, Line, LineAnswer, Seen, Writer};
use super::orders::{self, Wanted};
use wasmill_processes::http::{Body, Http, Response};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest wait that a node is asked for.
const WAIT_MS_MAX: u32 = 4000;
/// After an answer that is no answer.
const BACKOFF_MS: u64 = 200;
/// Between two questions.
const PAUSE_MS_MAX: u64 = 60;
/// Tasks that a client remembers.
const TASKS_MAX: usize = 64;
/// Submissions without a clear answer that a client repeats. Beyond that it submits no more.
const UNCLEAR_MAX: usize = 256;
/// Lines of a bulk submission.
const LINES_MAX: usize = 60;
/// Bits of a question's number that count the questions of one client.
const OP_BITS: u32 = 32;

/// A control node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) url: String,
}

/// A client with a history of its own.
pub(crate) struct Client {
    name: String,
    rng: Rng,
    http: Http,
    nodes: Vec<Node>,
    clock: Clock,
    history: Writer,
    op: u64,
    /// The latest tasks.
    tasks: VecDeque<String>,
    /// Submissions with a key and without a clear answer yet.
    unclear: Vec<Unclear>,
}

/// A question that can be repeated.
#[derive(Debug, Clone)]
enum Unclear {
    Submit(Wanted),
    Retry { task: String, key: String },
}

impl Client {
    pub(crate) fn new(number: u64, seed: u64, token: &str, nodes: &[Node], clock: Clock, dir: &Path) -> Result<Self> {
        let name = format!("client-{number}");
        Ok(Self {
            rng: Rng::with_seed(seed.wrapping_add(number)),
            http: Http::new(Some(token), PATIENCE),
            nodes: nodes.to_vec(),
            clock,
            history: Writer::create(dir, &name)?,
            op: number << OP_BITS,
            tasks: VecDeque::new(),
            unclear: Vec::new(),
            name,
        })
    }

    /// Asks until it is told to stop.
    pub(crate) fn run(&mut self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.one()?;
            thread::sleep(Duration::from_millis(self.rng.u64(0..PAUSE_MS_MAX)));
        }
        Ok(())
    }

    /// Repeats what was not answered clearly until it is.
    pub(crate) fn settle(&mut self, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        while !self.unclear.is_empty() {
            ensure!(
                begun.elapsed() < patience,
                "{} still has {} submissions without a clear answer, {patience:?} after the last fault",
                self.name,
                self.unclear.len()
            );
            self.repeat()?;
        }
        Ok(())
    }

    fn one(&mut self) -> Result<()> {
        let can_submit = self.unclear.len() < UNCLEAR_MAX;
        match self.rng.u32(0..100) {
            0..30 if can_submit => {
                let wanted = self.draw(true);
                self.submit(wanted)
            }
            30..36 if can_submit => self.bulk(),
            36..44 => self.run_once(),
            44..58 => self.cancel(),
            58..64 if can_submit => self.retry(),
            64..72 if can_submit => {
                // Somebody will want to cancel it.
                let wanted = self.named(orders::spinning());
                self.submit(wanted)
            }
            72..86 => self.look(),
            _ => self.repeat(),
        }
    }

    fn node(&mut self) -> Node {
        self.nodes[self.rng.usize(0..self.nodes.len())].clone()
    }

    fn draw(&mut self, has_key: bool) -> Wanted {
        let name = format!("{}-{}", self.name, self.op);
        self.op += 1;
        orders::draw(&mut self.rng, &name, has_key)
    }

    fn named(&mut self, mut wanted: Wanted) -> Wanted {
        let name = format!("{}-{}", self.name, self.op);
        self.op += 1;
        (wanted.document["name"], wanted.document["idempotency_key"]) = (name.as_str().into(), name.as_str().into());
        (wanted.order.name, wanted.order.key) = (Some(name.clone()), Some(name));
        wanted
    }

    fn submit(&mut self, wanted: Wanted) -> Result<()> {
        let node = self.node();
        let call = Call::Submit(wanted.order.clone());
        let url = format!("{}/v1/tasks", node.url);
        let answer = self.ask(&node, call, |http| {
            http.call("POST", &url, &[], Body::Json(&wanted.document)).map_or_else(unknown, |response| task(&response))
        })?;
        self.accepted(&node, answer, Unclear::Submit(wanted))
    }

    fn retry(&mut self) -> Result<()> {
        let Some(task) = self.some_task() else { return Ok(()) };
        let key = format!("{}-retry-{}", self.name, self.op);
        self.retry_with(task, key)
    }

    fn retry_with(&mut self, id: String, key: String) -> Result<()> {
        let node = self.node();
        let url = format!("{}/v1/tasks/{id}/retry", node.url);
        let call = Call::Retry { task: id.clone(), key: key.clone() };
        let answer = self.ask(&node, call, |http| {
            let response = http.call("POST", &url, &[("idempotency-key", &key)], Body::None);
            response.map_or_else(unknown, |response| task(&response))
        })?;
        self.accepted(&node, answer, Unclear::Retry { task: id, key })
    }

    /// Remembers what to ask about, or what to ask again.
    fn accepted(&mut self, node: &Node, answer: Answer, asked: Unclear) -> Result<()> {
        match answer {
            Answer::Task { seen, .. } => {
                // The node that has answered shows the task.
                if self.rng.bool() {
                    self.get(node, &seen.task, 0)?;
                }
                self.remember(seen.task);
                // And a repetition changes nothing.
                if self.rng.u32(0..8) == 0 {
                    self.unclear.push(asked);
                }
            }
            Answer::Unknown { .. } => self.unclear.push(asked),
            // Too many at the moment is no answer for good.
            Answer::Refused { status: 429, .. } => self.unclear.push(asked),
            _ => {}
        }
        Ok(())
    }

    fn repeat(&mut self) -> Result<()> {
        if self.unclear.is_empty() {
            return self.look();
        }
        let index = self.rng.usize(0..self.unclear.len());
        match self.unclear.swap_remove(index) {
            Unclear::Submit(wanted) => self.submit(wanted),
            Unclear::Retry { task, key } => self.retry_with(task, key),
        }
    }

    fn bulk(&mut self) -> Result<()> {
        let count = self.rng.usize(1..LINES_MAX);
        // One with a key can be repeated line by line; of one without it is never known.
        let has_keys = self.rng.bool();
        let wanted: Vec<Wanted> = (0..count).map(|_| self.draw(has_keys)).collect();
        let lines: String = wanted.iter().map(|wanted| format!("{}\n", wanted.document)).collect();
        let node = self.node();
        let url = format!("{}/v1/tasks", node.url);
        let call = Call::Bulk(wanted.iter().map(|wanted| wanted.order.clone()).collect());
        let answer = self.ask(&node, call, |http| {
            let response = http.call_in_part("POST", &url, &[], Body::Lines(&lines));
            response.map_or_else(unknown, |response| bulk(&response, count))
        })?;
        let answers = match answer {
            Answer::Lines(answers) => answers,
            _ => vec![LineAnswer::Unknown; count],
        };
        for (wanted, answer) in wanted.into_iter().zip(answers) {
            match answer {
                LineAnswer::Accepted { task } => self.remember(task),
                LineAnswer::Unknown if has_keys => self.unclear.push(Unclear::Submit(wanted)),
                LineAnswer::Unknown | LineAnswer::Refused { .. } => {}
            }
        }
        Ok(())
    }

    fn run_once(&mut self) -> Result<()> {
        let name = format!("{}-run-{}", self.name, self.op);
        let wanted = orders::hello(&name);
        let node = self.node();
        let url = format!("{}/v1/run/hello", node.url);
        let body = wanted.document["input"].to_string();
        let _ = self.ask(&node, Call::Run(wanted.order), |http| {
            http.call("POST", &url, &[], Body::Bytes(body.as_bytes())).map_or_else(unknown, |response| ran(&response))
        })?;
        Ok(())
    }

    fn cancel(&mut self) -> Result<()> {
        let Some(id) = self.some_task() else { return Ok(()) };
        let node = self.node();
        let wait_ms = self.wait_ms();
        let url = format!("{}/v1/tasks/{id}/cancel?wait_ms={wait_ms}", node.url);
        let reason = json!({ "reason": "the client has changed its mind" });
        let answer = self.ask(&node, Call::Cancel { task: id.clone() }, |http| {
            http.call("POST", &url, &[], Body::Json(&reason)).map_or_else(unknown, |response| task(&response))
        })?;
        if matches!(answer, Answer::Task { .. }) { self.get(&node, &id, 0) } else { Ok(()) }
    }

    fn look(&mut self) -> Result<()> {
        let Some(task) = self.some_task() else { return Ok(()) };
        let (node, wait_ms) = (self.node(), self.wait_ms());
        self.get(&node, &task, wait_ms)
    }

    fn get(&mut self, node: &Node, id: &str, wait_ms: u32) -> Result<()> {
        let url = format!("{}/v1/tasks/{id}?wait_ms={wait_ms}", node.url);
        let _ = self.ask(node, Call::Get { task: id.to_owned() }, |http| {
            http.call("GET", &url, &[], Body::None).map_or_else(unknown, |response| task(&response))
        })?;
        Ok(())
    }

    fn wait_ms(&mut self) -> u32 {
        if self.rng.bool() { 0 } else { self.rng.u32(0..WAIT_MS_MAX) }
    }

    fn some_task(&mut self) -> Option<String> {
        // The latest ones are the most interesting.
        let age = self.rng.usize(0..TASKS_MAX).min(self.rng.usize(0..TASKS_MAX));
        self.tasks.get(age).cloned()
    }

    fn remember(&mut self, task: String) {
        self.tasks.push_front(task);
        self.tasks.truncate(TASKS_MAX);
    }

    fn ask(&mut self, node: &Node, call: Call, ask: impl FnOnce(&Http) -> Answer) -> Result<Answer> {
        let op = self.op;
        self.op += 1;
        self.history.line(&Line::Asked { op, node: node.name.clone(), at_us: self.clock.now_us(), call })?;
        let answer = ask(&self.http);
        self.history.line(&Line::Answered { op, at_us: self.clock.now_us(), answer: answer.clone() })?;
        if let Answer::Unknown { .. } | Answer::Refused { status: 429, .. } = answer {
            thread::sleep(Duration::from_millis(self.rng.u64(0..BACKOFF_MS)));
        }
        Ok(answer)
    }
}

/// The document of a task, or no.
fn task(response: &Response) -> Answer {
    match response.json().as_ref().and_then(Seen::of) {
        Some(seen) if response.is_success() => Answer::Task { status: response.status, seen },
        _ => refused(response),
    }
}

fn bulk(response: &Response, count: usize) -> Answer {
    if !response.is_success() {
        return refused(response);
    }
    let text = response.text();
    let answers =
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(|line| line_answer(&line));
    let mut answers: Vec<LineAnswer> = answers.take(count).collect();
    answers.resize(count, LineAnswer::Unknown);
    Answer::Lines(answers)
}

fn line_answer(line: &Value) -> LineAnswer {
    if let Some(task) = line["id"].as_str() {
        return LineAnswer::Accepted { task: task.to_owned() };
    }
    let status = line["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
    if is_clear(status) { LineAnswer::Refused { status, code: code(line) } } else { LineAnswer::Unknown }
}

fn ran(response: &Response) -> Answer {
    let Some(task) = response.task.clone() else { return refused(response) };
    match response.status {
        200 => Answer::RunEnded { task, ended_as: "succeeded".to_owned(), output: response.json() },
        422 => Answer::RunEnded {
            task,
            ended_as: response.json().map_or_else(String::new, |problem| code(&problem)),
            output: None,
        },
        _ => refused(response),
    }
}

fn refused(response: &Response) -> Answer {
    let code = response.json().map_or_else(|| response.text(), |problem| code(&problem));
    match response.status {
        status if is_clear(status) => Answer::Refused { status, code },
        status => Answer::Unknown { why: format!("{status} {code}") },
    }
}

/// Whether a problem says for sure that nothing has changed. A 5xx may come from a node whose
/// leader has died in the middle.
fn is_clear(status: u16) -> bool {
    (400..500).contains(&status)
}

fn code(problem: &Value) -> String {
    problem["code"].as_str().unwrap_or_default().to_owned()
}

fn unknown(error: anyhow::Error) -> Answer {
    Answer::Unknown { why: format!("{error:#}") }
}
