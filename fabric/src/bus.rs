//! The bus: messages between processes. It is bounded and may lose, repeat and reorder; nothing
//! durable depends on it.

mod content;

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Carries messages by subject: text with `.` between its parts.
pub trait Bus: Send + Sync {
    /// Sends and waits for the answer of one subscriber.
    ///
    /// # Errors
    ///
    /// When nobody subscribes, nobody answers in time, or the subscriber's queue is full. The
    /// message may have arrived all the same.
    fn ask(&self, subject: &str, content: Content, timeout: Duration) -> BoxFuture<'static, Result<Content, BusError>>;

    /// As [`Bus::ask`], with bytes on both ways.
    ///
    /// # Errors
    ///
    /// As [`Bus::ask`].
    fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> BoxFuture<'static, Result<Bytes, BusError>> {
        self.ask(subject, payload.into(), timeout).map(|answer| answer.map(Content::into_bytes)).boxed()
    }

    /// Sends to every subscriber that has room; others miss it.
    fn publish(&self, subject: &str, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>>;

    /// Messages to `subject` from now on, until the subscription is dropped. At most `capacity`
    /// wait; what comes then is lost. When the last part of `subject` is `*` it stands for any one
    /// part.
    fn subscribe(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>>;

    /// As [`Bus::subscribe`], but all who share a subject get each message once among them: one of
    /// those that have room.
    fn subscribe_shared(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>>;

    /// The largest payload in bytes that [`Bus::ask`], [`Bus::publish`] and
    /// [`Responder::respond`] carry.
    fn payload_bytes_max(&self) -> usize;

    /// Whether messages stay in this process: then a value is handed over as it is, and has no size.
    fn is_local(&self) -> bool;
}

pub use content::Content;

/// Incoming messages. It ends when messages may have been lost on the way, because the connection
/// was cut or we were too slow: subscribe again.
pub type Subscription = mpsc::Receiver<Message>;

/// One incoming message.
#[derive(Debug)]
pub struct Message {
    /// Where it was sent to.
    pub subject: String,
    /// The value that was sent.
    pub content: Content,
    /// How to answer, when an answer is awaited.
    pub responder: Option<Responder>,
}

/// Answers one request.
#[derive(Debug)]
pub struct Responder(pub oneshot::Sender<Content>);

impl Responder {
    /// Sends the answer. Nobody may be waiting for it any more, which is fine.
    pub fn respond(self, answer: Content) {
        let _ = self.0.send(answer);
    }
}

/// A message was not sent or not answered.
#[derive(Debug, Clone, Error)]
pub enum BusError {
    /// Nobody subscribes.
    #[error("nobody subscribes to `{0}`")]
    NoSubscriber(String),
    /// The subscriber's queue is full.
    #[error("the queue of `{0}` is full")]
    Full(String),
    /// No answer in time, or the subscriber dropped the request.
    #[error("`{0}` did not answer")]
    NoAnswer(String),
    /// Refused before it was sent.
    #[error("a message of {bytes} bytes to `{subject}` is over the limit of {bytes_max}")]
    TooLarge {
        /// Where it should have gone.
        subject: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The connection is down.
    #[error("the bus is not reachable: {0}")]
    Unreachable(String),
}
