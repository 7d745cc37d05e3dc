//! The wall clocks of machines, which may be wrong, and what nodes make of them.

use wasmill_protocol::{Term, Timestamp};
use wasmill_scheduler_core::Input;
use wasmill_scheduler_core::clock::Witness;
use wasmill_scheduler_node::following::Input as FollowInput;
use wasmill_scheduler_node::leading::Input as NodeInput;

use super::{Sender, World};
use crate::leader::{Leader, LeaderOptions};
use crate::node::{Fold, LogWait, Process, uptime_us};
use crate::oracle::{Checked, hold};
use crate::plant::Plant;
use crate::servers::LogAsk;

/// A wall clock in a cluster that is wrong is wrong by at least this much: well beyond what counts as equal.
const WRONG_US_MIN: u64 = 150_000_000;
/// And one of a single machine by more than what is followed at once.
const WRONG_ALONE_US_MIN: u64 = 13 * 3_600_000_000;
/// How often the servers are asked what time it is.
const ASK_US: u64 = 5_000_000;
/// A month.
const WRONG_US_MAX: u64 = 31 * 24 * 3_600_000_000;

impl World {
    /// Sets the wall clock of a node's machine, right or wrong. A single machine begins with one that is right: nothing could tell.
    pub(super) fn draw_wall_clock(&mut self, node: usize) {
        let first = !self.is_clustered() && self.disk.records.is_empty();
        let wrong = !first && self.rng.chance(self.options.clocks_wrong);
        let (min, skew_us_max) = match &self.options.cluster {
            Some(cluster) => (WRONG_US_MIN, cluster.skew_us_max),
            None => (WRONG_ALONE_US_MIN, 0),
        };
        let ahead_us = if wrong {
            let us = self.rng.between(min, WRONG_US_MAX).cast_signed();
            if self.rng.chance(500) { us } else { -us }
        } else {
            self.rng.below(skew_us_max + 1).cast_signed()
        };
        self.nodes[node].wall_ahead_us = ahead_us;
        self.touch_node(node);
    }

    /// Asks the servers that keep the log what time it is.
    pub(super) fn ask_time(&mut self, node: usize) {
        let now = self.now;
        let cluster = self.nodes[node].process.as_ref().and_then(|process| process.cluster.as_ref());
        let waits = |wait: &LogWait| matches!(wait, LogWait::Time(_));
        if cluster.is_some_and(|cluster| {
            now.us_since(cluster.time_told_at) >= ASK_US && !cluster.log_calls.values().any(waits)
        }) {
            self.ask_log(node, LogAsk::Time, LogWait::Time(now));
        }
    }

    pub(super) fn time_told(&mut self, node: usize, time: Timestamp, asked_at: Timestamp) {
        let (now, reading) = (self.now, self.nodes[node].reading(self.now));
        if let Some(process) = &mut self.nodes[node].process {
            process.time_told = true;
            if let Some(cluster) = &mut process.cluster {
                cluster.time_told_at = now;
            }
            process.clock.told(Witness::Servers, time, uptime_us(asked_at).midpoint(uptime_us(now)), reading);
        }
    }

    /// A node looks at its clocks, as it does about once a second.
    pub(super) fn look_at_clock(&mut self, node: usize) -> Checked {
        let reading = self.nodes[node].reading(self.now);
        let wall_ahead_us = self.nodes[node].wall_ahead_us;
        let plant = self.plant;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        if plant == Some(Plant::ClockSetUnnoticed) {
            return Ok(());
        }
        let verdict = process.clock.look(reading);
        if plant == Some(Plant::WallClockTrusted) {
            process.wall_trusted_us = Some(wall_ahead_us);
        } else if verdict.ends_leadership && process.leader.is_some() {
            let life = self.nodes[node].life;
            self.tell_leader(Sender { node, life }, NodeInput::TimeEnds);
            return Ok(());
        }
        let is_believed = self.nodes[node].process.as_ref().is_some_and(Process::may_lead);
        self.step_following(node, FollowInput::Clock { is_believed });
        Ok(())
    }

    /// A node leads, in a term that was given to it, on top of what it has read.
    pub(super) fn begin_term(&mut self, node: usize, term: Term, seed: u64, fold: Fold, options: LeaderOptions) {
        let (now, plant) = (self.now, self.plant);
        let began = &mut self.nodes[node];
        let (reading, uptime, name) = (began.reading(now), began.uptime(now), began.name.clone());
        let Some(process) = &mut began.process else { return };
        process.clock.lead(true, fold.state.time(), reading);
        let passed_us = match plant {
            Some(Plant::PassedByWallClock) => reading.wall.us_since(fold.state.time()),
            _ if fold.last.0 == 0 => 0,
            _ => uptime_us(now).saturating_sub(process.heard_us),
        };
        let clock = process.clock(now);
        let lead = Input::Lead { term, node: name, passed_us, uptime };
        let mut leader = Leader::new(seed, term, fold, options);
        leader.node.step(clock, lead.into());
        process.leader = Some(leader);
        self.seat_policies(node);
    }

    /// By how much led time may have grown more than time: a minute for each beginning of a term that nobody has measured, and another for clocks that are put
    /// right bit by bit.
    pub(super) fn led_slack_us(&self) -> u64 {
        60_000_000 * (self.oracle.terms_begun() + 2)
    }

    /// Led time grows no faster than time, whatever clocks show: what is kept for a while is kept that long.
    pub(super) fn check_led_time(&mut self, node: usize) -> Checked {
        let now = self.now;
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let Some(leader) = &process.leader else { return Ok(()) };
        let led_us = leader.node.core().state().led().us();
        let (first_us, since) = *self.led_since.get_or_insert((led_us, now));
        let (grown_us, passed_us) = (led_us.saturating_sub(first_us), now.us_since(since).cast_signed());
        let slack_us = self.led_slack_us().cast_signed();
        hold!(
            grown_us <= passed_us + slack_us || self.oracle.disaster,
            "node-{node} says that somebody has led for {grown_us} us, and {passed_us} us have passed"
        );
        Ok(())
    }
}
