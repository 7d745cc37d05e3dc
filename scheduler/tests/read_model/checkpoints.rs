//! Which checkpoint each attempt began with, so that the attempt can be run again.

use std::time::Duration;

use wasmill_protocol::{Attempt, Digest, FinalState, OutcomeKind, Payload, Timestamp};
use wasmill_record::event::{EventBody, Sequel};
use wasmill_scheduler::read_model::BeganWith;

use crate::support::{Fed, attempt, blob, ended, ended_before, id, spec, started, submitted, succeeded, tenant};

fn saved(try_number: u32, data: Payload) -> EventBody {
    EventBody::CheckpointSaved { id: attempt(1, try_number), number: 1, data }
}

fn failed(try_number: u32) -> EventBody {
    ended(1, try_number, OutcomeKind::Errored, Sequel::Retry { not_before: Timestamp(1) })
}

async fn began_with(fed: &Fed, number: u32) -> BeganWith {
    fed.model.began_with(&tenant("a"), id(1), Attempt(number)).await.unwrap().unwrap()
}

async fn is_referenced(fed: &Fed, number: u8) -> bool {
    fed.model.is_referenced(Digest([number; 32])).await.unwrap()
}

#[tokio::test]
async fn every_attempt_began_with_what_was_saved_last_before_it() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("a")), started(1, 1), saved(1, blob(7)), saved(1, blob(8)), failed(1)]);
    fed.feed([started(1, 2), failed(2)]);
    fed.feed([started(1, 3), saved(3, Payload::inline("state".into())), failed(3)]);
    fed.feed([started(1, 4), saved(4, blob(9)), succeeded(1, 4)]);
    for fed in [fed.crash(), fed.reopen()] {
        let inline = BeganWith::Checkpoint(Payload::inline("state".into()));
        let expected = [BeganWith::Nothing, BeganWith::Checkpoint(blob(8)), BeganWith::Checkpoint(blob(8)), inline];
        for (number, expected) in (1..).zip(expected) {
            assert_eq!(began_with(&fed, number).await, expected, "attempt {number}");
        }
        let referenced = [is_referenced(&fed, 7).await, is_referenced(&fed, 8).await, is_referenced(&fed, 9).await];
        assert_eq!(referenced, [false, true, false], "what no attempt began with goes with the end");
        let other = fed.model.began_with(&tenant("b"), id(1), Attempt(2)).await.unwrap();
        assert_eq!(other, None);
    }
}

#[tokio::test]
async fn a_guest_can_take_its_checkpoint_back() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("a")), started(1, 1), saved(1, blob(8)), failed(1)]);
    fed.feed([started(1, 2), saved(2, Payload::Empty), failed(2), started(1, 3)]);
    assert_eq!(began_with(&fed, 2).await, BeganWith::Checkpoint(blob(8)));
    assert_eq!(began_with(&fed, 3).await, BeganWith::Nothing);
}

#[tokio::test]
async fn only_the_latest_are_kept_and_they_go_with_the_task() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("a")), started(1, 1), saved(1, blob(1)), failed(1)]);
    for number in 2..8 {
        fed.feed([started(1, number), saved(number, blob(number as u8)), failed(number)]);
        fed.model.flush().await.unwrap();
    }
    fed.feed([started(1, 8), ended(1, 8, OutcomeKind::Errored, Sequel::Final { state: FinalState::Failed })]);
    assert_eq!(began_with(&fed, 1).await, BeganWith::Nothing);
    for number in 2..=4 {
        assert_eq!(began_with(&fed, number).await, BeganWith::Forgotten, "attempt {number}");
        assert!(!is_referenced(&fed, number as u8 - 1).await);
    }
    for number in 5..=8 {
        assert_eq!(began_with(&fed, number).await, BeganWith::Checkpoint(blob(number as u8 - 1)), "attempt {number}");
        assert!(is_referenced(&fed, number as u8 - 1).await);
    }
    fed.model.sweep(ended_before(fed.now(), Duration::ZERO)).await.unwrap();
    for number in 1..8 {
        assert!(!is_referenced(&fed, number).await, "blob {number}");
    }
}
