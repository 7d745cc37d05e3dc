//! Elections, with everything that a candidate can believe wrongly.

use bytes::Bytes;
use wasmill_fabric_models::etcd::{CampaignId, Compare, Etcd, EtcdError, LeaderKey, LeaseId, Op, Range};
use wasmill_protocol::Timestamp;

const NOW: Timestamp = Timestamp(1_000_000_000);

fn campaign(etcd: &mut Etcd) -> (LeaseId, CampaignId) {
    let (lease, _) = etcd.grant(NOW, 5, None).unwrap();
    (lease, etcd.campaign("leader", lease, Bytes::from_static(b"node")).unwrap())
}

fn elected(etcd: &mut Etcd) -> (CampaignId, LeaderKey) {
    let [(id, Ok(leader))] = &etcd.take_elected()[..] else { panic!("one candidate was elected") };
    (*id, leader.clone())
}

/// The guard that a candidate must ask for: its key is still the one that was elected.
fn guard(etcd: &mut Etcd, leader: &LeaderKey) -> bool {
    let put = Op::Put { key: "term".into(), value: Bytes::new(), lease: None };
    etcd.txn(&[Compare::created_at(&leader.key, leader.revision)], &[put], &[]).unwrap().succeeded
}

fn candidates(etcd: &Etcd) -> usize {
    etcd.get(&Range::Prefix("leader/".into())).unwrap().0.len()
}

#[test]
fn the_oldest_candidate_leads_and_revisions_grow() {
    let mut etcd = Etcd::default();
    let (first_lease, first) = campaign(&mut etcd);
    let (second_lease, second) = campaign(&mut etcd);
    let (_, third) = campaign(&mut etcd);
    let (id, first_leader) = elected(&mut etcd);
    assert_eq!(id, first);
    assert!(guard(&mut etcd, &first_leader));
    // One in the middle goes: nobody is elected.
    etcd.revoke(second_lease).unwrap();
    assert_eq!(etcd.take_elected(), []);
    assert!(etcd.campaigns_waiting().contains(&second), "it waits on, without a key");
    etcd.revoke(first_lease).unwrap();
    let over = etcd.take_elected();
    assert_eq!(over.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [second, third]);
    let leader = over[1].1.clone().unwrap();
    assert!(leader.revision > first_leader.revision && guard(&mut etcd, &leader));
}

#[test]
fn a_candidate_whose_lease_ended_while_it_waited_is_told_that_it_leads() {
    let mut etcd = Etcd::default();
    let (first_lease, _) = campaign(&mut etcd);
    let (_, second) = campaign(&mut etcd);
    elected(&mut etcd);
    etcd.keep_alive(NOW.plus_ms(3_000), first_lease).unwrap();
    // The second has not renewed.
    etcd.tick(NOW.plus_ms(5_000));
    assert_eq!(candidates(&etcd), 1);
    etcd.revoke(first_lease).unwrap();
    let (id, phantom) = elected(&mut etcd);
    assert_eq!((id, candidates(&etcd)), (second, 0));
    assert!(!guard(&mut etcd, &phantom));
}

#[test]
fn a_failed_campaign_leaves_its_key_and_blocks_others() {
    let mut etcd = Etcd::default();
    let (first_lease, _) = campaign(&mut etcd);
    elected(&mut etcd);
    let (second_lease, second) = campaign(&mut etcd);
    let (_, third) = campaign(&mut etcd);
    assert!(etcd.fail_campaign(second));
    assert!(matches!(&etcd.take_elected()[..], [(id, Err(EtcdError::Compacted { .. }))] if *id == second));
    etcd.revoke(first_lease).unwrap();
    assert_eq!(etcd.take_elected(), [], "the key of the failed candidate is in the way");
    etcd.revoke(second_lease).unwrap();
    assert_eq!(elected(&mut etcd).0, third);
}

#[test]
fn a_candidate_that_hangs_up_is_out_of_the_way() {
    let mut etcd = Etcd::default();
    let (first_lease, _) = campaign(&mut etcd);
    elected(&mut etcd);
    let (_, second) = campaign(&mut etcd);
    let (_, third) = campaign(&mut etcd);
    etcd.cancel_campaign(second);
    assert_eq!(candidates(&etcd), 2);
    etcd.revoke(first_lease).unwrap();
    assert_eq!(elected(&mut etcd).0, third);
}

#[test]
fn the_same_lease_keeps_its_place() {
    let mut etcd = Etcd::default();
    let (lease, _) = campaign(&mut etcd);
    let (_, leader) = elected(&mut etcd);
    let again = etcd.campaign("leader", lease, Bytes::from_static(b"renamed")).unwrap();
    let (id, same) = elected(&mut etcd);
    assert_eq!((id, same.revision), (again, leader.revision));
    assert_eq!(etcd.get(&Range::Key(leader.key.clone())).unwrap().0[0].value, "renamed");
    assert_eq!(etcd.resign(&leader), Ok(()));
    assert_eq!(etcd.proclaim(&leader, Bytes::new()), Err(EtcdError::NotLeader));
    assert_eq!(candidates(&etcd), 0);
}

#[test]
fn a_campaign_without_a_lease_is_refused() {
    let mut etcd = Etcd::default();
    let (lease, _) = etcd.grant(NOW, 5, None).unwrap();
    etcd.tick(NOW.plus_ms(5_000));
    assert_eq!(etcd.campaign("leader", lease, Bytes::new()), Err(EtcdError::LeaseNotFound));
}

#[test]
fn nobody_hears_of_an_election_without_a_quorum() {
    let mut etcd = Etcd::default();
    let (_, first) = campaign(&mut etcd);
    etcd.lose_quorum();
    assert_eq!(etcd.take_elected(), []);
    etcd.regain_quorum(NOW, 0);
    assert_eq!(elected(&mut etcd).0, first);
    let (_, second) = campaign(&mut etcd);
    assert_eq!(etcd.restart_servers(), [second]);
    assert_eq!(candidates(&etcd), 2, "keys outlive the campaigns");
}

#[test]
fn a_restored_backup_elects_with_a_revision_that_another_leader_had() {
    let mut etcd = Etcd::default();
    let backup = etcd.backup();
    campaign(&mut etcd);
    let (_, first) = elected(&mut etcd);
    etcd.restore(NOW, &backup, 0);
    campaign(&mut etcd);
    let (_, second) = elected(&mut etcd);
    assert!(second.revision <= first.revision, "{} {}", second.revision, first.revision);
}
