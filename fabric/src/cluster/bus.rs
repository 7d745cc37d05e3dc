//! The bus on core NATS.
//!
//! The forwarder of a subscription says in a header of an empty answer what NATS does not say:
//! that its queue is full, that nobody reads it any more, or that the request was dropped.

mod forward;

use std::time::Duration;

use async_nats::{Request, RequestError, RequestErrorKind};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::forward::{Forward, ForwardRefusal};
use super::error::chain;
use super::nats::Nats;
use crate::{Bus, BusError, Content, Subscription};

/// How long a subscription may take to be known to the server, and a publication to leave.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// While an answer is waited for, it is asked this often whether anybody subscribes still.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// How often a request is sent while those who answer subscribe no longer.
const ASKED_AGAIN_MAX: u32 = 4;
/// All control nodes that share a subject are one group.
const SHARED: &str = "shared";

/// Messages over one connection.
pub(super) struct ClusterBus {
    nats: Nats,
}

impl ClusterBus {
    pub(super) fn new(nats: Nats) -> Self {
        Self { nats }
    }

    /// Whether a message can be sent now at all.
    fn admit(&self, subject: &str, payload: &Bytes) -> Result<(), BusError> {
        let bytes_max = self.payload_bytes_max();
        if payload.len() > bytes_max {
            return Err(BusError::TooLarge { subject: subject.to_owned(), bytes: payload.len(), bytes_max });
        }
        if !is_subject(subject) {
            return Err(BusError::NoSubscriber(subject.to_owned()));
        }
        if !self.nats.is_connected() {
            return Err(BusError::Unreachable("not connected to NATS".to_owned()));
        }
        Ok(())
    }

    fn subscribe_in(
        &self,
        subject: &str,
        capacity: usize,
        group: Option<&'static str>,
    ) -> BoxFuture<'static, Result<Subscription, BusError>> {
        let (nats, subject) = (self.nats.clone(), subject.to_owned());
        async move {
            let failed = |reason| BusError::Unreachable(format!("cannot subscribe to `{subject}`: {reason}"));
            // Losses from here on are noticed.
            let cuts = nats.cuts();
            let full = nats.subject(&subject);
            let subscribing = async {
                let subscriber = match group {
                    None => nats.client().subscribe(full).await,
                    Some(group) => nats.client().queue_subscribe(full, group.to_owned()).await,
                };
                let subscriber = subscriber.map_err(|error| failed(chain(&error)))?;
                // Others may send as soon as we return, over other connections.
                round_trip(&nats).await.map_err(|error| failed(chain(&error)))?;
                Ok(subscriber)
            };
            let subscriber =
                timeout(SERVER_TIMEOUT, subscribing).await.unwrap_or_else(|_| Err(failed("no answer".to_owned())))?;
            let (queue, subscription) = mpsc::channel(capacity.max(1));
            tokio::spawn(Forward::new(nats, subscriber, queue, cuts).run());
            Ok(subscription)
        }
        .boxed()
    }
}

impl Bus for ClusterBus {
    fn ask(&self, subject: &str, content: Content, timeout: Duration) -> BoxFuture<'static, Result<Content, BusError>> {
        let payload = content.into_bytes();
        let admitted = self.admit(subject, &payload);
        let (nats, subject) = (self.nats.clone(), subject.to_owned());
        async move {
            admitted?;
            let mut cuts = nats.cuts();
            tokio::select! {
                answer = ask(&nats, &subject, payload, timeout) => answer.map(Content::from),
                () = until_nobody(&nats, &subject) => Err(BusError::NoSubscriber(subject.clone())),
                // The answer would have come over the connection that is lost.
                _ = cuts.changed() => Err(BusError::NoAnswer(subject.clone())),
                // The time for the answer counts from when the request was sent, which can take as
                // long again.
                () = tokio::time::sleep(timeout) => Err(BusError::NoAnswer(subject.clone())),
            }
        }
        .boxed()
    }

    fn publish(&self, subject: &str, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        let admitted = match self.admit(subject, &payload) {
            // Nobody can subscribe to what is no subject, so everybody who does has it.
            Err(BusError::NoSubscriber(_)) => return futures::future::ready(Ok(())).boxed(),
            admitted => admitted,
        };
        let (client, subject) = (self.nats.client().clone(), self.nats.subject(subject));
        async move {
            admitted?;
            match timeout(SERVER_TIMEOUT, client.publish(subject, payload)).await {
                Ok(published) => published.map_err(|error| BusError::Unreachable(chain(&error))),
                Err(_) => Err(BusError::Unreachable("the connection to NATS does not take messages".to_owned())),
            }
        }
        .boxed()
    }

    fn subscribe(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        self.subscribe_in(subject, capacity, None)
    }

    fn subscribe_shared(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        self.subscribe_in(subject, capacity, Some(SHARED))
    }

    fn payload_bytes_max(&self) -> usize {
        self.nats.client().max_payload()
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// Asks once, and again when somebody has answered who does not subscribe any more: there may be
/// others.
async fn ask(nats: &Nats, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
    let gone = || BusError::NoSubscriber(subject.to_owned());
    for _ in 0..ASKED_AGAIN_MAX {
        let request = Request::new().payload(payload.clone()).timeout(Some(timeout));
        let answer = match nats.client().send_request(nats.subject(subject), request).await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders | RequestErrorKind::InvalidSubject => gone(),
                    RequestErrorKind::TimedOut => BusError::NoAnswer(subject.to_owned()),
                    RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::Other => {
                        BusError::Unreachable(chain(&error))
                    }
                });
            }
        };
        match ForwardRefusal::of(&answer) {
            None => return Ok(answer.payload),
            Some(ForwardRefusal::Full) => return Err(BusError::Full(subject.to_owned())),
            Some(ForwardRefusal::Dropped) => return Err(BusError::NoAnswer(subject.to_owned())),
            Some(ForwardRefusal::Gone) => {}
        }
    }
    Err(gone())
}

/// Ends when nobody subscribes any more. A request that arrives just as its subscriber leaves is
/// lost, and nobody says so.
async fn until_nobody(nats: &Nats, subject: &str) {
    loop {
        tokio::time::sleep(PROBE_INTERVAL).await;
        let probe = Request::new().headers(forward::probe()).timeout(Some(SERVER_TIMEOUT));
        let answer = nats.client().send_request(nats.subject(subject), probe).await;
        if answer.is_err_and(|error| error.kind() == RequestErrorKind::NoResponders) {
            return;
        }
    }
}

/// Whether a subject names one thing: no pattern, no empty part.
fn is_subject(subject: &str) -> bool {
    subject.split('.').all(|part| {
        !part.is_empty() && part != "*" && part != ">" && !part.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

/// Waits until the server has done everything that was sent before.
async fn round_trip(nats: &Nats) -> Result<(), RequestError> {
    let client = nats.client();
    // Nobody listens there, which the server says at once.
    let request = Request::new().timeout(Some(SERVER_TIMEOUT));
    match client.send_request(client.new_inbox(), request).await {
        Err(error) if error.kind() != RequestErrorKind::NoResponders => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_name_one_thing() {
        for subject in ["a", "a.b", "host.host-1", "a.*b"] {
            assert!(is_subject(subject), "{subject}");
        }
        for subject in ["", ".", "a.", ".a", "a..b", "a.*", ">", "a b", "a\r\nPUB x"] {
            assert!(!is_subject(subject), "{subject}");
        }
    }
}
