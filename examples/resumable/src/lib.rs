//! A long computation that the next attempt continues from a checkpoint.
//!
//! Each step stirs a number for a while; the result depends on every step, so a step lost or done
//! twice would show.

use serde::{Deserialize, Serialize};
use wasmill_guest::{Context, Error, task};

/// Where the computation starts.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    /// How many steps there are.
    steps: u32,
    /// How much work a step is; a million take about two milliseconds.
    rounds_per_step: u64,
    /// Every attempt gives up after this many steps, as if something had gone wrong.
    interrupt_after: Option<u32>,
}

impl Default for Input {
    fn default() -> Self {
        Self { steps: 200, rounds_per_step: 10_000_000, interrupt_after: None }
    }
}

/// The facts that the next attempt needs.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    steps_done: u32,
    /// As text, since JSON numbers are not exact this far up in every language.
    value: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    value: String,
    attempt: u32,
    /// How many steps earlier attempts had done.
    resumed_at: u32,
}

#[task]
fn resumable(ctx: &Context, input: Option<Input>) -> Result<Output, Error> {
    let Input { steps, rounds_per_step, interrupt_after } = input.unwrap_or_default();
    let (resumed_at, mut value) = match ctx.checkpoint_load_json::<Checkpoint>()? {
        Some(saved) => (saved.steps_done, u64::from_str_radix(&saved.value, 16).map_err(Error::reject)?),
        None => (0, SEED),
    };
    println!("attempt {} starts at step {resumed_at} of {steps}", ctx.attempt());

    for step in resumed_at..steps {
        if interrupt_after.is_some_and(|after| step - resumed_at >= after) {
            return Err(Error::retry(format_args!("interrupted at step {step} of {steps}")));
        }
        value = stir(value, rounds_per_step);
        ctx.checkpoint_save_json(&Checkpoint { steps_done: step + 1, value: format!("{value:016x}") })?;
        ctx.progress(u64::from(step) + 1, u64::from(steps), "steps");
    }
    Ok(Output { value: format!("{value:016x}"), attempt: ctx.attempt(), resumed_at })
}

/// A xorshift generator (Marsaglia, "Xorshift RNGs", 2003, triple 13, 7, 17): no round can be
/// skipped.
fn stir(mut value: u64, rounds: u64) -> u64 {
    for _ in 0..rounds {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(interrupt_after: Option<u32>) -> Input {
        Input { steps: 10, rounds_per_step: 100, interrupt_after }
    }

    #[test]
    fn interrupted_attempts_come_to_the_same_value() {
        let whole = resumable(&Context::for_test().build(), Some(input(None))).expect("nothing interrupts");
        assert_eq!(whole.value, format!("{:016x}", stir(SEED, 1000)));

        let mut saved: Option<Vec<u8>> = None;
        for attempt in 1.. {
            let mut builder = Context::for_test().attempt(attempt);
            if let Some(state) = saved {
                builder = builder.checkpoint(state);
            }
            let ctx = builder.build();
            match resumable(&ctx, Some(input(Some(4)))) {
                Ok(output) => {
                    assert_eq!(output, Output { value: whole.value, attempt: 3, resumed_at: 8 });
                    break;
                }
                Err(error) => {
                    assert!(error.is_retryable());
                    assert_eq!(error.message(), format!("interrupted at step {} of 10", attempt * 4));
                }
            }
            saved = ctx.checkpoint_load();
        }
    }

    #[test]
    fn a_foreign_checkpoint_is_rejected() {
        let ctx = Context::for_test().checkpoint("?").build();
        assert!(!resumable(&ctx, Some(input(None))).expect_err("that is no checkpoint").is_retryable());
    }
}
