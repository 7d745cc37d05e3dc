//! One leadership: from `TermStarted` until it is lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use wasmill_fabric::{AppendError, HostEvent, Leadership, LogWriter, Message, Responder, Subscription};
use wasmill_protocol::command::Refusal;
use wasmill_protocol::event::{Event, EventBody};
use wasmill_protocol::message::{FromHost, Heartbeat, ReportAck, control, subjects};
use wasmill_protocol::record::Record;
use wasmill_protocol::{Digest, LogSeq, Term};
use wasmill_scheduler_core::Core;
use wasmill_scheduler_core::clock::Verdict;
use wasmill_scheduler_core::io::{Counters, Input, Ready, ReplyTo};

use super::dispatch::{Dispatch, DispatchResult, encode};
use super::fold::{Fold, hash, keys_are_in_read_model_to, publish_now};
use super::forward;
use super::keeper::Keeper;
use super::log_watch::{LogNews, LogWatch};
use super::post::Posts;
use super::specs::SpecCache;
use super::stored::{self, StoredQuotas};
use super::trace::Traced;
use super::waits::Waits;
use super::{DriverConfig, DriverError, Ground, LeadershipEnd};
use crate::handle::{Overview, Request, Shared};
use crate::snapshot::Chain;

/// Appends that are under way at once: one is being synced while the next waits for it, and what happens meanwhile gathers.
const APPENDS_IN_FLIGHT_MAX: usize = 2;
/// Requests that are taken at once before the log is served again.
const REQUESTS_AT_ONCE: usize = 256;
/// Messages of hosts that are taken at once.
const HOST_MESSAGES_AT_ONCE: usize = 64;
/// Messages of hosts that wait at most; hosts send again what is lost.
const HOST_MESSAGES_WAITING_MAX: usize = 1024;
/// What a record has beside what a host has reported.
const REPORT_AROUND_BYTES: usize = 4 * 1024;
/// Requests of other control nodes that wait at most.
const FORWARDED_WAITING_MAX: usize = 1024;
/// Results of dispatches that wait at most.
const DISPATCH_RESULTS_WAITING_MAX: usize = 1024;
/// The longest time without a tick of the core.
const TICK_MAX: Duration = Duration::from_secs(1);

/// The core while it leads, and what is under way.
pub(super) struct Leader<'a> {
    core: Core,
    ground: &'a Ground,
    shared: &'a Arc<Shared>,
    node: &'a str,
    term: Term,
    chain: Chain,
    writer: Box<dyn LogWriter>,
    keeper: Keeper,
    appends: FuturesOrdered<BoxFuture<'static, (Result<LogSeq, AppendError>, Effects)>>,
    waits: Waits,
    responders: HashMap<ReplyTo, Responder>,
    heard: forward::HeardBefore,
    specs: SpecCache,
    stored: StoredQuotas,
    /// Blobs that hosts have named since the last append.
    blobs_named: Vec<Digest>,
    posts: Posts,
    /// Who asked what is going on.
    overviews: Vec<oneshot::Sender<Overview>>,
    /// Nothing more is taken in: leadership ends when what was decided is durable.
    ending: bool,
}

/// What waits for a record to be durable.
#[derive(Default)]
struct Effects {
    record: Option<Arc<Record>>,
    ready: Ready,
    traced: Traced,
    overviews: Vec<(oneshot::Sender<Overview>, Overview)>,
    /// When the record was handed to the log, and its bytes.
    sent: Option<(Instant, usize)>,
    /// Blobs that may be named by nothing that is durable: those of reports that change nothing.
    blobs: Vec<Digest>,
}

/// What a leader hears over the bus. A subscription that ends has lost messages and is made anew: whoever sent them sends again.
struct Ears {
    reports: Subscription,
    heartbeats: Subscription,
    forwarded: Subscription,
}

impl<'a> Leader<'a> {
    /// A leader that has not begun.
    pub(super) fn new(
        config: &'a DriverConfig,
        ground: &'a Ground,
        shared: &'a Arc<Shared>,
        fold: Fold,
        term: Term,
    ) -> Result<Self, DriverError> {
        let seen = fold.state.term();
        if term <= seen {
            return Err(DriverError::TermRegressed { term, seen });
        }
        // Nonces are drawn from it: two leaderships of one process must not draw the same ones.
        let seed = config.seed.wrapping_add(term.0);
        // Replaced by `lead`, which holds the other end.
        let posts = Posts::new(Arc::clone(&ground.bus), Arc::clone(shared), mpsc::channel(1).0);
        let keeper = Keeper::new(&config.snapshots, ground, shared, fold.state.current(), fold.unusable);
        Ok(Self {
            core: Core::new(seed, config.core.clone(), fold.state),
            ground,
            shared,
            node: &config.node,
            term,
            chain: fold.chain,
            writer: ground.log.writer(),
            keeper,
            appends: FuturesOrdered::new(),
            waits: Waits::default(),
            responders: HashMap::new(),
            heard: forward::HeardBefore::default(),
            specs: SpecCache::default(),
            stored: StoredQuotas::default(),
            blobs_named: Vec::new(),
            posts,
            overviews: Vec::new(),
            ending: false,
        })
    }

    /// Leads until leadership is lost or `shutdown`.
    pub(super) async fn lead(
        mut self,
        requests: &mut mpsc::Receiver<Request>,
        published: &mut LogSeq,
        leadership: &Leadership,
        shutdown: &CancellationToken,
    ) -> Result<LeadershipEnd, DriverError> {
        let led = self.lead_on(requests, published, leadership, shutdown).await;
        self.keeper.stop().await;
        led
    }

    async fn lead_on(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
        published: &mut LogSeq,
        leadership: &Leadership,
        shutdown: &CancellationToken,
    ) -> Result<LeadershipEnd, DriverError> {
        tracing::info!(term = %self.term, node = self.node, "this node leads");
        let mut ears = listen(self.ground, self.term).await?;
        let mut hosts = self.ground.membership.hosts();
        let (sender, mut dispatched) = mpsc::channel(DISPATCH_RESULTS_WAITING_MAX);
        self.posts = Posts::new(Arc::clone(&self.ground.bus), Arc::clone(self.shared), sender);
        let mut lost = leadership.lost.clone();
        let mut log_watch = LogWatch::new(&*self.ground.log);
        let (mut asked, mut forwarded, mut reported) = (Vec::new(), Vec::new(), Vec::new());
        self.shared.clock.begin_term(self.core.state().time());
        let mut clock = self.shared.clock.verdicts();
        let (passed_us, uptime) = self.shared.clock.measured();
        self.step(Input::Lead { term: self.term, node: self.node.to_owned(), passed_us, uptime });
        loop {
            self.append_ready();
            if self.ending && self.appends.is_empty() {
                return Ok(LeadershipEnd::Lost);
            }
            let timeout = self.timeout();
            tokio::select! {
                Some((appended, effects)) = self.appends.next(), if !self.appends.is_empty() => {
                    let is_record = effects.record.is_some();
                    if let Some(end) = self.durable(appended, effects, published)? {
                        return Ok(end);
                    }
                    if is_record { log_watch.heard(); }
                }
                news = log_watch.news() => if self.is_replaced(news) { return Ok(LeadershipEnd::Lost) },
                () = shutdown.cancelled(), if self.appends.is_empty() => return Ok(LeadershipEnd::Shutdown),
                () = time_ends(&mut clock), if !self.ending => {
                    tracing::warn!(term = %self.term, "leadership ends: its time cannot go on by the clock of this machine");
                    self.ending = true;
                }
                () = ended(&mut lost) => {
                    tracing::warn!(term = %self.term, "leadership is lost: the lease has ended");
                    return Ok(LeadershipEnd::Lost);
                }
                count = ears.reports.recv_many(&mut reported, HOST_MESSAGES_AT_ONCE), if self.may_gather() => {
                    if count == 0 { ears = listen(self.ground, self.term).await?; }
                    reported.drain(..).for_each(|message| self.reported(message));
                }
                count = requests.recv_many(&mut asked, REQUESTS_AT_ONCE), if self.may_gather() => {
                    if count == 0 { return Ok(LeadershipEnd::Shutdown); }
                    asked.drain(..).for_each(|request| self.asked(request));
                }
                count = ears.forwarded.recv_many(&mut forwarded, REQUESTS_AT_ONCE), if self.may_gather() => {
                    if count == 0 { ears = listen(self.ground, self.term).await?; }
                    forwarded.drain(..).for_each(|message| self.forwarded(message));
                }
                Some(kept) = self.keeper.next() => kept.into_iter().for_each(|input| self.step(input)),
                message = ears.heartbeats.recv() => match message {
                    Some(message) => self.heartbeat(&message),
                    None => ears = listen(self.ground, self.term).await?,
                },
                Some(event) = hosts.next() => self.host_changed(event),
                Some(result) = dispatched.recv() => match result {
                    DispatchResult::Refused(host, attempts) => self.step(Input::AssignRefused { host, attempts }),
                    DispatchResult::TermSeen(term) if term > self.term => {
                        tracing::warn!(term = %self.term, seen = %term, "leadership is lost: a host knows a later term");
                        return Ok(LeadershipEnd::Lost);
                    }
                    DispatchResult::TermSeen(_) => {}
                },
                () = tokio::time::sleep(timeout) => {
                    self.tell_stored();
                    self.step(Input::Tick);
                }
            }
        }
    }

    /// Whether somebody else leads, or may: a leader that has nothing to append would not notice otherwise.
    fn is_replaced(&self, news: LogNews) -> bool {
        match news {
            LogNews::Silent => false,
            LogNews::EndsAt(last) if last <= self.chain.last => false,
            LogNews::EndsAt(last) => {
                let appended = self.chain.last;
                tracing::warn!(term = %self.term, %appended, %last, "leadership is lost: somebody else has appended");
                true
            }
            LogNews::Gone => {
                tracing::warn!(term = %self.term, "leadership is given up: others may reach the log");
                true
            }
        }
    }

    fn step(&mut self, input: Input) {
        self.core.step(self.shared.clock.now(), input);
    }

    /// Tells the core which tenants have used up their quota of stored bytes.
    fn tell_stored(&mut self) {
        for input in self.stored.news(self.shared) {
            self.step(input);
        }
    }

    /// Whether more work may be taken in: the log must keep up, or what has gathered would grow without bound.
    fn may_gather(&self) -> bool {
        const EVENTS_GATHERED_MAX: usize = 32 * 1024;
        if self.ending {
            return false;
        }
        self.appends.len() < APPENDS_IN_FLIGHT_MAX || self.core.events_ready() < EVENTS_GATHERED_MAX
    }

    fn timeout(&self) -> Duration {
        if self.appends.len() >= APPENDS_IN_FLIGHT_MAX {
            // What is due could not be written: the end of an append wakes us.
            return TICK_MAX;
        }
        let now = self.shared.clock.now();
        let next = self.core.next_timeout().map_or(u64::MAX, |at| at.us_since(now));
        Duration::from_micros(next).min(TICK_MAX)
    }

    fn asked(&mut self, request: Request) {
        match request {
            Request::Command(command, answer) => {
                let reply_to = self.waits.one(answer);
                self.step(Input::Command { reply_to, command: *command });
            }
            Request::Commands(commands, answer) => {
                let first = self.waits.batch(commands.len(), answer);
                for (reply_to, command) in (first..).map(ReplyTo).zip(commands) {
                    self.step(Input::Command { reply_to, command });
                }
            }
            Request::Check(command, answer) => drop(answer.send(self.core.refusal(&command))),
            Request::Explain(tasks, answer) => {
                let now = self.shared.clock.now();
                let _ = answer.send(self.core.explain_all(&tasks, now));
            }
            Request::Overview(answer) => self.overviews.push(answer),
            Request::Load(answer) => drop(answer.send(self.core.state().load())),
        }
    }

    /// Another node asks for its clients.
    fn forwarded(&mut self, message: Message) {
        let Some(responder) = message.responder else { return };
        let bytes_max = self.ground.bus.payload_bytes_max();
        if let Some(received) = forward::received(&message.payload, responder, &mut self.heard, bytes_max) {
            if let Some(request) = received.request {
                self.asked(request);
            }
            tokio::spawn(received.respond);
        }
    }

    fn reported(&mut self, message: Message) {
        let mut decoded: FromHost = match rmp_serde::from_slice(&message.payload) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::warn!(%error, "a host's report is not readable");
                return;
            }
        };
        let bytes_max = self.ground.log.record_bytes_max().saturating_sub(REPORT_AROUND_BYTES);
        if message.payload.len() > bytes_max {
            drop_too_large(&mut decoded, bytes_max);
        }
        self.blobs_named.extend(stored::drop_over_quota(&mut decoded, self.core.state(), &self.specs, self.shared));
        self.blobs_named.extend(stored::blobs(&decoded));
        let reply_to = self.waits.number();
        if let Some(responder) = message.responder {
            self.responders.insert(reply_to, responder);
        }
        self.step(Input::FromHost { reply_to, message: decoded });
    }

    fn heartbeat(&mut self, message: &Message) {
        match rmp_serde::from_slice::<Heartbeat>(&message.payload) {
            Ok(heartbeat) => {
                self.shared.progress.heard(&heartbeat);
                self.step(Input::Heartbeat(heartbeat));
            }
            Err(error) => tracing::warn!(%error, "a host's heartbeat is not readable"),
        }
    }

    fn host_changed(&mut self, event: HostEvent) {
        match event {
            HostEvent::Joined(info) => {
                // Of an earlier life, if there was one; what runs is told anew within a heartbeat.
                self.shared.progress.left(&info.id);
                self.step(Input::HostJoined(info));
            }
            HostEvent::Left(host, incarnation) => {
                self.shared.progress.left(&host);
                self.posts.forget(&host);
                self.step(Input::HostLeft(host, incarnation));
            }
        }
    }

    /// Appends what the core has decided, as far as the log has room.
    fn append_ready(&mut self) {
        while self.appends.len() < APPENDS_IN_FLIGHT_MAX {
            let mut ready = self.core.take_ready();
            if ready.is_empty() {
                self.append_overviews();
                return;
            }
            let events = std::mem::take(&mut ready.events);
            let blobs = std::mem::take(&mut self.blobs_named);
            let traced = Traced::of(&events, &self.specs);
            events.iter().for_each(|event| self.specs.apply(event));
            if events.is_empty() {
                // Nothing to write, but what was written before may not be durable yet.
                self.append_nothing(Effects { ready, blobs, ..Effects::default() });
            } else {
                self.append(events, Effects { ready, traced, blobs, ..Effects::default() });
                if self.keeper.wants_snapshot(&self.chain) {
                    self.keeper.hold(self.core.freeze(), self.chain);
                }
            }
        }
    }

    /// The core runs ahead of the log: what it says is going on is told once it is durable, so that nobody hears of an end that a look
    /// at the task does not show yet.
    fn append_overviews(&mut self) {
        if self.overviews.is_empty() {
            return;
        }
        let overview = Overview {
            hosts: self.core.hosts(),
            queue: self.core.queue_depth(),
            counters: named(self.core.counters()),
            policies_benched: self.core.state().policies_benched().cloned().collect(),
            at: self.shared.clock.now(),
            log_seq: self.chain.last,
        };
        let overviews = self.overviews.drain(..).map(|answer| (answer, overview.clone())).collect();
        self.append_nothing(Effects { overviews, ..Effects::default() });
    }

    /// Effects that only wait for what was appended before.
    fn append_nothing(&mut self, effects: Effects) {
        let last = self.chain.last;
        self.appends.push_back(std::future::ready((Ok(last), effects)).boxed());
    }

    /// Appends one record, or several when the log does not take one of this size; the effects wait for the last.
    fn append(&mut self, mut events: Vec<Event>, mut effects: Effects) {
        let version = Record::version_for(&events);
        let record = Record { version, term: self.term, prev_hash: self.chain.hash, events };
        let bytes = record.encode();
        if bytes.len() > self.ground.log.record_bytes_max() && record.events.len() > 1 {
            events = record.events;
            let second_half = events.split_off(events.len() / 2);
            self.append(events, Effects::default());
            self.append(second_half, effects);
            return;
        }
        let chain = self.chain.then(hash(&bytes), bytes.len());
        let span = effects.traced.append(chain.last, record.events.len(), bytes.len());
        effects.sent = Some((Instant::now(), bytes.len()));
        let appended = self.writer.append(self.chain.last, bytes);
        self.chain = chain;
        self.step(Input::Appended(chain.last));
        effects.record = Some(Arc::new(record));
        self.appends.push_back(async move { (appended.instrument(span).await, effects) }.boxed());
    }

    /// A record is durable, or leadership is over.
    fn durable(
        &mut self,
        appended: Result<LogSeq, AppendError>,
        effects: Effects,
        published: &mut LogSeq,
    ) -> Result<Option<LeadershipEnd>, DriverError> {
        let seq = match appended {
            Ok(seq) => seq,
            Err(error @ (AppendError::Conflict { .. } | AppendError::Unreachable { .. })) => {
                tracing::warn!(term = %self.term, %error, "leadership is lost");
                return Ok(Some(LeadershipEnd::Lost));
            }
            Err(AppendError::NoSpace { .. }) => {
                self.waits.refuse_all(&Refusal::NoSpace);
                return Ok(Some(LeadershipEnd::NoSpace));
            }
            Err(error @ (AppendError::Storage { .. } | AppendError::TooLarge { .. })) => return Err(error.into()),
        };
        if let Some(record) = effects.record {
            publish_now(self.shared, published, seq, &record);
            if let Some((sent, bytes)) = effects.sent {
                self.shared.metrics.appended(sent.elapsed(), bytes, &record.events);
            }
            self.keeper.durable(seq, &self.chain);
            self.stored.durable(&record.events);
            self.tell_stored();
            warn_of_benched(&record.events);
            self.step(Input::ReadModelAt(keys_are_in_read_model_to(seq)));
            self.announce_leadership(seq);
        }
        if !effects.blobs.is_empty() {
            self.shared.read_model.note_unneeded(effects.blobs);
        }
        effects.traced.durable(self.shared.clock.now());
        for (answer, overview) in effects.overviews {
            let _ = answer.send(overview);
        }
        for (reply_to, result) in effects.ready.replies {
            self.waits.answer(reply_to, seq, result);
        }
        for reply_to in effects.ready.acks {
            if let Some(responder) = self.responders.remove(&reply_to) {
                responder.respond(encode(&ReportAck { term: self.term }));
            }
        }
        for message in effects.ready.messages {
            self.posts.send(Dispatch::new(message, &self.specs));
        }
        Ok(None)
    }

    /// The first durable record of a term holds `TermStarted`: from then on we lead.
    fn announce_leadership(&self, seq: LogSeq) {
        self.shared.standing.send_if_modified(|standing| {
            let news = !standing.leading || standing.term != self.term;
            standing.leader = Some(self.node.to_owned());
            if standing.term != self.term {
                (standing.term, standing.began, standing.began_by) = (self.term, seq, self.node.to_owned());
            }
            standing.leading = true;
            standing.caught_up = true;
            standing.no_space = false;
            standing.log_silent = false;
            news
        });
    }
}

/// Drops what no record could hold, as if it was lost: the host's heartbeats tell that the attempt is gone.
fn drop_too_large(message: &mut FromHost, bytes_max: usize) {
    let host = message.host.clone();
    message.reports.retain(|report| {
        let bytes = encode(report).len();
        if bytes > bytes_max {
            tracing::warn!(%host, bytes, bytes_max, "a host's report is too large for the log, and is dropped");
        }
        bytes <= bytes_max
    });
}

fn named(counters: Counters) -> BTreeMap<String, u64> {
    counters.by_name.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Says which policies do not decide any more.
fn warn_of_benched(events: &[Event]) {
    for event in events {
        if let EventBody::PolicyBenched { hook, policy, reason } = &event.body {
            tracing::warn!(
                hook = hook.as_str(),
                policy,
                reason,
                "a policy failed too often; the built-in default decides"
            );
        }
    }
}

/// Ends when the lease is lost, or nobody is left to tell.
async fn ended(lost: &mut watch::Receiver<bool>) {
    // What it yields must not be held while something else is waited for.
    drop(lost.wait_for(|lost| *lost).await);
}

/// Ends when the time of this leadership cannot go on as it is.
async fn time_ends(clock: &mut watch::Receiver<Verdict>) {
    drop(clock.wait_for(|verdict| verdict.ends_leadership).await);
}

/// Hears whatever is for the leader of this term.
async fn listen(ground: &Ground, term: Term) -> Result<Ears, DriverError> {
    let bus = &ground.bus;
    let reports = bus.subscribe(subjects::REPORTS, HOST_MESSAGES_WAITING_MAX).await?;
    let heartbeats = bus.subscribe(subjects::HEARTBEATS, HOST_MESSAGES_WAITING_MAX).await?;
    let forwarded = bus.subscribe(&control::commands(term), FORWARDED_WAITING_MAX).await?;
    Ok(Ears { reports, heartbeats, forwarded })
}
