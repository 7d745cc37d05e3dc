//! The log over the model of JetStream, with the real decisions about appends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::{oneshot, watch};
use wasmill_fabric::log::Broken;
use wasmill_fabric::{AppendError, Log, LogError, LogTail, LogWriter};
use wasmill_fabric_core::append::{
    self, Action, AppendNumber, Appender, CallId, Found, Input, MessageId, Published, WriterId,
};
use wasmill_fabric_models::JetStream;
use wasmill_fabric_models::jetstream::{
    Publish, PublishError, PublishResult, ServerConfig, Stop, StreamConfig, Ticket,
};
use wasmill_protocol::{LogSeq, Timestamp};

const STREAM: &str = "log";
const SUBJECT: &str = "records";
/// Ids are remembered for so long, in milliseconds.
const DUPLICATE_WINDOW_MS: u64 = 20_000;
/// Room for the headers of a record.
const HEADERS_BYTES_MAX: usize = 1_024;

/// Troubles that come again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// Every third answer to a record is lost.
    AcksLost,
    /// The server is killed in the middle of every fifth record.
    Kills,
    /// As with [`Trouble::AcksLost`], and the clock jumps beyond the window of ids while the server
    /// is restarted.
    IdsForgotten,
}

/// See the module.
pub(super) struct ModelLog {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// The appends of one leadership.
struct ModelWriter {
    shared: Arc<Shared>,
    leadership: Arc<Mutex<Leadership>>,
    broken: Broken,
}

struct Leadership {
    appender: Appender,
    last_number: u64,
    waiting: VecDeque<(AppendNumber, oneshot::Sender<Result<LogSeq, AppendError>>)>,
}

struct State {
    server: JetStream,
    trouble: Trouble,
    writers: u64,
    now_us: u64,
    /// How far the server's clock is ahead.
    ahead_us: u64,
    records: u64,
}

impl ModelLog {
    pub(super) fn new(replicated: bool, trouble: Trouble) -> Self {
        let mut server = JetStream::new(ServerConfig { replicated, ..ServerConfig::default() });
        let stream = StreamConfig {
            name: STREAM.into(),
            subjects: vec![SUBJECT.into()],
            duplicate_window_ms: DUPLICATE_WINDOW_MS,
            message_bytes_max: None,
            bytes_max: None,
        };
        server.create_stream(Timestamp(0), stream).unwrap();
        let state = State { server, trouble, writers: 0, now_us: 0, ahead_us: 0, records: 0 };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(0) }) }
    }
}

impl LogWriter for ModelWriter {
    fn append(&self, expected_last: LogSeq, record: Bytes) -> BoxFuture<'static, Result<LogSeq, AppendError>> {
        let state = self.shared.state();
        let (now_us, bytes_max) = (state.now_us, state.record_bytes_max());
        drop(state);
        let too_large = AppendError::TooLarge { bytes: record.len(), bytes_max };
        let fits = if record.len() > bytes_max { Err(too_large) } else { self.broken.check(expected_last) };
        if let Err(error) = fits {
            return futures::future::ready(Err(self.broken.after(expected_last, error))).boxed();
        }
        let (answer, answered) = oneshot::channel();
        let mut leadership = self.leadership.lock().unwrap();
        leadership.last_number += 1;
        let number = AppendNumber(leadership.last_number);
        leadership.waiting.push_back((number, answer));
        leadership.appender.step(now_us, Input::Append { number, expected_last, record });
        let (shared, leadership) = (Arc::clone(&self.shared), Arc::clone(&self.leadership));
        async move {
            // Only now: what was called before this was polled is under way together.
            shared.state().drive(&mut leadership.lock().unwrap());
            shared.changed.send_modify(|changes| *changes += 1);
            answered.await.unwrap()
        }
        .boxed()
    }
}

impl Log for ModelLog {
    fn writer(&self) -> Box<dyn LogWriter> {
        let mut state = self.shared.state();
        state.writers += 1;
        let mut appender = Appender::new(append::Config::default(), WriterId(state.writers));
        appender.step(state.now_us, Input::Pipeline(!state.server.config().replicated));
        let leadership = Leadership { appender, last_number: 0, waiting: VecDeque::new() };
        let leadership = Arc::new(Mutex::new(leadership));
        Box::new(ModelWriter { shared: Arc::clone(&self.shared), leadership, broken: Broken::default() })
    }

    fn last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        futures::future::ready(Ok(LogSeq(self.shared.state().server.info(STREAM).unwrap().last_seq))).boxed()
    }

    fn first_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        futures::future::ready(Ok(LogSeq(self.shared.state().server.info(STREAM).unwrap().first_seq))).boxed()
    }

    fn tail(&self, from: LogSeq) -> LogTail {
        let place = (Arc::clone(&self.shared), from.max(LogSeq(1)), self.shared.changed.subscribe());
        stream::unfold(Some(place), |place| async move {
            let (shared, next, mut changed) = place?;
            loop {
                changed.borrow_and_update();
                let read = shared.state().read(next);
                match read {
                    Ok(Some(bytes)) => return Some((Ok((next, bytes)), Some((shared, next.next(), changed)))),
                    Ok(None) => changed.changed().await.unwrap(),
                    Err(error) => return Some((Err(error), None)),
                }
            }
        })
        .boxed()
    }

    fn trim(&self, to: LogSeq) -> BoxFuture<'_, Result<(), LogError>> {
        let mut state = self.shared.state();
        // The server would take a number beyond the end as the new end.
        let last = state.server.info(STREAM).unwrap().last_seq;
        state.server.purge(STREAM, to.0.min(last) + 1).unwrap();
        futures::future::ready(Ok(())).boxed()
    }

    fn record_bytes_max(&self) -> usize {
        self.shared.state().record_bytes_max()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn record_bytes_max(&self) -> usize {
        self.server.config().max_payload - HEADERS_BYTES_MAX
    }

    /// Carries out what the appender decides until every append has an outcome. Time passes when
    /// nothing else happens.
    fn drive(&mut self, leadership: &mut Leadership) {
        while !leadership.waiting.is_empty() {
            let ready = leadership.appender.take_ready();
            if ready.calls.is_empty() && ready.done.is_empty() {
                self.now_us = leadership.appender.next_timeout_us().unwrap().max(self.now_us);
                leadership.appender.step(self.now_us, Input::Tick);
                continue;
            }
            for done in ready.done {
                let (number, answer) = leadership.waiting.pop_front().unwrap();
                assert_eq!(number, done.number);
                drop(answer.send(done.outcome));
            }
            for input in self.carry_out(ready.calls) {
                leadership.appender.step(self.now_us, input);
            }
        }
    }

    /// Everything that was asked at once reaches the server before it stores anything.
    fn carry_out(&mut self, calls: Vec<(CallId, Action)>) -> Vec<Input> {
        let mut answers = Vec::new();
        let mut tickets = BTreeMap::new();
        for (call, action) in calls {
            match action {
                Action::Publish { id, expected_last, after, record } => {
                    let publish = Publish {
                        subject: SUBJECT.into(),
                        id: Some(id.to_string()),
                        expected_last: Some(expected_last.0),
                        expected_last_id: after.map(|after| after.to_string()),
                        expected_stream: Some(STREAM.into()),
                        payload: record,
                    };
                    match self.server.receive(self.server_now(), publish) {
                        Ok(ticket) => drop(tickets.insert(ticket, call)),
                        Err(answer) => answers.push(Input::Published(call, published(answer))),
                    }
                }
                Action::ReadBack { seq } => answers.push(Input::Found(call, self.found(seq))),
            }
        }
        self.store(&mut tickets, &mut answers);
        answers
    }

    fn store(&mut self, tickets: &mut BTreeMap<Ticket, CallId>, answers: &mut Vec<Input>) {
        while self.server.waiting() > 0 {
            self.records += 1;
            if self.trouble == Trouble::Kills && self.records.is_multiple_of(5) {
                // Half of the time it is stored before, and nobody is told.
                let stored = usize::from(self.records.is_multiple_of(10));
                self.restart(stored);
                break;
            }
            let Some((ticket, result)) = self.server.store_next(self.server_now()) else { break };
            let loses = matches!(self.trouble, Trouble::AcksLost | Trouble::IdsForgotten);
            if loses && self.records.is_multiple_of(3) {
                if self.trouble == Trouble::IdsForgotten {
                    self.ahead_us += DUPLICATE_WINDOW_MS * 1_000;
                    self.restart(0);
                }
                continue;
            }
            if let Some(call) = tickets.remove(&ticket) {
                answers.push(Input::Published(call, published(result)));
            }
        }
        let silent = || Published::NoAnswer { reason: "no answer".into() };
        answers.extend(std::mem::take(tickets).into_values().map(|call| Input::Published(call, silent())));
    }

    fn restart(&mut self, stored: usize) {
        self.server.stop(self.server_now(), Stop::Killed, stored);
        self.server.start(self.server_now());
    }

    fn found(&self, seq: LogSeq) -> Found {
        let first = self.server.info(STREAM).unwrap().first_seq;
        match self.server.message(STREAM, seq.0).unwrap() {
            Some(stored) => Found::Record(stored.id.as_ref().and_then(|id| id.parse::<MessageId>().ok())),
            None if seq.0 < first => Found::Trimmed,
            None => Found::Nothing,
        }
    }

    fn read(&self, next: LogSeq) -> Result<Option<Bytes>, LogError> {
        if next.0 < self.server.info(STREAM).unwrap().first_seq {
            return Err(LogError::Missing { seq: next });
        }
        match self.server.next_message(STREAM, next.0).unwrap() {
            Some(stored) if stored.seq != next.0 => Err(LogError::Missing { seq: next }),
            stored => Ok(stored.map(|stored| stored.payload.clone())),
        }
    }

    fn server_now(&self) -> Timestamp {
        Timestamp(self.now_us + self.ahead_us)
    }
}

fn published(result: PublishResult) -> Published {
    match result {
        Ok(ack) => Published::Stored { seq: LogSeq(ack.seq) },
        Err(PublishError::WrongLastSequence { last }) => Published::WrongLast { last: LogSeq(last) },
        Err(PublishError::WrongLastId { .. }) => Published::WrongPredecessor,
        Err(PublishError::NoSpace | PublishError::MaxBytes) => Published::NoSpace,
        Err(error @ (PublishError::NoResponders | PublishError::DuplicateInProcess)) => {
            Published::NoAnswer { reason: error.to_string() }
        }
        Err(error) => Published::Failed { reason: error.to_string() },
    }
}
