//! A node's ways to the log and to others, with the limits of a usual NATS server, and with faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::watch;
use wasmill_fabric::log::Broken;
use wasmill_fabric::{AppendError, Bus, BusError, Content, Log, LogError, LogTail, LogWriter, Subscription};
use wasmill_protocol::message::control::{ControlCall, ControlRequest};
use wasmill_protocol::{LogSeq, Timestamp};

/// The largest payload of a NATS server by default.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// The record that fits beside the headers into such a message.
const RECORD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - 1024;

/// The fate of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Appends {
    Pass,
    /// They never reach the log.
    Vanish,
    /// They are durable, and nobody hears of it.
    Unheard,
    /// There is no space for them.
    Full,
    /// There is space for them, and no room for more.
    Nearly,
}

/// Everything passes until it is told otherwise.
pub(crate) struct LogFaults {
    log: Arc<dyn Log>,
    cut: watch::Sender<bool>,
    held: watch::Sender<Option<LogSeq>>,
    appends: watch::Sender<Appends>,
    /// How many appends were never answered.
    unanswered: watch::Sender<u64>,
    /// How often it was asked where it ends, for somebody who looked for something.
    glances: AtomicU64,
    /// How far the clocks of the servers that keep the log are ahead of this machine's, in seconds;
    /// `None` when this process keeps it.
    servers_ahead_s: watch::Sender<Option<i64>>,
}

/// The appends of one leadership.
struct WriterFaults {
    writer: Box<dyn LogWriter>,
    cut: watch::Receiver<bool>,
    appends: watch::Receiver<Appends>,
    unanswered: watch::Sender<u64>,
    broken: Broken,
}

impl LogFaults {
    pub(crate) fn new(log: Arc<dyn Log>, servers_ahead_s: Option<i64>) -> Self {
        Self {
            log,
            cut: watch::Sender::new(false),
            held: watch::Sender::new(None),
            appends: watch::Sender::new(Appends::Pass),
            unanswered: watch::Sender::new(0),
            glances: AtomicU64::new(0),
            servers_ahead_s: watch::Sender::new(servers_ahead_s),
        }
    }

    /// The clocks of the servers are set right.
    pub(crate) fn set_clocks(&self) {
        self.servers_ahead_s.send_replace(Some(0));
    }

    /// There is no space for appends from now on.
    pub(crate) fn fill(&self) {
        self.appends.send_replace(Appends::Full);
    }

    /// There is space for what is appended from now on, and no room for more.
    pub(crate) fn fill_nearly(&self) {
        self.appends.send_replace(Appends::Nearly);
    }

    /// The log is out of reach.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Records after this one do not come.
    pub(crate) fn hold_after(&self, last: LogSeq) {
        self.held.send_replace(Some(last));
    }

    /// Appends from now on are sent and never arrive.
    pub(crate) fn lose_appends(&self) {
        self.appends.send_replace(Appends::Vanish);
    }

    /// Appends from now on arrive, and their acknowledgements are lost.
    pub(crate) fn lose_acknowledgements(&self) {
        self.appends.send_replace(Appends::Unheard);
    }

    /// Waits until an append was made that is never answered.
    pub(crate) async fn unanswered(&self) {
        self.unanswered.subscribe().wait_for(|count| *count > 0).await.unwrap();
    }

    /// How often it was asked where it ends, for somebody who looked for something.
    pub(crate) fn glances(&self) -> u64 {
        self.glances.load(Ordering::Relaxed)
    }

    /// Everything passes again, first of all what was held back.
    pub(crate) fn heal(&self) {
        self.cut.send_replace(false);
        self.held.send_replace(None);
        self.appends.send_replace(Appends::Pass);
    }

    fn reachable(&self, action: &'static str) -> Result<(), LogError> {
        if *self.cut.borrow() { Err(LogError::Unreachable { action, reason: "cut".to_owned() }) } else { Ok(()) }
    }
}

impl LogWriter for WriterFaults {
    fn append(&self, expected_last: LogSeq, record: Bytes) -> BoxFuture<'static, Result<LogSeq, AppendError>> {
        let (bytes, bytes_max) = (record.len(), RECORD_BYTES_MAX);
        let passes = self.broken.check(expected_last).and_then(|()| match *self.cut.borrow() {
            _ if bytes > bytes_max => Err(AppendError::TooLarge { bytes, bytes_max }),
            true => Err(AppendError::Unreachable { seq: expected_last.next(), reason: "cut".to_owned() }),
            false => Ok(()),
        });
        if let Err(error) = passes {
            return future::ready(Err(self.broken.after(expected_last, error))).boxed();
        }
        let appends = *self.appends.borrow();
        if appends == Appends::Full {
            let full = self.broken.after(expected_last, AppendError::NoSpace { seq: expected_last.next() });
            return future::ready(Err(full)).boxed();
        }
        if !matches!(appends, Appends::Pass | Appends::Nearly) {
            self.unanswered.send_modify(|count| *count += 1);
        }
        match appends {
            Appends::Pass | Appends::Nearly => self.writer.append(expected_last, record),
            Appends::Unheard => self.writer.append(expected_last, record).then(|_| future::pending()).boxed(),
            Appends::Vanish | Appends::Full => future::pending().boxed(),
        }
    }
}

impl Log for LogFaults {
    fn writer(&self) -> Box<dyn LogWriter> {
        Box::new(WriterFaults {
            writer: self.log.writer(),
            cut: self.cut.subscribe(),
            appends: self.appends.subscribe(),
            unanswered: self.unanswered.clone(),
            broken: Broken::default(),
        })
    }

    fn last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        async { self.reachable("find the end of").and(self.log.last_seq().await) }.boxed()
    }

    fn glance_last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        self.glances.fetch_add(1, Ordering::Relaxed);
        self.last_seq()
    }

    fn first_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        async { self.reachable("find the beginning of").and(self.log.first_seq().await) }.boxed()
    }

    /// As over a network: a reader that is cut off hears nothing, and goes on by itself afterwards.
    fn tail(&self, from: LogSeq) -> LogTail {
        let (cut, held) = (self.cut.subscribe(), self.held.subscribe());
        stream::unfold((self.log.tail(from), cut, held), |(mut tail, mut cut, mut held)| async move {
            let next = tail.next().await?;
            let seq = next.as_ref().map_or(LogSeq(0), |(seq, _)| *seq);
            let holds = |held: &Option<LogSeq>| held.is_some_and(|last| seq > last);
            while *cut.borrow() || holds(&held.borrow()) {
                cut.wait_for(|cut| !cut).await.ok()?;
                held.wait_for(|held| !holds(held)).await.ok()?;
            }
            Some((next, (tail, cut, held)))
        })
        .boxed()
    }

    fn has_room(&self) -> BoxFuture<'_, bool> {
        let full = matches!(*self.appends.borrow(), Appends::Nearly);
        std::future::ready(!full).boxed()
    }

    fn trim(&self, to: LogSeq) -> BoxFuture<'_, Result<(), LogError>> {
        self.log.trim(to)
    }

    fn record_bytes_max(&self) -> usize {
        RECORD_BYTES_MAX
    }

    fn servers_time(&self) -> Option<BoxFuture<'_, Result<Option<Timestamp>, LogError>>> {
        let ahead_us = (*self.servers_ahead_s.borrow())? * 1_000_000;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now_us = u64::try_from(now.as_micros()).unwrap();
        let time = Timestamp(now_us.saturating_add_signed(ahead_us));
        Some(future::ready(self.reachable("ask for the time of").map(|()| Some(time))).boxed())
    }
}

/// A bus that carries no more in one message than a NATS server, and loses answers of leaders when
/// it is told to.
pub(crate) struct SmallBus {
    bus: Arc<dyn Bus>,
    /// So many of the next commands are heard, and their answers lost.
    losing: Arc<AtomicU64>,
}

impl SmallBus {
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Self {
        Self { bus, losing: Arc::default() }
    }

    /// The answers to the next commands are lost, as when the connection is cut between a request
    /// and its answer.
    pub(crate) fn lose_answers(&self, count: u64) {
        self.losing.store(count, Ordering::Relaxed);
    }

    /// How many are still to be lost.
    pub(crate) fn losing(&self) -> u64 {
        self.losing.load(Ordering::Relaxed)
    }
}

/// Whether a leader is asked for something that changes something, or is only asked whether it is
/// there.
fn changes(subject: &str, payload: &Bytes) -> bool {
    let call = || rmp_serde::from_slice::<ControlCall>(payload).ok();
    subject.starts_with("commands.") && call().is_some_and(|call| matches!(call.request, ControlRequest::Commands(_)))
}

fn fits(subject: &str, payload: &Bytes) -> Result<(), BusError> {
    let (bytes, bytes_max) = (payload.len(), PAYLOAD_BYTES_MAX);
    if bytes <= bytes_max { Ok(()) } else { Err(BusError::TooLarge { subject: subject.to_owned(), bytes, bytes_max }) }
}

impl Bus for SmallBus {
    fn ask(&self, subject: &str, content: Content, timeout: Duration) -> BoxFuture<'static, Result<Content, BusError>> {
        let payload = content.into_bytes();
        if let Err(error) = fits(subject, &payload) {
            return future::ready(Err(error)).boxed();
        }
        let one_less = |count: u64| count.checked_sub(1);
        let is_lost = changes(subject, &payload)
            && self.losing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        let (answer, subject) = (self.bus.request(subject, payload, timeout), subject.to_owned());
        async move {
            let answer = answer.await;
            if is_lost {
                return Err(BusError::NoAnswer(subject));
            }
            // An answer that is too large never comes.
            answer.and_then(|answer| fits(&subject, &answer).map(|()| answer.into()))
        }
        .boxed()
    }

    fn publish(&self, subject: &str, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        match fits(subject, &payload) {
            Ok(()) => self.bus.publish(subject, payload),
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }

    fn subscribe(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        self.bus.subscribe(subject, capacity)
    }

    fn subscribe_shared(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        self.bus.subscribe_shared(subject, capacity)
    }

    fn payload_bytes_max(&self) -> usize {
        PAYLOAD_BYTES_MAX
    }

    fn is_local(&self) -> bool {
        false
    }
}
