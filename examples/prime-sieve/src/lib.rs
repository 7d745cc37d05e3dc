//! Counts the primes below a number: pure CPU work in flat memory.

use serde::{Deserialize, Serialize};
use wasmill_guest::{Context, Error, task};

/// The largest number that is accepted; its square root still fits a small table.
const BELOW_MAX: u64 = 1_000_000_000_000;
/// How many numbers are sieved at a time; as many bytes of memory, which a processor keeps close.
const SEGMENT_LEN: u64 = 1 << 18;
/// How many segments pass between two reports of progress.
const SEGMENTS_PER_PROGRESS: u64 = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    below: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    primes: u64,
    largest: Option<u64>,
}

#[task]
fn prime_sieve(ctx: &Context, Input { below }: Input) -> Result<Output, Error> {
    if below > BELOW_MAX {
        return Err(Error::reject(format_args!("`below` is {below}, more than {BELOW_MAX}")));
    }
    let factors = small_primes(below.isqrt() + 1);
    let mut output = Output { primes: 0, largest: None };
    let mut composite = vec![false; SEGMENT_LEN as usize];
    for (number, start) in (2..below).step_by(SEGMENT_LEN as usize).enumerate() {
        let segment = &mut composite[..SEGMENT_LEN.min(below - start) as usize];
        segment.fill(false);
        strike(segment, start, &factors);
        for offset in (0..segment.len()).filter(|offset| !segment[*offset]) {
            output.primes += 1;
            output.largest = Some(start + offset as u64);
        }
        if (number as u64).is_multiple_of(SEGMENTS_PER_PROGRESS) {
            ctx.progress(start, below, "sieved");
        }
    }
    ctx.progress(below, below, "sieved");
    Ok(output)
}

/// Marks the multiples of `factors` in the numbers from `start` on.
fn strike(segment: &mut [bool], start: u64, factors: &[u64]) {
    let end = start + segment.len() as u64;
    for factor in factors.iter().copied().take_while(|factor| factor * factor < end) {
        // Smaller multiples have a smaller factor, which marks them.
        let first = (factor * factor).max(start.next_multiple_of(factor));
        for composite in segment.iter_mut().skip((first - start) as usize).step_by(factor as usize) {
            *composite = true;
        }
    }
}

/// The primes below a small number.
fn small_primes(below: u64) -> Vec<u64> {
    let mut composite = vec![false; below as usize];
    let mut primes = Vec::new();
    for number in 2..below {
        if !composite[number as usize] {
            primes.push(number);
            (number * number..below).step_by(number as usize).for_each(|multiple| composite[multiple as usize] = true);
        }
    }
    primes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sieve(below: u64) -> Result<Output, Error> {
        prime_sieve(&Context::for_test().build(), Input { below })
    }

    #[test]
    fn counts_agree_with_the_known_ones() {
        let cases = [
            (0, 0, None),
            (2, 0, None),
            (3, 1, Some(2)),
            (10, 4, Some(7)),
            (1_000, 168, Some(997)),
            (SEGMENT_LEN + 2, 23_000, Some(262_139)),
            (1_000_000, 78_498, Some(999_983)),
        ];
        for (below, primes, largest) in cases {
            assert_eq!(sieve(below), Ok(Output { primes, largest }), "below {below}");
        }
    }

    #[test]
    fn counts_agree_with_trial_division() {
        let is_prime = |number: &u64| *number >= 2 && !(2..*number).any(|divisor| number.is_multiple_of(divisor));
        for below in 0..200 {
            let primes = (0..below).filter(is_prime).count() as u64;
            assert_eq!(sieve(below), Ok(Output { primes, largest: (0..below).rev().find(is_prime) }), "below {below}");
        }
    }

    #[test]
    fn too_much_is_rejected() {
        assert!(!sieve(BELOW_MAX + 1).expect_err("over the limit").is_retryable());
    }
}
