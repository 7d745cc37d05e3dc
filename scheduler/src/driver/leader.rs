//! One leadership: from `TermStarted` until it is lost.

mod called;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use wasmill_fabric::{AppendError, Content, HostEvent, Leadership, LogWriter, Message, Responder, Subscription};
use wasmill_protocol::command::Refusal;
use wasmill_protocol::message::{FromHost, Heartbeat, Report, ReportAck, control, subjects};
use wasmill_protocol::{LogSeq, Term};
use wasmill_record::Record;
use wasmill_record::event::{Event, EventBody};
use wasmill_scheduler_core::Core;
use wasmill_scheduler_core::clock::Verdict;
use wasmill_scheduler_core::io::{Input, ReplyTo};
use wasmill_scheduler_node::leading::{self, Append, AppendFailure, Effects, End, Loss, Ready};
use wasmill_scheduler_node::watch::Question;
use wasmill_scheduler_node::{Heard, Leading, Upkeep, heard};

use super::dispatch::{Dispatch, DispatchResult, encode};
use super::fold::{Fold, keys_are_in_read_model_to, publish_now};
use super::post::Posts;
use super::specs::SpecCache;
use super::stored::{self, StoredQuotas};
use super::trace::Traced;
use super::upkeep::Workers;
use super::waits::Waits;
use wasmill_fabric::Fabric;

use super::{DriverConfig, DriverError, slot};
use crate::handle::{Overview, Request, Shared};

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

/// The shell around a leadership: it hears what happens, and carries out what follows.
pub(super) struct Leader<'a> {
    leading: Leading,
    fabric: &'a Fabric,
    shared: &'a Arc<Shared>,
    node: &'a str,
    term: Term,
    writer: Box<dyn LogWriter>,
    workers: Workers,
    appends: FuturesOrdered<BoxFuture<'static, (Result<LogSeq, AppendError>, Sent)>>,
    log_asked: Option<BoxFuture<'static, (Question, Option<LogSeq>)>>,
    waits: Waits,
    responders: HashMap<ReplyTo, Responder>,
    /// Where an overview is to be told.
    overviews: BTreeMap<ReplyTo, oneshot::Sender<Overview>>,
    /// What other nodes ask.
    heard: Heard<Responder, Bytes>,
    began: Instant,
    specs: SpecCache,
    stored: StoredQuotas,
    posts: Posts,
}

/// A record that was handed to the log.
struct Sent {
    record: Arc<Record>,
    bytes: usize,
    at: Instant,
    traced: Traced,
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
        fabric: &'a Fabric,
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
        let posts = Posts::new(Arc::clone(&fabric.bus), Arc::clone(shared), mpsc::channel(1).0);
        let upkeep = Upkeep::new(config.snapshots.clone(), fold.state.current().clone(), fold.unusable);
        let core = Core::new(seed, config.core.clone(), fold.state);
        Ok(Self {
            leading: Leading::new(leading::Config::default(), core, fold.chain, term, upkeep),
            fabric,
            shared,
            node: &config.node,
            term,
            writer: fabric.log.writer(),
            workers: Workers::new(fabric, shared),
            appends: FuturesOrdered::new(),
            log_asked: None,
            waits: Waits::default(),
            responders: HashMap::new(),
            overviews: BTreeMap::new(),
            heard: Heard::new(heard::Config::default()),
            began: Instant::now(),
            specs: SpecCache::default(),
            stored: StoredQuotas::default(),
            posts,
        })
    }

    /// Leads until leadership is lost or `shutdown`.
    pub(super) async fn lead(
        mut self,
        requests: &mut mpsc::Receiver<Request>,
        published: &mut LogSeq,
        leadership: &Leadership,
        shutdown: &CancellationToken,
    ) -> Result<End, DriverError> {
        let led = self.lead_on(requests, published, leadership, shutdown).await;
        self.workers.stop().await;
        self.end_calls();
        led
    }

    async fn lead_on(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
        published: &mut LogSeq,
        leadership: &Leadership,
        shutdown: &CancellationToken,
    ) -> Result<End, DriverError> {
        tracing::info!(term = %self.term, node = self.node, "this node leads");
        let mut ears = listen(self.fabric, self.term).await?;
        let mut hosts = self.fabric.membership.hosts();
        let (sender, mut dispatched) = mpsc::channel(DISPATCH_RESULTS_WAITING_MAX);
        self.posts = Posts::new(Arc::clone(&self.fabric.bus), Arc::clone(self.shared), sender);
        let mut lost = leadership.lost.clone();
        let (mut asked, mut forwarded, mut reported) = (Vec::new(), Vec::new(), Vec::new());
        self.shared.clock.begin_term(self.leading.core().state().time());
        let mut clock = self.shared.clock.verdicts();
        let (passed_us, uptime) = self.shared.clock.measured();
        self.step(Input::Lead { term: self.term, node: self.node.to_owned(), passed_us, uptime });
        loop {
            if let Some(end) = self.carry_out(published) {
                return Ok(end);
            }
            let timeout = self.timeout();
            tokio::select! {
                Some((appended, sent)) = self.appends.next(), if !self.appends.is_empty() => {
                    self.appended(appended, sent, published)?;
                }
                (question, end) = slot::ready(&mut self.log_asked) => {
                    self.tell(leading::Input::LogEnds { question, end });
                }
                () = shutdown.cancelled(), if self.leading.is_open() => self.tell(leading::Input::Shutdown),
                () = time_ends(&mut clock), if self.leading.is_open() => self.tell(leading::Input::TimeEnds),
                () = ended(&mut lost) => self.tell(leading::Input::LeaseLost),
                count = ears.reports.recv_many(&mut reported, HOST_MESSAGES_AT_ONCE), if self.leading.takes_in() => {
                    if count == 0 { ears = listen(self.fabric, self.term).await?; }
                    reported.drain(..).for_each(|message| self.reported(message));
                }
                count = requests.recv_many(&mut asked, REQUESTS_AT_ONCE), if self.leading.takes_in() => {
                    if count == 0 { return Ok(End::Shutdown); }
                    asked.drain(..).for_each(|request| self.asked(request));
                }
                count = ears.forwarded.recv_many(&mut forwarded, REQUESTS_AT_ONCE), if self.leading.takes_in() => {
                    if count == 0 { ears = listen(self.fabric, self.term).await?; }
                    forwarded.drain(..).for_each(|message| self.forwarded(message));
                }
                Some(ended) = self.workers.next() => self.tell(leading::Input::WorkEnded(ended)),
                message = ears.heartbeats.recv() => match message {
                    Some(message) => self.heartbeat(message),
                    None => ears = listen(self.fabric, self.term).await?,
                },
                Some(event) = hosts.next() => self.host_changed(event),
                Some(result) = dispatched.recv() => match result {
                    DispatchResult::Refused(host, attempts) => self.step(Input::AssignRefused { host, attempts }),
                    DispatchResult::TermSeen(term) => self.tell(leading::Input::TermSeen(term)),
                },
                () = tokio::time::sleep(timeout) => {
                    self.tell_stored();
                    self.step(Input::Tick);
                }
            }
        }
    }

    fn step(&mut self, input: Input) {
        self.tell(input.into());
    }

    fn tell(&mut self, input: leading::Input) {
        self.leading.step(self.shared.clock.now(), input);
    }

    /// Tells the core which tenants have used up their quota of stored bytes.
    fn tell_stored(&mut self) {
        for input in self.stored.news(self.shared) {
            self.step(input);
        }
    }

    fn timeout(&self) -> Duration {
        let now = self.shared.clock.now();
        let next = self.leading.next_timeout().map_or(u64::MAX, |at| at.us_since(now));
        Duration::from_micros(next).min(TICK_MAX)
    }

    /// Something is asked.
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
            Request::Check(command, answer) => drop(answer.send(self.leading.core().refusal(&command))),
            Request::Explain(tasks, answer) => {
                let (now, core) = (self.shared.clock.now(), self.leading.core());
                let _ = answer.send(core.explain_all(&tasks, now));
            }
            Request::Overview(answer) => {
                let reply_to = self.waits.number();
                self.overviews.insert(reply_to, answer);
                self.tell(leading::Input::Overview(reply_to));
            }
            Request::Load(answer) => drop(answer.send(self.leading.core().state().load())),
        }
    }

    fn reported(&mut self, message: Message) {
        let mut decoded = match message.content.read::<Arc<FromHost>>() {
            Ok(decoded) => Arc::unwrap_or_clone(decoded),
            Err(error) => {
                tracing::warn!(%error, "a host's report is not readable");
                return;
            }
        };
        let bytes_max = self.fabric.log.record_bytes_max().saturating_sub(REPORT_AROUND_BYTES);
        if decoded.reports.iter().map(Report::bytes_at_most).sum::<u64>() > bytes_max as u64 {
            drop_too_large(&mut decoded, bytes_max);
        }
        let state = self.leading.core().state();
        let dropped = stored::drop_over_quota(&mut decoded, state, &self.specs, self.shared);
        self.tell(leading::Input::BlobsDropped(dropped));
        let reply_to = self.waits.number();
        if let Some(responder) = message.responder {
            self.responders.insert(reply_to, responder);
        }
        self.step(Input::FromHost { reply_to, message: decoded });
    }

    fn heartbeat(&mut self, message: Message) {
        match message.content.read::<Heartbeat>() {
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

    /// Carries out what the leadership says.
    fn carry_out(&mut self, published: &mut LogSeq) -> Option<End> {
        let ready = self.leading.take_ready(self.fabric.log.record_bytes_max());
        let Ready { effects, appends, asks, ask_log, end } = ready;
        assert!(asks.is_empty(), "only built-in policies are seated here");
        effects.into_iter().for_each(|effects| self.take_effect(effects, published));
        appends.into_iter().for_each(|append| self.append(append));
        if let Some(question) = ask_log {
            let log = Arc::clone(&self.fabric.log);
            self.log_asked = Some(async move { (question, log.last_seq().await.ok()) }.boxed());
        }
        if let Some(end) = end {
            self.ends(end);
        }
        end
    }

    fn append(&mut self, append: Append) {
        let Append { chain, record, bytes, .. } = append;
        let traced = Traced::of(&record.events, &self.specs);
        record.events.iter().for_each(|event| self.specs.apply(event));
        let before = LogSeq(chain.last.0 - 1);
        let span = traced.append(before, record.events.len(), bytes.len());
        let sent = Sent { record, bytes: bytes.len(), at: Instant::now(), traced };
        let appended = self.writer.append(before, bytes);
        self.appends.push_back(async move { (appended.instrument(span).await, sent) }.boxed());
    }

    /// The log has taken a record, or has not.
    fn appended(
        &mut self,
        appended: Result<LogSeq, AppendError>,
        sent: Sent,
        published: &mut LogSeq,
    ) -> Result<(), DriverError> {
        match appended {
            Ok(seq) => {
                self.shared.metrics.appended(sent.at.elapsed(), sent.bytes, &sent.record.events);
                self.tell(leading::Input::Appended(seq));
                let durable = self.leading.take_durable();
                durable.into_iter().for_each(|effects| self.take_effect(effects, published));
                sent.traced.durable(self.shared.clock.now());
            }
            Err(error @ (AppendError::Conflict { .. } | AppendError::Unreachable { .. })) => {
                tracing::warn!(term = %self.term, %error, "an append has failed");
                self.tell(leading::Input::AppendFailed(AppendFailure::Refused));
            }
            Err(AppendError::NoSpace { .. }) => self.tell(leading::Input::AppendFailed(AppendFailure::NoSpace)),
            Err(error @ (AppendError::Storage { .. } | AppendError::TooLarge { .. })) => return Err(error.into()),
        }
        Ok(())
    }

    /// What was waiting is carried out: all that it rests on is durable.
    fn take_effect(&mut self, effects: Effects, published: &mut LogSeq) {
        let seq = effects.seq;
        if let Some(record) = effects.record {
            publish_now(self.shared, published, seq, &record);
            self.stored.durable(&record.events);
            self.tell_stored();
            warn_of_benched(&record.events);
            self.step(Input::ReadModelAt(keys_are_in_read_model_to(seq)));
            self.announce_leadership(seq);
        }
        effects.work.into_iter().for_each(|work| self.workers.begin(work));
        if !effects.blobs.is_empty() {
            self.shared.read_model.note_unneeded(effects.blobs);
        }
        for (reply_to, overview) in effects.overviews {
            if let Some(answer) = self.overviews.remove(&reply_to) {
                let _ = answer.send(Overview::clone(&overview));
            }
        }
        for (reply_to, result) in effects.replies {
            if let Some(answered) = self.waits.answer(reply_to, seq, result) {
                self.call_answered(answered);
            }
        }
        for reply_to in effects.acks {
            if let Some(responder) = self.responders.remove(&reply_to) {
                responder.respond(Content::of(ReportAck { term: self.term }));
            }
        }
        for message in effects.messages {
            self.posts.send(Dispatch::new(message, &self.specs));
        }
    }

    /// Says why the leadership is over, and answers those who can be told that nothing was done.
    fn ends(&mut self, end: End) {
        let term = self.term;
        match end {
            End::Shutdown => {}
            End::NoSpace => {
                let answered = self.waits.refuse_all(&Refusal::NoSpace);
                answered.into_iter().for_each(|answered| self.call_answered(answered));
            }
            End::Lost(Loss::Refused) => tracing::warn!(%term, "leadership is lost"),
            End::Lost(Loss::Lease) => tracing::warn!(%term, "leadership is lost: the lease has ended"),
            End::Lost(Loss::TermSeen(seen)) => {
                tracing::warn!(%term, %seen, "leadership is lost: a host knows a later term");
            }
            End::Lost(Loss::Replaced(last)) => {
                let appended = self.leading.chain().last;
                tracing::warn!(%term, %appended, %last, "leadership is lost: somebody else has appended");
            }
            End::Lost(Loss::LogGone) => {
                tracing::warn!(%term, "leadership is given up: others may reach the log");
            }
            End::Lost(Loss::Time) => {
                tracing::warn!(%term, "leadership has ended: its time cannot go on by the clock of this machine");
            }
        }
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

/// Says which policies do not decide any more.
fn warn_of_benched(events: &[Event]) {
    for event in events {
        if let EventBody::PolicyBenched { hook, policy, reason, .. } = &event.body {
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
async fn listen(fabric: &Fabric, term: Term) -> Result<Ears, DriverError> {
    let bus = &fabric.bus;
    let reports = bus.subscribe(subjects::REPORTS, HOST_MESSAGES_WAITING_MAX).await?;
    let heartbeats = bus.subscribe(subjects::HEARTBEATS, HOST_MESSAGES_WAITING_MAX).await?;
    let forwarded = bus.subscribe(&control::commands(term), FORWARDED_WAITING_MAX).await?;
    Ok(Ears { reports, heartbeats, forwarded })
}
