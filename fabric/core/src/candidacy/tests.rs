//! Every rule, with plain values: leases of 3,000 us that count as lost 100 us before they can end.

use super::*;
use crate::lease::{KeepAlive, KeepAliveNumber, LeaseLost};

const ONE: Round = Round(1);
const TWO: Round = Round(2);
const LEASE: LeaseId = LeaseId(77);
const TERM: Term = Term(12);

fn candidate() -> Candidacy {
    let mut candidate = Candidacy::new(Config { margin_us: 100, retry_us: 200, retry_us_max: 1_000, seed: 1 });
    assert_eq!(step(&mut candidate, 0, Input::Tick), [Action::Grant { round: ONE }]);
    candidate
}

fn step(candidate: &mut Candidacy, now_us: u64, input: Input) -> Vec<Action> {
    candidate.step(now_us, input);
    candidate.take_ready()
}

fn campaigning() -> Candidacy {
    let mut candidate = candidate();
    let actions = step(&mut candidate, 10, Input::Granted { round: ONE, lease: LEASE, ttl_us: 3_000 });
    assert_eq!(actions, [Action::Campaign { round: ONE, lease: LEASE }]);
    candidate
}

fn elected() -> Candidacy {
    let mut candidate = campaigning();
    let actions = step(&mut candidate, 20, Input::Won { round: ONE, term: TERM });
    assert_eq!(actions, [Action::Guard { round: ONE, lease: LEASE, term: TERM }]);
    assert_eq!(candidate.elected(), None);
    let actions = step(&mut candidate, 30, Input::Guarded { round: ONE, holds: true });
    assert_eq!(actions, [Action::Elected { term: TERM }]);
    assert_eq!(candidate.elected(), Some(TERM));
    candidate
}

fn keep_alive(number: u64, reopen: bool) -> Action {
    let keep_alive = KeepAlive { number: KeepAliveNumber(number), reopen };
    Action::KeepAlive { round: ONE, lease: LEASE, keep_alive }
}

/// The round is over: the next one begins in time, and nothing of the old one is heard in it.
fn assert_starts_again(candidate: &mut Candidacy, now_us: u64) {
    let next_us = candidate.next_timeout_us().unwrap();
    assert!((now_us + 100..=now_us + 200).contains(&next_us), "{next_us} after {now_us}");
    assert_eq!(step(candidate, next_us, Input::Tick), [Action::Grant { round: TWO }]);
    for late in [
        Input::Won { round: ONE, term: TERM },
        Input::Guarded { round: ONE, holds: true },
        Input::Failed { round: ONE },
        Input::KeptAlive { round: ONE, number: KeepAliveNumber(1), ttl_us: 0 },
    ] {
        assert_eq!(step(candidate, next_us, late), []);
    }
    let granted = Input::Granted { round: TWO, lease: LeaseId(78), ttl_us: 3_000 };
    assert_eq!(step(candidate, next_us, granted), [Action::Campaign { round: TWO, lease: LeaseId(78) }]);
}

#[test]
fn a_candidate_is_elected_after_the_guarded_write() {
    elected();
}

#[test]
fn the_lease_is_kept_alive_while_the_election_is_waited_for() {
    let mut candidate = campaigning();
    for number in 1..100 {
        let now_us = number * 1_000;
        assert_eq!(step(&mut candidate, now_us, Input::Tick), [keep_alive(number, number == 1)]);
        let kept = Input::KeptAlive { round: ONE, number: KeepAliveNumber(number), ttl_us: 3_000 };
        assert_eq!(step(&mut candidate, now_us + 5, kept), []);
    }
    let won = step(&mut candidate, 99_010, Input::Won { round: ONE, term: TERM });
    assert_eq!(won, [Action::Guard { round: ONE, lease: LEASE, term: TERM }]);
}

#[test]
fn f12_a_won_election_without_a_seat_starts_again() {
    let mut candidate = campaigning();
    step(&mut candidate, 20, Input::Won { round: ONE, term: TERM });
    let actions = step(&mut candidate, 30, Input::Guarded { round: ONE, holds: false });
    assert_eq!(actions, [Action::Revoke { lease: LEASE }]);
    assert_starts_again(&mut candidate, 30);
}

#[test]
fn f12_a_lease_that_dies_in_the_queue_starts_again() {
    let mut candidate = campaigning();
    assert_eq!(step(&mut candidate, 1_000, Input::Tick), [keep_alive(1, true)]);
    let ended = Input::KeptAlive { round: ONE, number: KeepAliveNumber(1), ttl_us: 0 };
    assert_eq!(step(&mut candidate, 1_010, ended), [Action::Revoke { lease: LEASE }]);
    assert_starts_again(&mut candidate, 1_010);
}

#[test]
fn a_candidate_that_slept_past_its_deadline_does_not_believe_that_it_won() {
    let mut candidate = campaigning();
    let actions = step(&mut candidate, 60_000, Input::Won { round: ONE, term: TERM });
    assert_eq!(actions, [Action::Revoke { lease: LEASE }]);
    assert_starts_again(&mut candidate, 60_000);

    let mut candidate = campaigning();
    step(&mut candidate, 20, Input::Won { round: ONE, term: TERM });
    let actions = step(&mut candidate, 60_000, Input::Guarded { round: ONE, holds: true });
    assert_eq!(actions, [Action::Revoke { lease: LEASE }]);
    assert_starts_again(&mut candidate, 60_000);
}

#[test]
fn any_error_of_a_campaign_gives_the_lease_back() {
    let mut candidate = campaigning();
    assert_eq!(step(&mut candidate, 20, Input::Failed { round: ONE }), [Action::Revoke { lease: LEASE }]);
    assert_starts_again(&mut candidate, 20);
}

#[test]
fn a_guarded_write_without_an_answer_gives_the_lease_back() {
    let mut candidate = campaigning();
    step(&mut candidate, 20, Input::Won { round: ONE, term: TERM });
    assert_eq!(step(&mut candidate, 30, Input::Failed { round: ONE }), [Action::Revoke { lease: LEASE }]);
    assert_starts_again(&mut candidate, 30);
}

#[test]
fn the_waits_between_failed_rounds_grow_up_to_their_bound() {
    let mut candidate = candidate();
    let (mut now_us, mut waits) = (0, Vec::new());
    for round in 1..=6 {
        assert_eq!(step(&mut candidate, now_us, Input::Failed { round: Round(round) }), []);
        let next_us = candidate.next_timeout_us().unwrap();
        waits.push(next_us - now_us);
        now_us = next_us;
        assert_eq!(step(&mut candidate, now_us, Input::Tick), [Action::Grant { round: Round(round + 1) }]);
    }
    for (wait_us, whole_us) in waits.iter().zip([200, 400, 800, 1_000, 1_000, 1_000]) {
        assert!((whole_us / 2..=whole_us).contains(wait_us), "{waits:?}");
    }
}

#[test]
fn f15_a_leader_whose_lease_says_zero_or_says_nothing_is_lost_for_ever() {
    let mut candidate = elected();
    step(&mut candidate, 1_000, Input::Tick);
    let ended = Input::KeptAlive { round: ONE, number: KeepAliveNumber(1), ttl_us: 0 };
    assert_eq!(step(&mut candidate, 1_010, ended), [Action::Lost { reason: LeaseLost::Ended }]);
    assert_eq!((candidate.elected(), candidate.next_timeout_us()), (None, None));

    let mut candidate = elected();
    // The stream fails again and again, and is opened anew again and again.
    let mut number = 0;
    let lost = loop {
        let now_us = candidate.next_timeout_us().unwrap();
        match step(&mut candidate, now_us, Input::Tick)[..] {
            [Action::KeepAlive { keep_alive, .. }] => {
                number += 1;
                assert_eq!(keep_alive, KeepAlive { number: KeepAliveNumber(number), reopen: true });
                let failed = Input::KeepAliveFailed { round: ONE, number: keep_alive.number };
                assert_eq!(step(&mut candidate, now_us + 1, failed), []);
            }
            [Action::Lost { reason }] => break (now_us, reason),
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(lost, (2_900, LeaseLost::Expired { after_ms: 2 }));
    assert!(number > 5, "{number} tries");
    assert_eq!(step(&mut candidate, 3_000, Input::Resign), []);
}

#[test]
fn whoever_resigns_gives_everything_back() {
    let mut candidate = elected();
    assert_eq!(step(&mut candidate, 40, Input::Resign), [Action::Release { lease: LEASE, term: TERM }]);
    assert_eq!(step(&mut candidate, 90_000, Input::Tick), []);
    assert_eq!(candidate.elected(), None);

    let mut candidate = campaigning();
    assert_eq!(step(&mut candidate, 40, Input::Resign), [Action::Revoke { lease: LEASE }]);
    assert_eq!(step(&mut candidate, 50, Input::Won { round: ONE, term: TERM }), []);
}

#[test]
fn a_lease_that_is_granted_too_late_is_given_back() {
    let mut candidate = candidate();
    assert_eq!(step(&mut candidate, 1, Input::Resign), []);
    let granted = Input::Granted { round: ONE, lease: LEASE, ttl_us: 3_000 };
    assert_eq!(step(&mut candidate, 2, granted), [Action::Revoke { lease: LEASE }]);
}

#[test]
fn answers_that_do_not_belong_to_what_is_under_way_change_nothing() {
    let mut candidate = elected();
    for input in [
        Input::Won { round: ONE, term: Term(99) },
        Input::Guarded { round: ONE, holds: false },
        Input::Failed { round: ONE },
    ] {
        assert_eq!(step(&mut candidate, 40, input), []);
    }
    assert_eq!(candidate.elected(), Some(TERM));
}
