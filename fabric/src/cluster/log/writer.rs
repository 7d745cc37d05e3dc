//! The task that appends: it carries out what the appender decides.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{
    NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID,
};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use wasmill_fabric_core::append::{
    Action, AppendNumber, Appender, CallId, Config, Input, MessageId, Published, WriterId,
};
use wasmill_protocol::LogSeq;

use super::answers::published;
use super::{Floor, LogStream};
use crate::AppendError;
use crate::cluster::clock::{now_us, until_us};
use crate::cluster::nats::Nats;

/// Commands that are taken in at once.
const COMMANDS_AT_ONCE_MAX: usize = 64;

/// Between two looks at how many servers keep the stream.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long such a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// One record to append.
pub(super) struct Command {
    pub(super) expected_last: LogSeq,
    pub(super) record: Bytes,
    pub(super) answer: oneshot::Sender<Result<LogSeq, AppendError>>,
}

/// See [`Writer::run`].
pub(super) struct Writer {
    nats: Nats,
    stream: LogStream,
    floor: Arc<Floor>,
    appender: Appender,
    last_number: AppendNumber,
    /// The callers that wait for the outcome, in the order of the calls, which is the order of the
    /// outcomes.
    waiting: VecDeque<(AppendNumber, oneshot::Sender<Result<LogSeq, AppendError>>)>,
    /// The requests to the stream.
    calls: FuturesUnordered<BoxFuture<'static, Input>>,
    /// Whether one server alone keeps the stream; see [`look`].
    looking: BoxFuture<'static, bool>,
    cuts: watch::Receiver<u64>,
}

impl Writer {
    pub(super) fn new(nats: Nats, stream: LogStream, floor: Arc<Floor>, writer: WriterId) -> Self {
        Self {
            looking: Box::pin(look(stream.clone(), Duration::ZERO)),
            cuts: nats.cuts(),
            nats,
            stream,
            floor,
            appender: Appender::new(Config::default(), writer),
            last_number: AppendNumber(0),
            waiting: VecDeque::new(),
            calls: FuturesUnordered::new(),
        }
    }

    /// Appends until its leadership is over.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut taken = Vec::with_capacity(COMMANDS_AT_ONCE_MAX);
        loop {
            let timeout_us = self.appender.next_timeout_us();
            tokio::select! {
                // Before anything is sent again: nobody may be there any more.
                biased;
                count = commands.recv_many(&mut taken, COMMANDS_AT_ONCE_MAX) => {
                    if count == 0 {
                        return;
                    }
                    taken.drain(..).for_each(|command| self.append(command));
                }
                Some(input) = self.calls.next(), if !self.calls.is_empty() => self.appender.step(now_us(), input),
                alone = &mut self.looking => self.looked(alone, LOOK_INTERVAL),
                // Much may have changed until there is a connection again.
                Ok(()) = self.cuts.changed() => self.looked(false, Duration::ZERO),
                () = until_us(timeout_us) => self.appender.step(now_us(), Input::Tick),
            }
            self.settle().await;
        }
    }

    fn append(&mut self, command: Command) {
        let number = AppendNumber(self.last_number.0 + 1);
        self.last_number = number;
        self.waiting.push_back((number, command.answer));
        let (expected_last, record) = (command.expected_last, command.record);
        self.appender.step(now_us(), Input::Append { number, expected_last, record });
    }

    /// Whether one server alone keeps the stream, and when to look again.
    fn looked(&mut self, alone: bool, again: Duration) {
        self.looking = Box::pin(look(self.stream.clone(), again));
        self.appender.step(now_us(), Input::Pipeline(alone));
    }

    async fn settle(&mut self) {
        let ready = self.appender.take_ready();
        for done in ready.done {
            let Some((number, answer)) = self.waiting.pop_front() else { unreachable!("each append is done once") };
            assert_eq!(number, done.number, "outcomes come in the order of the calls");
            if let Ok(seq) = done.outcome {
                self.floor.raise(seq);
            }
            // Nobody may wait for it any more, which is fine.
            let _ = answer.send(done.outcome);
        }
        for (call, action) in ready.calls {
            match action {
                Action::Publish { id, expected_last, after, record } => {
                    self.publish(call, headers(self.stream.name(), id, expected_last, after), record).await;
                }
                Action::ReadBack { seq } => {
                    let stream = self.stream.clone();
                    self.calls.push(Box::pin(async move { Input::Found(call, stream.found(seq).await) }));
                }
            }
        }
    }

    /// Sends a record, and waits for its answer beside everything else.
    async fn publish(&mut self, call: CallId, headers: HeaderMap, record: Bytes) {
        let unanswered =
            |reason: &str| Box::pin(std::future::ready(Input::Published(call, no_answer(reason)))) as BoxFuture<_>;
        if !self.nats.is_connected() {
            // It would be sent when there is a connection again, which may be long after we have
            // given up.
            return self.calls.push(unanswered("not connected to NATS"));
        }
        let mut cuts = self.nats.cuts();
        let message = PublishMessage::build().payload(record).headers(headers);
        // One after the other: the order of the calls is the order on the wire.
        let sent = self.stream.context().send_publish(self.stream.subject().to_owned(), message).await;
        let (name, bytes_max) = (self.stream.name().to_owned(), self.nats.client().max_payload());
        self.calls.push(match sent {
            Err(error) => Box::pin(std::future::ready(Input::Published(call, published(Err(error), &name, bytes_max)))),
            Ok(ack) => Box::pin(async move {
                let answer = tokio::select! {
                    answer = ack => published(answer, &name, bytes_max),
                    _ = cuts.changed() => no_answer("the connection to NATS was lost"),
                };
                Input::Published(call, answer)
            }),
        });
    }
}

/// Whether, after a while, one server alone keeps the stream. Only such a stream can be told which
/// message an append must follow: several servers agree on the append first, and when it turns out
/// to stand behind another one they take nothing any more. Operators change the number, so it is
/// looked at again and again, and while it is not known it may be several.
async fn look(stream: LogStream, after: Duration) -> bool {
    tokio::time::sleep(after).await;
    tokio::time::timeout(LOOK_TIMEOUT, stream.is_kept_alone()).await.unwrap_or(false)
}

fn no_answer(reason: &str) -> Published {
    Published::NoAnswer { reason: reason.to_owned() }
}

fn headers(stream: &str, id: MessageId, expected_last: LogSeq, after: Option<MessageId>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_STREAM, stream);
    headers.insert(NATS_MESSAGE_ID, id.to_string());
    headers.insert(NATS_EXPECTED_LAST_SEQUENCE, expected_last.to_string());
    if let Some(after) = after {
        headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, after.to_string());
    }
    headers
}
