//! The simulator is sound, repeatable, and catches bugs.

use wasmill_sim::{Plant, run_seed, run_world};

/// Seeds that are tried before a planted bug counts as not caught.
const SEEDS_TO_CATCH: u64 = 3_000;

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for seed in 0..300 {
        if let Err(failure) = run_seed(seed, None, true) {
            panic!("{failure}");
        }
    }
}

#[test]
fn the_same_seed_takes_the_same_course() {
    for seed in 0..30 {
        let first = run_seed(seed, None, false).unwrap();
        // A traced run may differ in nothing either.
        assert_eq!(first, run_seed(seed, None, true).unwrap());
        assert_ne!(first.trace_hash, run_seed(seed + 1, None, false).unwrap().trace_hash);
    }
}

#[test]
fn every_planted_bug_is_caught() {
    check_caught(&Plant::ALL, false);
}

#[test]
fn every_planted_bug_of_a_cluster_is_caught() {
    check_caught(&Plant::OF_CLUSTERS, true);
}

fn check_caught(plants: &[Plant], clustered: bool) {
    let mut missed = Vec::new();
    for &plant in plants {
        match (0..SEEDS_TO_CATCH).find_map(|seed| run_world(seed, clustered, Some(plant), false).err()) {
            Some(failure) => println!("{plant:?} at seed {}: {}", failure.seed, failure.violation.0),
            None => missed.push(plant),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
