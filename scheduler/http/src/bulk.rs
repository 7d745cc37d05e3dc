//! Many tasks in one request: a line in, a line out.

mod answers;
mod lines;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, FuturesOrdered};
use futures::{FutureExt, StreamExt};
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use wasmill_api::{FieldError, NDJSON, SubmitTask};
use wasmill_protocol::command::{Done, Refusal};
use wasmill_protocol::{TaskId, TaskSpec, TenantName, Timestamp};

use super::App;
use super::auth::Caller;
use super::body::BodyReader;
use super::fingerprint::Fingerprint;
use super::json;
use super::modules::Resolved;
use super::problem::{Code, Fault, Handled};
use super::room::{Room, quota, refused, reserve};
use super::submit::{
    Accepted, Draft, KEY_HEADER, KeyLookup, check_and_resolve, check_for_kind, document_bytes_max, lookup, submission,
};

use super::trace;
use answers::{AnswerWriter, answer_pipe};
use lines::{Line, Lines};

/// Lines that are submitted as one batch at most.
const BATCH_LINES_MAX: usize = 1024;
/// Batches that wait for the core at once: while one becomes durable the next ones gather.
const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// Lines of one batch that look up a key or store a payload at once.
const LOOKUPS_AT_ONCE: usize = 16;
/// The longest pause between two lines.
const LINE_IDLE: Duration = Duration::from_secs(60);
/// Bytes of answers that are kept for a client that does not read yet; a million lines fit.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Answers at once; a task of its own reads, submits and writes.
pub(super) fn submit(app: App, caller: Caller, headers: &HeaderMap, body: Body) -> Handled {
    if headers.contains_key(&KEY_HEADER) {
        let detail = "cannot be of many tasks at once: give each line an `idempotency_key` of its own";
        return Err(FieldError::invalid("Idempotency-Key", detail).into());
    }
    let mut reader = BodyReader::new(headers, body, u64::MAX, Code::BodyTooLarge, app.config.body_pace)?;
    reader.pace_from_here(0, LINE_IDLE);
    let (writer, answers) = answer_pipe(ANSWER_BYTES_MAX, app.answer_memory.of(&caller.tenant));
    let bulk = Bulk {
        lines: Lines::new(document_bytes_max(&app.config.caps), app.body_memory.of(&caller.tenant)),
        recent: None,
        in_flight: FuturesOrdered::new(),
        traced: trace::Bulk::here(),
        app,
        caller,
        writer,
    };
    tokio::spawn(bulk.run(reader));
    let mut response = Response::new(Body::from_stream(answers));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

/// One bulk submission.
struct Bulk {
    app: App,
    caller: Caller,
    lines: Lines,
    /// The module of the line before, which most often is that of the next line too.
    recent: Option<(String, Resolved)>,
    in_flight: FuturesOrdered<BoxFuture<'static, Vec<u8>>>,
    traced: trace::Bulk,
    writer: AnswerWriter,
}

/// A line that is ready to be submitted, or has failed already.
struct Prepared {
    number: u64,
    step: Step,
}

enum Step {
    /// Answered already.
    Failed(Fault),
    /// Only the core is missing.
    Ready(TaskId, Arc<TaskSpec>),
    /// Goes through the way of single submissions: it has a key or a payload to store.
    Slow(Box<Draft>),
}

impl Bulk {
    /// Reads until the end of the body, the client goes away, or the server stops.
    async fn run(mut self, mut reader: BodyReader) {
        let stopping = self.app.stopping.clone();
        let last_words = loop {
            tokio::select! {
                Some(answers) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    if !self.writer.write(&answers).await { return; }
                }
                chunk = reader.next(), if self.in_flight.len() < BATCHES_IN_FLIGHT_MAX => match chunk {
                    Ok(Some(chunk)) => {
                        if let Err(fault) = self.take(&chunk, &mut reader).await { break Some(fault); }
                    }
                    Ok(None) => break None,
                    Err(fault) => break Some(fault),
                },
                () = stopping.cancelled() => break Some(Fault::plain(Code::ShuttingDown)),
            }
        };
        if last_words.is_none()
            && let Some(line) = self.lines.rest()
        {
            let now = self.app.handle.shared().clock.now();
            let prepared = vec![self.prepare(line, now).await];
            self.send(prepared);
        }
        while let Some(answers) = self.in_flight.next().await {
            if !self.writer.write(&answers).await {
                return;
            }
        }
        if let Some(fault) = last_words {
            let mut line = fault.line(self.lines.number() + 1).to_json();
            line.push(b'\n');
            self.writer.write(&line).await;
        }
    }

    /// Takes in a chunk: every whole line in it is on its way afterwards.
    async fn take(&mut self, chunk: &Bytes, reader: &mut BodyReader) -> Handled<()> {
        let (mut begin, mut prepared) = (0, Vec::new());
        // One reading for all of them: an id need not be more precise than the chunk that its task came in.
        let now = self.app.handle.shared().clock.now();
        while let Some((line, end)) = self.lines.next(chunk, begin)? {
            begin = end;
            prepared.push(self.prepare(line, now).await);
            if prepared.len() == BATCH_LINES_MAX {
                self.send(std::mem::take(&mut prepared));
                self.make_room().await?;
            }
        }
        if begin > 0 {
            let partial = self.lines.partial();
            reader.pace_from_here(partial, if partial == 0 { LINE_IDLE } else { self.app.config.body_pace.idle });
        }
        if !prepared.is_empty() {
            self.send(prepared);
        }
        Ok(())
    }

    /// Waits until another batch may be sent: one chunk can hold the lines of many.
    async fn make_room(&mut self) -> Handled<()> {
        while self.in_flight.len() >= BATCHES_IN_FLIGHT_MAX {
            let Some(answers) = self.in_flight.next().await else { break };
            if !self.writer.write(&answers).await {
                return Err(Fault::new(Code::MalformedRequest, "the client went away"));
            }
        }
        Ok(())
    }

    async fn prepare(&mut self, line: Line, now: Timestamp) -> Prepared {
        let number = line.number;
        let draft = match line.text {
            Ok(text) => self.draft(&text).await,
            Err(fault) => Err(fault),
        };
        let step = match draft {
            Ok(draft) if draft.fingerprint.is_none() && draft.large.is_none() => {
                let task = self.app.ids.draw(now);
                Step::Ready(task, Arc::new(draft.spec))
            }
            Ok(draft) => Step::Slow(Box::new(draft)),
            Err(fault) => Step::Failed(fault),
        };
        Prepared { number, step }
    }

    async fn draft(&mut self, text: &Bytes) -> Handled<Draft> {
        let asked: SubmitTask = json::parse(text, &self.app.config.caps)?;
        let tenant = &self.caller.tenant;
        let module = match &self.recent {
            Some((name, module)) if *name == asked.module => {
                asked.check(&self.app.config.caps)?;
                check_for_kind(&asked, module.kind)?;
                module.clone()
            }
            _ => {
                let module = check_and_resolve(&self.app, tenant, &asked).await?;
                self.recent = Some((asked.module.clone(), module.clone()));
                module
            }
        };
        let mut draft = Draft::new(&self.app, tenant, asked, module)?;
        draft.spec.trace = self.traced.next();
        Ok(draft)
    }

    fn send(&mut self, prepared: Vec<Prepared>) {
        // An alias may move between two batches.
        self.recent = None;
        self.app.metrics.bulk_lines(prepared.len() as u64);
        self.in_flight.push_back(submit_batch(self.app.clone(), self.caller.tenant.clone(), prepared).boxed());
    }
}

/// Submits a batch and gives back its answers, a line each, in order.
async fn submit_batch(app: App, tenant: TenantName, prepared: Vec<Prepared>) -> Vec<u8> {
    let quota = quota(&app, &tenant);
    let prepared = if prepared.iter().any(|line| matches!(line.step, Step::Slow(_))) {
        let slow = stream::iter(prepared).map(|line| look_up(&app, quota, line));
        slow.buffered(LOOKUPS_AT_ONCE).collect().await
    } else {
        prepared.into_iter().map(|line| Looked::of(&app, quota, line)).collect::<Vec<_>>()
    };
    let mut commands = Vec::with_capacity(prepared.len());
    for line in &prepared {
        if let LookedStep::Ready { task, spec, key, .. } = &line.step {
            commands.push(submission(*task, spec, key.clone()));
        }
    }
    tracing::trace!(%tenant, lines = prepared.len(), "submitting a batch");
    let mut answers = app.handle.commands(commands).await.into_iter();
    let mut written = Vec::with_capacity(prepared.len() * 48);
    for line in prepared {
        let answer = match line.step {
            LookedStep::Failed(fault) => Err(fault),
            LookedStep::Repeated(task) => Ok(task),
            LookedStep::Ready { spec, fingerprint, room, .. } => match answers.next() {
                Some(Ok((_, Done::Accepted { task }))) => Ok(task),
                Some(Ok((_, Done::Repeated { task }))) => {
                    app.handle.shared().read_model.note_unneeded(spec.input.blob());
                    Ok(task)
                }
                Some(Err(Refusal::KeyCheckStale)) => {
                    drop(room);
                    again(&app, &spec, fingerprint).await
                }
                Some(Err(refusal)) => {
                    refused(&app, &spec, &refusal);
                    Err(refusal.into())
                }
                Some(Ok(_)) | None => Err(Fault::new(Code::Internal, "the submission was not answered")),
            },
        };
        write_answer(&mut written, answer, line.number);
    }
    written
}

/// A line after keys were looked up and payloads stored.
struct Looked {
    number: u64,
    step: LookedStep,
}

enum LookedStep {
    Failed(Fault),
    Repeated(TaskId),
    Ready {
        task: TaskId,
        spec: Arc<TaskSpec>,
        key: Option<wasmill_protocol::command::KeyCheck>,
        fingerprint: Option<Fingerprint>,
        room: Room,
    },
}

impl Looked {
    /// A line for which nothing is to be looked up.
    fn of(app: &App, quota: Option<u64>, prepared: Prepared) -> Self {
        let step = match prepared.step {
            Step::Failed(fault) => LookedStep::Failed(fault),
            Step::Ready(task, spec) => match reserve(app, quota, &spec, 0) {
                Ok(room) => LookedStep::Ready { task, spec, key: None, fingerprint: None, room },
                Err(fault) => LookedStep::Failed(fault),
            },
            Step::Slow(_) => LookedStep::Failed(Fault::new(Code::Internal, "the line was not looked up")),
        };
        Self { number: prepared.number, step }
    }
}

async fn look_up(app: &App, quota: Option<u64>, prepared: Prepared) -> Looked {
    let Step::Slow(draft) = prepared.step else { return Looked::of(app, quota, prepared) };
    Looked { number: prepared.number, step: ready(app, *draft).await.unwrap_or_else(LookedStep::Failed) }
}

/// First the key: a repeat and a conflict need nothing to be stored.
async fn ready(app: &App, mut draft: Draft) -> Handled<LookedStep> {
    let key = match lookup(app, &draft.spec, draft.fingerprint).await? {
        KeyLookup::Repeated(task) => return Ok(LookedStep::Repeated(task)),
        KeyLookup::Fresh(check) => Some(check),
        KeyLookup::None => None,
    };
    let room = draft.take_room(app).await?;
    let task = app.ids.draw(app.handle.shared().clock.now());
    Ok(LookedStep::Ready { task, spec: Arc::new(draft.spec), key, fingerprint: draft.fingerprint, room })
}

/// Submits one line by itself.
async fn again(app: &App, spec: &Arc<TaskSpec>, fingerprint: Option<Fingerprint>) -> Handled<TaskId> {
    let draft = Draft { spec: TaskSpec::clone(spec), large: None, fingerprint };
    draft.submit(app).await.map(|Accepted { task, .. }| task)
}

fn write_answer(written: &mut Vec<u8>, answer: Handled<TaskId>, number: u64) {
    match answer {
        Ok(task) => {
            let mut buffer = uuid::Uuid::encode_buffer();
            written.extend_from_slice(b"{\"id\":\"");
            written.extend_from_slice(task.0.hyphenated().encode_lower(&mut buffer).as_bytes());
            written.extend_from_slice(b"\"}\n");
        }
        Err(fault) => {
            written.extend_from_slice(&fault.line(number).to_json());
            written.push(b'\n');
        }
    }
}
