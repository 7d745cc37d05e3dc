//! What loses what was durable. Nothing is promised after it but that whoever has seen more stops.

use wasmill_fabric_models::etcd::{CampaignId, EtcdError};
use wasmill_fabric_models::jetstream::Stop;

use super::World;
use crate::marks::Mark;
use crate::options::Disaster;
use crate::oracle::{Checked, hold};
use crate::servers::{EtcdAnswer, STREAM};

/// How long after healing whoever has noticed a disaster must have halted, in microseconds.
const NOTICED_US: u64 = 120_000_000;

impl World {
    pub(super) fn strike(&mut self, disaster: Disaster) -> Checked {
        let last = self.oracle.seq().0;
        self.oracle.disaster = true;
        self.marks.hit(Mark::Disaster);
        self.remark(|| format!("{disaster:?} after record {last}"));
        match disaster {
            // It shows when the servers come back.
            Disaster::SuffixLost => {
                let kept = last.saturating_sub(self.rng.skewed(20));
                self.nats_stops(Stop::Killed)?;
                self.servers().jetstream.lose_suffix(STREAM, kept);
                self.oracle.shortened = true;
            }
            Disaster::StreamLost => {
                self.nats_stops(Stop::Killed)?;
                self.servers().jetstream.lose_stream(STREAM);
                self.oracle.shortened = true;
            }
            Disaster::RecordLost => {
                let seq = 2 + self.rng.below(last);
                self.servers().jetstream.lose_message(STREAM, seq);
            }
            Disaster::ByteFlipped => {
                // Nothing follows the last one yet that could tell.
                let (seq, at) = (1 + self.rng.below(last.saturating_sub(1)), self.rng.below(10_000));
                if seq >= last {
                    return Ok(());
                }
                self.servers().jetstream.flip_byte(STREAM, seq, usize::try_from(at).unwrap_or(0));
            }
            Disaster::EtcdRestored => {
                let etcd_now = self.etcd_now();
                let Some(backup) = self.servers().backup.clone() else { return Ok(()) };
                let waiting = self.servers().etcd.restore(etcd_now, &backup, 0);
                // Leases that were granted since are not known, those that have ended are there again.
                self.servers().owners.clear();
                self.fail_campaigns(waiting);
                self.break_watches();
            }
        }
        Ok(())
    }

    /// Candidates hear that their campaigns are over.
    pub(super) fn fail_campaigns(&mut self, campaigns: Vec<CampaignId>) {
        for id in campaigns {
            if let Some(caller) = self.servers().campaigns.remove(&id) {
                let answer = EtcdAnswer::Failed(EtcdError::NoQuorum);
                self.answer_etcd(caller, answer);
            }
        }
    }

    /// Whether a disaster has had all the time that it takes to be noticed, and either was or has done no harm: somebody has halted, or everything
    /// has ended. While neither is so there is still work, which slow hosts may take long for.
    pub(crate) fn is_wrecked(&self, healed_us: u64) -> bool {
        let halted = self.nodes.iter().any(|node| node.halts > 0);
        let over = self.oracle.shortened || halted || self.is_done();
        self.oracle.disaster && over && self.elapsed_us() > healed_us + NOTICED_US
    }

    /// After a disaster nobody leads who has seen what is gone.
    pub(crate) fn check_wreck(&self) -> Checked {
        if !self.oracle.shortened {
            return Ok(());
        }
        let end = self.servers.as_deref().and_then(|servers| servers.log_ends().ok().flatten()).map(|(_, end)| end);
        for node in &self.nodes {
            let leads = node.process.as_ref().is_some_and(|process| process.leader.is_some());
            let ends_before = end.is_none_or(|end| end < node.seen());
            hold!(!leads || !ends_before, "{} leads although it has seen more than the log holds", node.name);
        }
        Ok(())
    }
}
