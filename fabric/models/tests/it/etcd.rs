//! Revisions, transactions, leases and watches.

use bytes::Bytes;
use wasmill_fabric_models::etcd::{
    Compare, CompareOp, CompareTarget, Etcd, EtcdError, EventKind, LeaseId, Op, OpResult, Range,
};
use wasmill_protocol::Timestamp;

const NOW: Timestamp = Timestamp(1_000_000_000);

fn key(name: &str) -> Range {
    Range::Key(name.into())
}

fn put(etcd: &mut Etcd, name: &str, lease: Option<LeaseId>) -> u64 {
    etcd.put(name, Bytes::from_static(b"value"), lease).unwrap()
}

fn is_there(etcd: &Etcd, name: &str) -> bool {
    !etcd.get(&key(name)).unwrap().0.is_empty()
}

/// The changes, as `revision+key` and `revision-key`.
fn read(etcd: &Etcd, watch: &mut wasmill_fabric_models::etcd::Watch) -> Vec<String> {
    let sign = |kind: &EventKind| if matches!(kind, EventKind::Put(_)) { '+' } else { '-' };
    let events = etcd.read_watch(watch).unwrap();
    events.iter().map(|event| format!("{}{}{}", event.revision, sign(&event.kind), event.key)).collect()
}

#[test]
fn only_changes_make_revisions() {
    let mut etcd = Etcd::default();
    assert_eq!(etcd.revision(), 1);
    assert_eq!(put(&mut etcd, "a", None), 2);
    assert_eq!(put(&mut etcd, "a", None), 3);
    assert_eq!(etcd.delete(&key("b")), Ok(3));
    let (found, revision) = etcd.get(&key("a")).unwrap();
    assert_eq!((found[0].create_revision, found[0].mod_revision, found[0].version, revision), (2, 3, 2, 3));
    assert_eq!(etcd.delete(&key("a")), Ok(4));
    assert_eq!(put(&mut etcd, "a", None), 5);
    assert_eq!(etcd.get(&key("a")).unwrap().0[0].create_revision, 5);
}

#[test]
fn a_transaction_is_one_change_and_looks_before() {
    let mut etcd = Etcd::default();
    let ops = ["b", "a"].map(|key| Op::Put { key: key.into(), value: Bytes::new(), lease: None });
    let done = etcd.txn(&[Compare::created_at("a", 0)], &ops, &[]).unwrap();
    assert_eq!((done.succeeded, done.revision), (true, 2));
    let value = |wanted: &'static [u8], op| Compare {
        key: "a".into(),
        op,
        target: CompareTarget::Value(Bytes::from_static(wanted)),
    };
    let holds = |etcd: &mut Etcd, compare| etcd.txn(&[compare], &[], &[]).unwrap().succeeded;
    assert!(holds(&mut etcd, value(b"", CompareOp::Equal)));
    assert!(holds(&mut etcd, value(b"x", CompareOp::Less)));
    assert!(!holds(&mut etcd, Compare { key: "none".into(), ..value(b"", CompareOp::NotEqual) }));
    let done = etcd
        .txn(&[Compare::created_at("a", 9)], &[], &[Op::Get(Range::Prefix(String::new())), Op::Delete(key("b"))])
        .unwrap();
    assert_eq!((done.succeeded, done.revision), (false, 3));
    let OpResult::Got(got) = &done.results[0] else { panic!("{done:?}") };
    assert_eq!(got.iter().map(|found| found.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(done.results[1], OpResult::Deleted(1));
}

#[test]
fn a_lease_takes_its_keys_with_it_and_never_early() {
    let mut etcd = Etcd::default();
    let (lease, ttl_s) = etcd.grant(NOW, 5, None).unwrap();
    assert_eq!(ttl_s, 5);
    assert_eq!(etcd.grant(NOW, 1, Some(LeaseId(77))), Ok((LeaseId(77), 2)), "shorter ones are not granted");
    assert_eq!(etcd.grant(NOW, 5, Some(lease)), Err(EtcdError::LeaseExists));
    put(&mut etcd, "a", Some(lease));
    put(&mut etcd, "b", Some(lease));
    // Put anew without the lease, it stays.
    put(&mut etcd, "b", None);
    assert_eq!(etcd.keep_alive(NOW.plus_ms(4_999), lease), Ok(5));
    etcd.tick(NOW.plus_ms(9_998));
    assert!(is_there(&etcd, "a"));
    etcd.tick(NOW.plus_ms(9_999));
    assert!(!is_there(&etcd, "a") && is_there(&etcd, "b"));
    assert_eq!(etcd.keep_alive(NOW.plus_ms(9_999), lease), Ok(0));
    assert_eq!(etcd.put("c", Bytes::new(), Some(lease)), Err(EtcdError::LeaseNotFound));
}

#[test]
fn a_lease_that_is_over_is_not_renewed_though_nobody_has_looked() {
    let mut etcd = Etcd::default();
    let (lease, _) = etcd.grant(NOW, 5, None).unwrap();
    put(&mut etcd, "a", Some(lease));
    assert_eq!(etcd.next_expiry(), Some(NOW.plus_ms(5_000)));
    assert_eq!(etcd.keep_alive(NOW.plus_ms(5_000), lease), Ok(0));
    assert!(!is_there(&etcd, "a"));
}

#[test]
fn a_revoked_lease_is_gone_at_once() {
    let mut etcd = Etcd::default();
    let (lease, _) = etcd.grant(NOW, 5, None).unwrap();
    put(&mut etcd, "a", Some(lease));
    assert_eq!(etcd.revoke(lease), Ok(()));
    assert!(!is_there(&etcd, "a"));
    assert_eq!(etcd.revoke(lease), Err(EtcdError::LeaseNotFound));
}

#[test]
fn a_new_leader_of_etcd_starts_leases_anew() {
    let mut etcd = Etcd::default();
    let (lease, _) = etcd.grant(NOW, 5, None).unwrap();
    put(&mut etcd, "a", Some(lease));
    etcd.change_leader(NOW.plus_ms(4_900), 1_000);
    etcd.tick(NOW.plus_ms(10_899));
    assert!(is_there(&etcd, "a"));
    etcd.tick(NOW.plus_ms(10_900));
    assert!(!is_there(&etcd, "a"));
}

#[test]
fn without_a_quorum_nothing_is_answered_and_no_lease_ends() {
    let mut etcd = Etcd::default();
    let (lease, _) = etcd.grant(NOW, 5, None).unwrap();
    put(&mut etcd, "a", Some(lease));
    etcd.lose_quorum();
    etcd.tick(NOW.plus_ms(60_000));
    assert_eq!(etcd.get(&key("a")), Err(EtcdError::NoQuorum));
    assert_eq!(etcd.keep_alive(NOW.plus_ms(60_000), lease), Err(EtcdError::NoQuorum));
    etcd.regain_quorum(NOW.plus_ms(60_000), 0);
    assert!(is_there(&etcd, "a"));
    assert_eq!(etcd.keep_alive(NOW.plus_ms(64_999), lease), Ok(5));
}

#[test]
fn a_watch_tells_every_change_once_and_in_order() {
    let mut etcd = Etcd::default();
    put(&mut etcd, "hosts/a", None);
    let mut watch = etcd.watch(Range::Prefix("hosts/".into()), None);
    put(&mut etcd, "hosts/b", None);
    put(&mut etcd, "other", None);
    etcd.delete(&Range::Prefix("hosts/".into())).unwrap();
    assert_eq!(read(&etcd, &mut watch), ["3+hosts/b", "5-hosts/a", "5-hosts/b"]);
    assert_eq!(read(&etcd, &mut watch), [] as [&str; 0]);
    let mut again = etcd.watch(Range::Prefix("hosts/".into()), Some(3));
    assert_eq!(read(&etcd, &mut again).len(), 3);
}

#[test]
fn what_was_compacted_cannot_be_watched() {
    let mut etcd = Etcd::default();
    let mut early = etcd.watch(key("a"), Some(2));
    for _ in 0..4 {
        put(&mut etcd, "a", None);
    }
    etcd.compact(4).unwrap();
    assert_eq!(etcd.read_watch(&mut early), Err(EtcdError::Compacted { revision: 4 }));
    assert_eq!(etcd.compact(3), Err(EtcdError::Compacted { revision: 4 }));
    let mut late = etcd.watch(key("a"), Some(4));
    assert_eq!(read(&etcd, &mut late), ["4+a", "5+a"]);
    assert!(is_there(&etcd, "a"));
}

#[test]
fn a_backup_brings_back_revisions_that_were_given_already() {
    let mut etcd = Etcd::default();
    put(&mut etcd, "a", None);
    let backup = etcd.backup();
    assert_eq!(put(&mut etcd, "b", None), 3);
    put(&mut etcd, "c", None);
    let mut watch = etcd.watch(Range::Prefix(String::new()), None);

    etcd.restore(NOW, &backup, 0);
    assert!(!is_there(&etcd, "b"));
    assert_eq!(put(&mut etcd, "d", None), 3);
    // The watch waits for a revision that lies in the future now, and misses what happens before.
    assert_eq!(read(&etcd, &mut watch), [] as [&str; 0]);

    etcd.restore(NOW, &backup, 1_000);
    assert_eq!(put(&mut etcd, "d", None), 1_003);
    assert_eq!(etcd.read_watch(&mut watch), Err(EtcdError::Compacted { revision: 1_002 }));
}

#[test]
fn without_space_nothing_is_put_and_leases_live_on() {
    let mut etcd = Etcd::default();
    let (lease, _) = etcd.grant(NOW, 5, None).unwrap();
    etcd.exceed_space();
    assert_eq!(etcd.put("a", Bytes::new(), Some(lease)), Err(EtcdError::NoSpace));
    assert_eq!(etcd.grant(NOW, 5, None), Err(EtcdError::NoSpace));
    assert_eq!(etcd.keep_alive(NOW, lease), Ok(5));
    etcd.clear_space_alarm();
    put(&mut etcd, "a", Some(lease));
}
