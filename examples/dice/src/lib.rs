//! Throws dice and breaks when the same number comes three times in a row: a fault of chance.
//! Submitted as deterministic, it is the same chance whenever it is run again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use wasmill_guest::{Context, Error, task};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    throws: u32,
}

/// The sum of all throws, and when they were made, by the guest's own clock.
#[derive(Debug, PartialEq, Serialize)]
struct Output {
    sum: u64,
    at_us: u64,
}

#[task]
fn dice(ctx: &Context, Input { throws }: Input) -> Result<Output, Error> {
    let chance = RandomState::new();
    let sum = play((0..throws).map(|number| chance.hash_one(number) % 6 + 1));
    ctx.progress(u64::from(throws), u64::from(throws), "thrown");
    let at_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
    Ok(Output { sum, at_us })
}

/// Not inlined, so that a backtrace names it.
#[inline(never)]
fn play(throws: impl Iterator<Item = u64>) -> u64 {
    let (mut sum, mut last, mut times) = (0, 0, 0);
    for (number, throw) in throws.enumerate() {
        times = if throw == last { times + 1 } else { 1 };
        last = throw;
        assert!(times < 3, "three times {throw}, at throw {number}");
        sum += throw;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throws_are_added_up() {
        assert_eq!(play([1, 6, 6, 1, 1, 6].into_iter()), 21);
        assert_eq!(play(std::iter::empty()), 0);
    }

    #[test]
    fn three_in_a_row_break_it() {
        assert!(std::panic::catch_unwind(|| play([2, 6, 6, 6].into_iter())).is_err());
    }
}
