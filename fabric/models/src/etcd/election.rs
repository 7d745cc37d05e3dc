//! The election service, exactly as the server does it
//! (`server/etcdserver/api/v3election/election.go`, `client/v3/concurrency/election.go`,
//! `client/v3/concurrency/key.go`).
//!
//! A candidate puts a key under its lease and waits until every key before it is gone. Then it is
//! told that it is elected, without another look at its own key: if its lease has ended while it
//! waited, it leads nothing and does not know. The lease is renewed meanwhile by the candidate
//! alone.

use bytes::Bytes;

use super::lease::LeaseId;
use super::store::{Compare, EventKind, Op, Range};
use super::{Etcd, EtcdError};

/// Names a campaign that waits on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CampaignId(pub u64);

/// The answer to an elected candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderKey {
    /// The name of the election.
    pub name: String,
    /// The candidate's key.
    pub key: String,
    /// The revision at which the key came to be: greater than that of every leader before, in one
    /// history of etcd.
    pub revision: u64,
    /// The candidate's lease.
    pub lease: LeaseId,
}

/// A candidate that waits.
#[derive(Debug, Clone)]
pub(super) struct Campaign {
    leader: LeaderKey,
    /// The key that must go first, and the revision from which on it is watched.
    before: Option<(String, u64)>,
}

impl Etcd {
    /// Begins to campaign. Whether it is elected is told by [`Etcd::take_elected`], maybe at once.
    ///
    /// # Errors
    ///
    /// When the candidate's key could not be put. Then it is not there, unless this lease had
    /// campaigned before.
    pub fn campaign(&mut self, name: &str, lease: LeaseId, value: Bytes) -> Result<CampaignId, EtcdError> {
        let key = format!("{name}/{:x}", lease.0);
        let put = Op::Put { key: key.clone(), value: value.clone(), lease: Some(lease) };
        let put = self.txn(&[Compare::created_at(&key, 0)], &[put], &[])?;
        let mut revision = put.revision;
        if !put.succeeded {
            // The same lease campaigns again: its place in the queue stays, its value may be new.
            let found = self.store.key(&key).expect("the key is there, or it would have been put");
            revision = found.create_revision;
            if found.value != value {
                let leader = LeaderKey { name: name.to_owned(), key: key.clone(), revision, lease };
                self.proclaim(&leader, value)?;
            }
        }
        let id = CampaignId(self.next_campaign);
        self.next_campaign += 1;
        let leader = LeaderKey { name: name.to_owned(), key, revision, lease };
        self.campaigns.insert(id, Campaign { leader, before: None });
        self.settle_campaigns();
        Ok(id)
    }

    /// Campaigns that are over since the last call.
    pub fn take_elected(&mut self) -> Vec<(CampaignId, Result<LeaderKey, EtcdError>)> {
        if self.quorum { std::mem::take(&mut self.elected) } else { Vec::new() }
    }

    /// The candidate hangs up: the server deletes its key.
    pub fn cancel_campaign(&mut self, id: CampaignId) {
        if let Some(campaign) = self.campaigns.remove(&id) {
            // Without a quorum the key stays until its lease ends.
            let _ = self.resign(&campaign.leader);
        }
    }

    /// Changes the value of a leader's key, if it is still there.
    ///
    /// # Errors
    ///
    /// [`EtcdError::NotLeader`] when it is not, otherwise when the key could not be put.
    pub fn proclaim(&mut self, leader: &LeaderKey, value: Bytes) -> Result<u64, EtcdError> {
        let put = Op::Put { key: leader.key.clone(), value, lease: Some(leader.lease) };
        let put = self.txn(&[Compare::created_at(&leader.key, leader.revision)], &[put], &[])?;
        if put.succeeded { Ok(put.revision) } else { Err(EtcdError::NotLeader) }
    }

    /// Deletes a leader's key, if it is still the same.
    ///
    /// # Errors
    ///
    /// When nothing can be agreed on.
    pub fn resign(&mut self, leader: &LeaderKey) -> Result<(), EtcdError> {
        let delete = Op::Delete(Range::Key(leader.key.clone()));
        self.txn(&[Compare::created_at(&leader.key, leader.revision)], &[delete], &[])?;
        Ok(())
    }

    /// Looks which candidates have nobody before them any more.
    pub(super) fn settle_campaigns(&mut self) {
        let waiting: Vec<_> = self.campaigns.keys().copied().collect();
        for id in waiting {
            if let Some(result) = self.wait_deletes(id)
                && let Some(campaign) = self.campaigns.remove(&id)
            {
                self.elected.push((id, result.map(|()| campaign.leader)));
            }
        }
    }

    /// Waits for the youngest key that is older than the candidate's, then looks again
    /// (`waitDeletes`). The candidate's own key plays no part in it.
    fn wait_deletes(&mut self, id: CampaignId) -> Option<Result<(), EtcdError>> {
        let campaign = self.campaigns.get_mut(&id)?;
        let queue = Range::Prefix(format!("{}/", campaign.leader.name));
        loop {
            if let Some((key, from)) = &mut campaign.before {
                let watched = Range::Key(key.clone());
                match self.store.events(&watched, *from) {
                    Err(error) => return Some(Err(error)),
                    Ok(mut events) => {
                        if !events.any(|event| event.kind == EventKind::Delete) {
                            *from = self.store.revision();
                            return None;
                        }
                    }
                }
            }
            let older = |created: u64| created < campaign.leader.revision;
            let last = self
                .store
                .range(&queue)
                .filter(|found| older(found.create_revision))
                .max_by_key(|found| found.create_revision);
            let Some(last) = last else { return Some(Ok(())) };
            campaign.before = Some((last.key.clone(), self.store.revision()));
        }
    }
}
