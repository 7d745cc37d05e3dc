//! The bus inside one process: a bounded queue for each subscription.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::{Bus, BusError, Message, Responder, Subscription};

/// Messages stay in the process, so this is a bound and not a cost.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

type Subscribers = HashMap<String, Subscribed>;

/// Who subscribes to one subject.
#[derive(Default)]
struct Subscribed {
    /// Each gets every message.
    each: Vec<mpsc::Sender<Message>>,
    /// One of them gets each message: the first, which then goes to the end of the line.
    shared: VecDeque<mpsc::Sender<Message>>,
}

impl Subscribed {
    /// The queues that the next message goes to; `None` when nobody subscribes any more.
    fn next(&mut self) -> Option<Vec<mpsc::Sender<Message>>> {
        self.each.retain(|queue| !queue.is_closed());
        self.shared.retain(|queue| !queue.is_closed());
        let mut queues = self.each.clone();
        if let Some(queue) = self.shared.pop_front() {
            self.shared.push_back(queue.clone());
            queues.push(queue);
        }
        (!queues.is_empty()).then_some(queues)
    }
}

/// Hands messages from queue to queue; the payload is never copied.
#[derive(Default)]
pub(super) struct EmbeddedBus {
    subscribers: Mutex<Subscribers>,
}

impl EmbeddedBus {
    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        // Nothing panics while it holds this lock, and the map is whole between any two of its operations.
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queues of those that still subscribe, by the whole subject or by all of it but the last part.
    fn queues(&self, subject: &str) -> Vec<mpsc::Sender<Message>> {
        let mut subscribers = self.subscribers();
        let pattern = match subject.rsplit_once('.') {
            Some((head, _)) => format!("{head}.*"),
            None => "*".to_owned(),
        };
        let mut found = Vec::new();
        for name in [subject, &pattern] {
            let Some(subscribed) = subscribers.get_mut(name) else { continue };
            match subscribed.next() {
                Some(queues) => found.extend(queues),
                None => drop(subscribers.remove(name)),
            }
        }
        found
    }

    fn send_request(&self, subject: &str, payload: Bytes) -> Result<oneshot::Receiver<Bytes>, BusError> {
        let queues = self.queues(subject);
        let queue = queues.first().ok_or_else(|| BusError::NoSubscriber(subject.to_owned()))?;
        let (responder, answered) = oneshot::channel();
        let message = Message { subject: subject.to_owned(), payload, responder: Some(Responder(responder)) };
        match queue.try_send(message) {
            Ok(()) => Ok(answered),
            Err(TrySendError::Full(_)) => Err(BusError::Full(subject.to_owned())),
            Err(TrySendError::Closed(_)) => Err(BusError::NoSubscriber(subject.to_owned())),
        }
    }
}

fn fits(subject: &str, payload: &Bytes) -> Result<(), BusError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        let (subject, bytes) = (subject.to_owned(), payload.len());
        return Err(BusError::TooLarge { subject, bytes, bytes_max: PAYLOAD_BYTES_MAX });
    }
    Ok(())
}

impl Bus for EmbeddedBus {
    fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> BoxFuture<'static, Result<Bytes, BusError>> {
        let sent = fits(subject, &payload).and_then(|()| self.send_request(subject, payload));
        let subject = subject.to_owned();
        async move {
            match tokio::time::timeout(timeout, sent?).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) | Err(_) => Err(BusError::NoAnswer(subject)),
            }
        }
        .boxed()
    }

    fn publish(&self, subject: &str, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        if let Err(error) = fits(subject, &payload) {
            return future::ready(Err(error)).boxed();
        }
        for queue in self.queues(subject) {
            // A subscriber without room misses the message: that is the contract.
            let _ = queue.try_send(Message { subject: subject.to_owned(), payload: payload.clone(), responder: None });
        }
        future::ready(Ok(())).boxed()
    }

    fn subscribe(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        let (queue, subscription) = mpsc::channel(capacity.max(1));
        let mut subscribers = self.subscribers();
        let each = &mut subscribers.entry(subject.to_owned()).or_default().each;
        each.retain(|queue| !queue.is_closed());
        each.push(queue);
        future::ready(Ok(subscription)).boxed()
    }

    fn subscribe_shared(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        let (queue, subscription) = mpsc::channel(capacity.max(1));
        let mut subscribers = self.subscribers();
        let shared = &mut subscribers.entry(subject.to_owned()).or_default().shared;
        shared.retain(|queue| !queue.is_closed());
        shared.push_back(queue);
        future::ready(Ok(subscription)).boxed()
    }

    fn payload_bytes_max(&self) -> usize {
        PAYLOAD_BYTES_MAX
    }
}
