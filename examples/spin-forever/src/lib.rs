//! Never ends by itself: what cancelling and limits are for.

use std::hint::black_box;

use wasmill_guest::{Context, Error, task};

#[task]
fn spin_forever(ctx: &Context) -> Result<Vec<u8>, Error> {
    ctx.progress(0, 0, "spinning");
    let mut turns = 0_u64;
    loop {
        // The compiler must neither remove the loop nor know that it never ends.
        turns = black_box(turns).wrapping_add(1);
    }
}
