//! The time that events carry, and how far the clocks of this machine can be believed.
//!
//! What is decided about clocks is decided in [`wasmill_scheduler_core::clock`]; here they are read.

mod watch;

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch::{Receiver, Sender};
use wasmill_fabric::uptime;
use wasmill_protocol::{LogSeq, Timestamp, Uptime};
use wasmill_record::event::Event;
use wasmill_record::snapshot::LedTime;
use wasmill_scheduler_core::clock::{self as decided, Reading, Ticker, Verdict, Witness};

pub(crate) use watch::{ask_servers, keep};

/// The time of this node.
pub struct Clock {
    /// Nobody else can lead.
    alone: bool,
    /// Names this start of the machine.
    boot: String,
    decided: Mutex<decided::Clock>,
    ticker: RwLock<Ticker>,
    led: Mutex<Led>,
    verdict: Sender<Verdict>,
}

/// How long somebody has led, as far as this node shows the log.
#[derive(Default)]
struct Led {
    time: LedTime,
    /// Our uptime when the last record came.
    heard_us: u64,
}

impl Clock {
    /// Reads the clocks; `alone` when nobody else can lead.
    pub fn start(alone: bool) -> Self {
        let clock = decided::Clock::new(alone, reading());
        Self {
            alone,
            boot: uptime::boot(),
            ticker: RwLock::new(clock.ticker()),
            verdict: Sender::new(clock.verdict()),
            decided: Mutex::new(clock),
            led: Mutex::default(),
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.ticker.read().unwrap_or_else(PoisonError::into_inner).at(uptime::now_us())
    }

    /// How the wall clock stands.
    pub fn verdict(&self) -> Verdict {
        *self.verdict.borrow()
    }

    /// Whether this node may lead with the clock that it has.
    pub fn may_lead(&self) -> bool {
        self.alone || self.verdict().believed
    }

    /// Tells when the verdict changes.
    pub(crate) fn verdicts(&self) -> Receiver<Verdict> {
        self.verdict.subscribe()
    }

    /// What is wrong with the clock, and what to do; `None` when it is believed.
    pub fn complaint(&self) -> Option<String> {
        let verdict = self.verdict();
        (!verdict.believed).then(|| complaint(&verdict, self.alone))
    }

    /// The log was found, and says this of time.
    pub(crate) fn log_found(&self, led: &LedTime) {
        let reading = reading();
        let expected = led.expected(&self.uptime(reading.uptime_us));
        self.decide(|clock| clock.log_found(led.last_event(), &expected, reading));
    }

    /// This node begins to lead after an event of time `last`.
    pub(crate) fn begin_term(&self, last: Timestamp) {
        self.decide(|clock| clock.lead(true, last, reading()));
        let now = self.now();
        if now < last {
            tracing::warn!(%now, log = %last, "the time goes back: the log's last record was ahead of it");
        } else if now.us_since(last) > decided::STEP_US_MAX && last > Timestamp(0) {
            tracing::info!(%now, log = %last, "nobody has led for long, by the clock of this machine");
        }
    }

    /// This node does not lead any more.
    pub(crate) fn end_term(&self) {
        self.decide(|clock| clock.lead(false, Timestamp(0), reading()));
    }

    /// Another node that leads has just decided something at `time`.
    pub(crate) fn leader_told(&self, time: Timestamp) {
        let reading = reading();
        self.decide(|clock| clock.told(Witness::Leader, time, reading.uptime_us, reading));
    }

    fn servers_told(&self, time: Timestamp, uptime_us: u64) {
        self.decide(|clock| clock.told(Witness::Servers, time, uptime_us, reading()));
    }

    fn look(&self) -> Verdict {
        self.decide(|clock| {
            clock.look(reading());
        });
        self.verdict()
    }

    fn decide(&self, decide: impl FnOnce(&mut decided::Clock)) {
        let mut clock = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        decide(&mut clock);
        *self.ticker.write().unwrap_or_else(PoisonError::into_inner) = clock.ticker();
        let verdict = clock.verdict();
        self.verdict.send_if_modified(|told| std::mem::replace(told, verdict) != verdict);
    }

    fn uptime(&self, us: u64) -> Uptime {
        Uptime { boot: self.boot.clone(), us }
    }

    /// What the beginning of a term says of time: how much has passed since the last record for certain, and our uptime.
    pub(crate) fn measured(&self) -> (u64, Uptime) {
        let now_us = uptime::now_us();
        let led = self.led();
        let passed_us = if led.time == LedTime::default() { 0 } else { now_us.saturating_sub(led.heard_us) };
        (passed_us, self.uptime(now_us))
    }

    /// A record is shown to readers.
    pub(crate) fn published(&self, seq: LogSeq, events: &[Event]) {
        let mut led = self.led();
        events.iter().for_each(|event| led.time.apply(seq, event));
        led.heard_us = uptime::now_us();
    }

    /// Readers go on from a snapshot.
    pub(crate) fn restored(&self, time: &LedTime) {
        *self.led() = Led { time: time.clone(), heard_us: uptime::now_us() };
    }

    /// Led time as this node shows the log, and how many microseconds ago it has shown it first.
    pub(crate) fn led_time<T>(&self, look: impl FnOnce(&LedTime, u64) -> T) -> T {
        let led = self.led();
        look(&led.time, uptime::now_us().saturating_sub(led.heard_us))
    }

    fn led(&self) -> MutexGuard<'_, Led> {
        self.led.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reading() -> Reading {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = Timestamp(u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX));
    Reading { wall, uptime_us: uptime::now_us() }
}

/// How far two clocks are apart, for people.
fn shown(us: i64) -> String {
    let seconds = us.unsigned_abs() / 1_000_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let size = match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    };
    format!("{size} {}", if us < 0 { "behind" } else { "ahead of" })
}

fn complaint(verdict: &Verdict, alone: bool) -> String {
    let wrong = format!("this machine's clock is {} {}", shown(verdict.difference_us), verdict.witness.as_str());
    match verdict.followed_in_us {
        _ if !alone => format!("{wrong}: set it right, this node does not lead before"),
        Some(us) => format!("{wrong}: set it right, or it is followed in {} s", us.div_ceil(1_000_000)),
        None => format!("{wrong}: set it, until then the time goes on from the log's last record"),
    }
}

#[cfg(test)]
mod tests;
