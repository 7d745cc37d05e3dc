use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use wasmill_fabric::embedded;
use wasmill_fabric::{BusError, Content, Subscription};
use wasmill_protocol::message::{HostAck, StopCause, ToHost};
use wasmill_protocol::{AttemptId, Incarnation, TaskId, TaskSpec, Term, Timestamp};
use wasmill_record::event::{Event, EventBody};
use wasmill_scheduler_core::CoreConfig;
use wasmill_scheduler_core::io::MessageOut;

use wasmill_scheduler_node::post::UNANSWERED_MAX;

use super::*;
use crate::driver::specs::SpecCache;
use crate::driver::{Driver, DriverConfig, SnapshotConfig};
use crate::read_model::ReadModel;

/// Notes what is sent, and answers nothing until it is told to.
#[derive(Default)]
struct Notes {
    sent: Mutex<Vec<ToHost>>,
    unanswered: Mutex<Vec<tokio::sync::oneshot::Sender<()>>>,
}

impl Bus for Notes {
    fn ask(&self, _: &str, content: Content, _: Duration) -> BoxFuture<'static, Result<Content, BusError>> {
        self.sent.lock().unwrap().push(content.read().unwrap());
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.unanswered.lock().unwrap().push(answer);
        async move {
            let _ = answered.await;
            Ok(Content::of(HostAck::default()))
        }
        .boxed()
    }

    fn publish(&self, _: &str, _: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn subscribe(&self, subject: &str, _: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        futures::future::ready(Err(BusError::NoSubscriber(subject.to_owned()))).boxed()
    }

    fn subscribe_shared(&self, subject: &str, _: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        futures::future::ready(Err(BusError::NoSubscriber(subject.to_owned()))).boxed()
    }

    fn payload_bytes_max(&self) -> usize {
        1 << 20
    }

    fn is_local(&self) -> bool {
        false
    }
}

impl Notes {
    /// Waits until so many messages have left.
    async fn sent(&self, count: usize) -> Vec<ToHost> {
        loop {
            let sent = self.sent.lock().unwrap().clone();
            if sent.len() >= count {
                return sent;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn attempt(number: u128) -> AttemptId {
    AttemptId { task: TaskId(uuid::Uuid::from_u128(number)), ..AttemptId::default() }
}

fn message(assign: &[u128], stop: &[u128]) -> MessageOut {
    MessageOut {
        host: "h1".into(),
        incarnation: Incarnation(1),
        term: Term(1),
        assign: assign.iter().map(|number| (attempt(*number), 0)).collect(),
        stop: stop.iter().map(|number| (attempt(*number), StopCause::Cancelled)).collect(),
    }
}

/// Tasks up to 99 are at hand; of the others nothing is known, which takes a look into the file to find out.
fn specs() -> SpecCache {
    let mut specs = SpecCache::default();
    for number in 0..100 {
        let body = EventBody::TaskSubmitted {
            task: attempt(number).task,
            spec: Arc::new(TaskSpec::default()),
            fingerprint: None,
            edges: Vec::new(),
        };
        specs.apply(&Event { at: Timestamp(1), body });
    }
    specs
}

fn posts(bus: &Arc<Notes>, dir: &std::path::Path) -> (Posts, mpsc::Receiver<DispatchResult>) {
    let fabric = embedded::open(dir).unwrap();
    let config = DriverConfig {
        node: "node".to_owned(),
        core: CoreConfig::default(),
        snapshots: SnapshotConfig::default(),
        seed: 7,
    };
    let (_, handle) = Driver::new(config, fabric, Arc::new(ReadModel::open(dir).unwrap()));
    let (results, refused) = mpsc::channel(16);
    let bus: Arc<dyn Bus> = Arc::<Notes>::clone(bus);
    (Posts::new(bus, Arc::clone(&handle.shared), results), refused)
}

#[tokio::test]
async fn f55_messages_to_a_host_keep_their_order_though_a_payload_must_be_read() {
    let (bus, dir) = (Arc::new(Notes::default()), tempfile::tempdir().unwrap());
    let (mut posts, mut refused) = posts(&bus, dir.path());
    let specs = specs();
    for number in 0..50 {
        let slow = number % 3 == 0;
        // What is not at hand and not in the file is refused; the message goes out all the same.
        let assign: &[u128] = if slow { &[number, 1_000 + number] } else { &[number] };
        posts.send(Dispatch::new(message(assign, &[]), &specs));
    }
    let sent = bus.sent(50).await;
    let order: Vec<_> = sent.iter().map(|message| message.assign[0].id).collect();
    assert_eq!(order, (0..50).map(attempt).collect::<Vec<_>>());
    bus.unanswered.lock().unwrap().clear();
    let Some(DispatchResult::Refused(host, unknown)) = refused.recv().await else { panic!("nothing is refused") };
    assert_eq!((host, unknown), ("h1".into(), vec![attempt(1_000)]));
}

#[tokio::test]
async fn f55_no_cancel_waits_behind_what_is_read() {
    let (bus, dir) = (Arc::new(Notes::default()), tempfile::tempdir().unwrap());
    let (mut posts, _refused) = posts(&bus, dir.path());
    let specs = specs();
    posts.send(Dispatch::new(message(&[1, 1_000], &[]), &specs));
    posts.send(Dispatch::new(message(&[2], &[1]), &specs));
    let sent = bus.sent(3).await;
    let shown: Vec<_> = sent.iter().map(|message| (message.assign.len(), message.stop.clone())).collect();
    assert_eq!(
        shown,
        [(0, vec![(attempt(1), StopCause::Cancelled)]), (1, vec![]), (1, vec![])],
        "the second waits, and its cancel does not"
    );
}

#[tokio::test]
async fn what_finds_no_room_is_dropped_and_what_is_forgotten_begins_anew() {
    let (bus, dir) = (Arc::new(Notes::default()), tempfile::tempdir().unwrap());
    let (mut posts, _refused) = posts(&bus, dir.path());
    let specs = specs();
    // Nothing is carried before we wait, and nothing is answered.
    for _ in 0..WAITING_MAX + 10 {
        posts.send(Dispatch::new(message(&[1], &[]), &specs));
    }
    assert_eq!(bus.sent(UNANSWERED_MAX).await.len(), UNANSWERED_MAX);
    posts.forget(&"h1".into());
    posts.send(Dispatch::new(message(&[2], &[]), &specs));
    let sent = bus.sent(UNANSWERED_MAX + 1).await;
    assert_eq!(sent.last().unwrap().assign[0].id, attempt(2));
}
