//! From NATS into the queue of a subscription, and the answers back.

use async_nats::{HeaderMap, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::cluster::nats::Nats;
use crate::{Content, Message, Responder};

/// The header by which a request is refused.
const REFUSED: &str = "Wasmill-Refused";

/// The header of a message that only asks whether anybody subscribes.
const PROBE: &str = "Wasmill-Probe";

/// The mark of a message that only asks whether anybody subscribes.
pub(super) fn probe() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(PROBE, "1");
    headers
}

/// Why a request is answered by nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForwardRefusal {
    /// The queue is full.
    Full,
    /// The subscription was dropped.
    Gone,
    /// The request was dropped.
    Dropped,
}

impl ForwardRefusal {
    /// Whether this is one.
    pub(super) fn of(answer: &async_nats::Message) -> Option<Self> {
        match answer.headers.as_ref()?.get(REFUSED)?.as_str() {
            "full" => Some(Self::Full),
            "gone" => Some(Self::Gone),
            _ => Some(Self::Dropped),
        }
    }

    fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            REFUSED,
            match self {
                Self::Full => "full",
                Self::Gone => "gone",
                Self::Dropped => "dropped",
            },
        );
        headers
    }
}

/// One subscription.
pub(super) struct Forward {
    nats: Nats,
    subscriber: Subscriber,
    queue: mpsc::Sender<Message>,
    cuts: watch::Receiver<u64>,
    /// Requests that were handed out: where the answer goes, and the answer.
    answers: FuturesUnordered<BoxFuture<'static, (Subject, Option<Bytes>)>>,
}

impl Forward {
    pub(super) fn new(
        nats: Nats,
        subscriber: Subscriber,
        queue: mpsc::Sender<Message>,
        cuts: watch::Receiver<u64>,
    ) -> Self {
        Self { nats, subscriber, queue, cuts, answers: FuturesUnordered::new() }
    }

    /// Ends when the subscription is dropped, or when messages may have been lost.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                message = self.subscriber.next() => match message {
                    Some(message) => self.take(message).await,
                    None => break,
                },
                Some((reply, answer)) = self.answers.next(), if !self.answers.is_empty() => {
                    self.answer(reply, answer).await;
                }
                () = self.queue.closed() => break,
                // Its end is told by the end of the subscription, after what waits in it.
                _ = self.cuts.changed() => break,
            }
        }
        self.finish().await;
    }

    async fn take(&mut self, message: async_nats::Message) {
        if message.headers.as_ref().is_some_and(|headers| headers.get(PROBE).is_some()) {
            if let Some(reply) = message.reply {
                self.answer(reply, Some(Bytes::new())).await;
            }
            return;
        }
        let (responder, answered) = match &message.reply {
            Some(_) => {
                let (sender, receiver) = oneshot::channel();
                (Some(Responder(sender)), Some(receiver))
            }
            None => (None, None),
        };
        let subject = self.nats.strip(&message.subject).to_owned();
        let refusal = match self.queue.try_send(Message { subject, content: message.payload.into(), responder }) {
            Ok(()) => {
                if let (Some(reply), Some(answered)) = (message.reply, answered) {
                    self.answers.push(Box::pin(async move { (reply, answered.await.ok().map(Content::into_bytes)) }));
                }
                return;
            }
            Err(TrySendError::Full(_)) => ForwardRefusal::Full,
            Err(TrySendError::Closed(_)) => {
                // First of all no more of them: whoever hears that we are gone asks again at once.
                // When the client is gone, so is the subscription.
                let _ = self.subscriber.drain().await;
                ForwardRefusal::Gone
            }
        };
        if let Some(reply) = message.reply {
            self.refuse(reply, refusal).await;
        }
    }

    async fn answer(&mut self, reply: Subject, answer: Option<Bytes>) {
        let Some(answer) = answer else { return self.refuse(reply, ForwardRefusal::Dropped).await };
        if let Err(error) = self.nats.client().publish(reply, answer).await {
            // The caller hears nothing, as with any answer that is lost.
            tracing::warn!("cannot answer a request: {error}");
        }
    }

    async fn refuse(&mut self, reply: Subject, refusal: ForwardRefusal) {
        // Only a courtesy: without it whoever asked waits until its time is over.
        let _ = self.nats.client().publish_with_headers(reply, refusal.headers(), Bytes::new()).await;
    }

    /// No new messages; those that have arrived are refused, those that were handed out can still
    /// be answered.
    async fn finish(mut self) {
        let (closed, _) = mpsc::channel(1);
        self.queue = closed;
        let _ = self.subscriber.drain().await;
        while let Some(message) = self.subscriber.next().await {
            self.take(message).await;
        }
        while let Some((reply, answer)) = self.answers.next().await {
            self.answer(reply, answer).await;
        }
    }
}
