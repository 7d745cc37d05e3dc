//! Allocates until it is refused.

use serde::{Deserialize, Serialize};
use wasmill_guest::{Context, Error, task};

/// How much is allocated at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The reaction when there is no more memory.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WhenRefused {
    /// As most programs: take it for granted, and die of it.
    #[default]
    Insist,
    /// Notice, and return how much there was.
    Stop,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    when_refused: WhenRefused,
    /// Stop here of its own accord.
    mib_max: Option<usize>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    mib: usize,
}

#[task]
fn memory_hog(ctx: &Context, input: Option<Input>) -> Result<Output, Error> {
    let Input { when_refused, mib_max } = input.unwrap_or_default();
    let mut hoard = Vec::new();
    while mib_max.is_none_or(|mib_max| hoard.len() < mib_max) {
        let mut chunk = Vec::<u8>::new();
        match when_refused {
            WhenRefused::Insist => chunk.reserve_exact(CHUNK_BYTES),
            WhenRefused::Stop if chunk.try_reserve_exact(CHUNK_BYTES).is_err() => break,
            WhenRefused::Stop => {}
        }
        // Memory that is not written to costs nothing, here or there.
        chunk.resize(CHUNK_BYTES, 0xA5);
        hoard.push(chunk);
        ctx.progress(hoard.len() as u64, mib_max.unwrap_or(0) as u64, "MiB");
    }
    Ok(Output { mib: hoard.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_of_its_own_accord() {
        let ctx = Context::for_test().build();
        let input = Input { when_refused: WhenRefused::Stop, mib_max: Some(3) };
        assert_eq!(memory_hog(&ctx, Some(input)), Ok(Output { mib: 3 }));
        assert_eq!(ctx.recorded().progress.len(), 3);
    }
}
