//! Faults of etcd. The caller says when, and how badly.

use wasmill_protocol::Timestamp;

use super::lease::Leases;
use super::store::Store;
use super::{CampaignId, Etcd, EtcdError};

/// The keys that etcd held at some time, to go back to.
#[derive(Debug, Clone)]
pub struct Backup {
    store: Store,
    leases: Leases,
}

impl Etcd {
    /// Too few servers are left to agree. Leases do not end meanwhile: nobody could delete their
    /// keys.
    pub fn lose_quorum(&mut self) {
        self.quorum = false;
    }

    /// Enough servers are back. As with every new leader of etcd all leases begin anew, and
    /// `extend_ms` longer.
    pub fn regain_quorum(&mut self, now: Timestamp, extend_ms: u64) {
        self.quorum = true;
        self.change_leader(now, extend_ms);
    }

    /// Another server leads etcd.
    pub fn change_leader(&mut self, now: Timestamp, extend_ms: u64) {
        self.leases.restart_all(now, extend_ms);
    }

    /// The servers at which campaigns wait are restarted: those campaigns fail, those included that
    /// were decided and not yet told, and the keys of the candidates stay where they are.
    ///
    /// Returns the campaigns whose candidates have to be told.
    pub fn restart_servers(&mut self) -> Vec<CampaignId> {
        let untold = std::mem::take(&mut self.elected).into_iter().map(|(id, _)| id);
        untold.chain(std::mem::take(&mut self.campaigns).into_keys()).collect()
    }

    /// The watch with which the server waits for a candidate fails, because what it was about to
    /// read was compacted: the campaign ends with an error, and the candidate's key stays (reported
    /// upstream as 21128). Answers whether there was one to fail.
    pub fn fail_campaign(&mut self, id: CampaignId) -> bool {
        let waits = self.campaigns.remove(&id).is_some();
        if waits {
            let error = EtcdError::Compacted { revision: self.store.compacted().max(1) };
            self.elected.push((id, Err(error)));
        }
        waits
    }

    /// Campaigns that wait.
    pub fn campaigns_waiting(&self) -> Vec<CampaignId> {
        self.campaigns.keys().copied().collect()
    }

    /// The quota of the database is used up: nothing can be put or granted.
    pub fn exceed_space(&mut self) {
        self.space_exceeded = true;
    }

    /// Somebody has made room and cleared the alarm.
    pub fn clear_space_alarm(&mut self) {
        self.space_exceeded = false;
    }

    /// A copy of everything, as `etcdctl snapshot save` makes it.
    pub fn backup(&self) -> Backup {
        Backup { store: self.store.clone(), leases: self.leases.clone() }
    }

    /// Goes back to what was saved: revisions count on from there, so that the next leaders get
    /// revisions that others had before. With `bump` above 0 they count on from that much higher,
    /// and everything before is compacted
    /// (`etcdutl snapshot restore --bump-revision --mark-compacted`).
    ///
    /// Returns the campaigns whose candidates have to be told.
    pub fn restore(&mut self, now: Timestamp, backup: &Backup, bump: u64) -> Vec<CampaignId> {
        self.store = backup.store.clone();
        self.store.bump(bump);
        self.leases = self.leases.restored(&backup.leases);
        let told = self.restart_servers();
        self.regain_quorum(now, 0);
        told
    }
}
