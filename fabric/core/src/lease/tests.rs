//! Every rule, with plain values: a lease of 3,000 us that counts as lost 100 us before it can end.

use super::*;

fn lease() -> Lease {
    Lease::new(0, 3_000, 100)
}

/// Steps to `now_us`, and says what is to be done.
fn tick(lease: &mut Lease, now_us: u64) -> LeaseReady {
    lease.step(now_us, LeaseInput::Tick);
    lease.take_ready()
}

fn keep_alive(number: u64, reopen: bool) -> LeaseReady {
    LeaseReady { keep_alive: Some(KeepAlive { number: KeepAliveNumber(number), reopen }), lost: None }
}

fn lost(reason: LeaseLost) -> LeaseReady {
    LeaseReady { keep_alive: None, lost: Some(reason) }
}

fn kept(lease: &mut Lease, now_us: u64, number: u64, ttl_us: u64) -> LeaseReady {
    lease.step(now_us, LeaseInput::KeptAlive { number: KeepAliveNumber(number), ttl_us });
    lease.take_ready()
}

fn failed(lease: &mut Lease, now_us: u64, number: u64) -> LeaseReady {
    lease.step(now_us, LeaseInput::Failed(KeepAliveNumber(number)));
    lease.take_ready()
}

#[test]
fn it_is_kept_alive_after_each_third() {
    let mut lease = lease();
    assert_eq!(lease.next_timeout_us(), Some(1_000));
    assert_eq!(tick(&mut lease, 999), LeaseReady::default());
    assert_eq!(tick(&mut lease, 1_000), keep_alive(1, true));
    // One at a time.
    assert_eq!(tick(&mut lease, 1_500), LeaseReady::default());
    assert_eq!(kept(&mut lease, 1_600, 1, 3_000), LeaseReady::default());
    assert_eq!(lease.next_timeout_us(), Some(2_000));
    assert_eq!(tick(&mut lease, 2_000), keep_alive(2, false));
}

#[test]
fn the_deadline_counts_from_when_the_keepalive_was_sent() {
    let mut lease = lease();
    tick(&mut lease, 1_000);
    kept(&mut lease, 1_900, 1, 3_000);
    tick(&mut lease, 2_000);
    assert_eq!(tick(&mut lease, 3_000), LeaseReady::default());
    assert_eq!(tick(&mut lease, 3_030), keep_alive(3, true));
    assert_eq!(tick(&mut lease, 3_899).lost, None);
    assert_eq!(tick(&mut lease, 3_900), lost(LeaseLost::Expired { after_ms: 2 }));
}

#[test]
fn a_stream_that_ends_is_opened_anew_while_time_is_left() {
    let mut lease = lease();
    tick(&mut lease, 1_000);
    assert_eq!(failed(&mut lease, 1_001, 1), LeaseReady::default());
    assert_eq!(tick(&mut lease, 1_031), keep_alive(2, true));
    failed(&mut lease, 1_032, 2);
    assert_eq!(lease.next_timeout_us(), Some(1_092));
    assert_eq!(tick(&mut lease, 1_092), keep_alive(3, true));
    kept(&mut lease, 1_100, 3, 3_000);
    assert_eq!(tick(&mut lease, 2_092), keep_alive(4, false));
}

#[test]
fn a_stream_that_stalls_is_opened_anew_and_its_answer_is_ignored() {
    let mut lease = lease();
    tick(&mut lease, 1_000);
    assert_eq!(tick(&mut lease, 2_000), LeaseReady::default());
    assert_eq!(tick(&mut lease, 2_030), keep_alive(2, true));
    kept(&mut lease, 2_040, 1, 3_000);
    assert_eq!(tick(&mut lease, 2_900), lost(LeaseLost::Expired { after_ms: 2 }));
}

#[test]
fn an_answer_of_zero_ends_it_at_once() {
    let mut lease = lease();
    tick(&mut lease, 1_000);
    assert_eq!(kept(&mut lease, 1_010, 1, 0), lost(LeaseLost::Ended));
    assert_eq!(lease.next_timeout_us(), None);
}

#[test]
fn what_is_lost_stays_lost() {
    let mut lease = lease();
    tick(&mut lease, 1_000);
    // Stopped for so long that the answer waits behind the deadline.
    assert_eq!(kept(&mut lease, 60_000_000, 1, 3_000), lost(LeaseLost::Expired { after_ms: 60_000 }));
    assert_eq!(kept(&mut lease, 60_000_001, 1, 3_000), LeaseReady::default());
    assert_eq!(tick(&mut lease, 60_000_002), LeaseReady::default());
    assert_eq!(lease.lost(), Some(LeaseLost::Expired { after_ms: 60_000 }));
}

#[test]
fn a_grant_that_took_too_long_is_lost_from_the_beginning() {
    let mut lease = Lease::new(0, 3_000, 100);
    assert_eq!(tick(&mut lease, 2_900), lost(LeaseLost::Expired { after_ms: 2 }));
}

#[test]
fn the_server_decides_how_long_it_lives() {
    let mut lease = lease();
    tick(&mut lease, 1_000);
    kept(&mut lease, 1_001, 1, 30_000);
    assert_eq!(lease.next_timeout_us(), Some(11_000));
    // A shorter one does not take back what was promised.
    tick(&mut lease, 11_000);
    kept(&mut lease, 11_001, 2, 3_000);
    assert_eq!(tick(&mut lease, 12_000), keep_alive(3, false));
    assert_eq!(tick(&mut lease, 30_000).lost, None);
    assert!(tick(&mut lease, 30_900).lost.is_some());
}
