//! The bus inside one process: a bounded queue for each subscription.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::{Bus, BusError, Content, Message, Responder, Subscription};

/// Messages stay in the process, so this is a bound and not a cost.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The subscribers of one subject.
#[derive(Default)]
struct Subscribers {
    /// Each gets every message.
    alone: Vec<mpsc::Sender<Message>>,
    /// One of them gets each message.
    shared: Vec<mpsc::Sender<Message>>,
}

/// Queues of which one takes a message: the first that has room.
type Group = Vec<mpsc::Sender<Message>>;

/// Hands messages from queue to queue; the payload is never copied.
#[derive(Default)]
pub(super) struct EmbeddedBus {
    subjects: Mutex<HashMap<String, Subscribers>>,
}

impl Subscribers {
    /// Forgets those that subscribe no longer; whether any is left.
    fn retain_open(&mut self) -> bool {
        self.alone.retain(|queue| !queue.is_closed());
        self.shared.retain(|queue| !queue.is_closed());
        !self.alone.is_empty() || !self.shared.is_empty()
    }

    fn groups(&mut self) -> impl Iterator<Item = Group> {
        if !self.shared.is_empty() {
            // Another one is asked first each time.
            self.shared.rotate_left(1);
        }
        let shared = (!self.shared.is_empty()).then(|| self.shared.clone());
        self.alone.iter().map(|queue| vec![queue.clone()]).chain(shared)
    }
}

impl EmbeddedBus {
    fn subjects(&self) -> MutexGuard<'_, HashMap<String, Subscribers>> {
        // Nothing panics while it holds this lock, and the map is whole between any two of its
        // operations.
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queues of those that still subscribe, by the whole subject or by all of it but the last
    /// part.
    fn groups(&self, subject: &str) -> Vec<Group> {
        let mut subjects = self.subjects();
        let pattern = match subject.rsplit_once('.') {
            Some((head, _)) => format!("{head}.*"),
            None => "*".to_owned(),
        };
        let mut found = Vec::new();
        for name in [subject, &pattern] {
            let Some(subscribers) = subjects.get_mut(name) else { continue };
            if subscribers.retain_open() {
                found.extend(subscribers.groups());
            } else {
                subjects.remove(name);
            }
        }
        found
    }

    fn send_request(&self, subject: &str, content: Content) -> Result<oneshot::Receiver<Content>, BusError> {
        let groups = self.groups(subject);
        let group = groups.first().ok_or_else(|| BusError::NoSubscriber(subject.to_owned()))?;
        let (responder, answered) = oneshot::channel();
        let message = Message { subject: subject.to_owned(), content, responder: Some(Responder(responder)) };
        match offer(group, message) {
            Ok(()) => Ok(answered),
            Err(TrySendError::Full(_)) => Err(BusError::Full(subject.to_owned())),
            Err(TrySendError::Closed(_)) => Err(BusError::NoSubscriber(subject.to_owned())),
        }
    }

    fn add(
        &self,
        subject: &str,
        capacity: usize,
        side: impl FnOnce(&mut Subscribers) -> &mut Vec<mpsc::Sender<Message>>,
    ) -> BoxFuture<'static, Result<Subscription, BusError>> {
        let (queue, subscription) = mpsc::channel(capacity.max(1));
        let mut subjects = self.subjects();
        let subscribers = subjects.entry(subject.to_owned()).or_default();
        subscribers.retain_open();
        side(subscribers).push(queue);
        future::ready(Ok(subscription)).boxed()
    }
}

/// Gives a message to the first queue of a group that has room.
fn offer(group: &Group, mut message: Message) -> Result<(), TrySendError<Message>> {
    let mut full = false;
    for queue in group {
        message = match queue.try_send(message) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(message)) => {
                full = true;
                message
            }
            Err(TrySendError::Closed(message)) => message,
        };
    }
    Err(if full { TrySendError::Full(message) } else { TrySendError::Closed(message) })
}

fn fits(subject: &str, bytes: usize) -> Result<(), BusError> {
    if bytes > PAYLOAD_BYTES_MAX {
        let subject = subject.to_owned();
        return Err(BusError::TooLarge { subject, bytes, bytes_max: PAYLOAD_BYTES_MAX });
    }
    Ok(())
}

impl Bus for EmbeddedBus {
    fn ask(&self, subject: &str, content: Content, timeout: Duration) -> BoxFuture<'static, Result<Content, BusError>> {
        let fits = fits(subject, content.encoded_bytes().unwrap_or(0));
        let sent = fits.and_then(|()| self.send_request(subject, content));
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
        if let Err(error) = fits(subject, payload.len()) {
            return future::ready(Err(error)).boxed();
        }
        for group in self.groups(subject) {
            // A subscriber without room misses the message: that is the contract.
            let content = payload.clone().into();
            let _ = offer(&group, Message { subject: subject.to_owned(), content, responder: None });
        }
        future::ready(Ok(())).boxed()
    }

    fn subscribe(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        self.add(subject, capacity, |subscribers| &mut subscribers.alone)
    }

    fn subscribe_shared(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        self.add(subject, capacity, |subscribers| &mut subscribers.shared)
    }

    fn payload_bytes_max(&self) -> usize {
        PAYLOAD_BYTES_MAX
    }

    fn is_local(&self) -> bool {
        true
    }
}
