//! Randomness of any size, in pieces: each is quickly made, and between two of them others run and
//! a stop takes effect.

use std::ops::Range;

use wasmtime::component::Linker;
use wasmtime::{AsContextMut, Caller, Memory, StoreContextMut, Trap};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::random::{insecure, random};
use wasmtime_wasi::random::WasiRandomCtx;

use super::fuel;
use super::guest::Guest;

/// The interfaces of WASI 0.2, in the version of wasmtime-wasi's: what is not defined here stays
/// its own.
const SECURE_INTERFACE: &str = "wasi:random/random@0.2.12";
const INSECURE_INTERFACE: &str = "wasi:random/insecure@0.2.12";

/// Bytes of one piece.
pub(super) const PIECE_BYTES: u64 = 64 * 1024;
/// The fuel of each byte beyond the first piece of a call, as a divisor: a call that was
/// always possible costs what it did.
const BYTES_PER_FUEL: u64 = 8;
/// The longest list of random bytes that a component can ask for: it is made on our side before it
/// is copied into the guest's memory.
const LIST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Fills a part of a core module's memory.
pub(super) async fn write(
    caller: &mut Caller<'_, Guest>,
    memory: &Memory,
    start: u32,
    length: u32,
) -> wasmtime::Result<()> {
    if u64::from(start) + u64::from(length) > memory.data_size(&*caller) as u64 {
        return Err(Trap::MemoryOutOfBounds.into());
    }
    for piece in pieces(u64::from(length)) {
        pay(&mut caller.as_context_mut(), &piece).await?;
        let source = caller.data_mut().p1().ctx().ctx.random();
        let bytes = random::Host::get_random_bytes(source, piece.end - piece.start)?;
        memory.write(&mut *caller, start as usize + piece.start as usize, &bytes)?;
    }
    Ok(())
}

/// Defines the functions of WASI 0.2 that give many bytes; shadowing must be allowed.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(SECURE_INTERFACE)?.func_wrap_async("get-random-bytes", |store, (length,): (u64,)| {
        Box::new(async move { Ok((list(store, length, random::Host::get_random_bytes).await?,)) })
    })?;
    linker.instance(INSECURE_INTERFACE)?.func_wrap_async("get-insecure-random-bytes", |store, (length,): (u64,)| {
        Box::new(async move { Ok((list(store, length, insecure::Host::get_insecure_random_bytes).await?,)) })
    })
}

/// A list for a component, which must have room for it.
async fn list(
    mut store: StoreContextMut<'_, Guest>,
    length: u64,
    draw: fn(&mut WasiRandomCtx, u64) -> wasmtime::Result<Vec<u8>>,
) -> wasmtime::Result<Vec<u8>> {
    let bytes_max = LIST_BYTES_MAX.min(store.data().work.limits.memory_bytes);
    if length > bytes_max {
        return Err(wasmtime::format_err!(
            "asked for {length} random bytes at once, over the limit of {bytes_max}: ask for them in pieces"
        ));
    }
    let mut bytes = Vec::new();
    for piece in pieces(length) {
        pay(&mut store, &piece).await?;
        bytes.append(&mut draw(store.data_mut().ctx().ctx.random(), piece.end - piece.start)?);
    }
    Ok(bytes)
}

fn pieces(length: u64) -> impl Iterator<Item = Range<u64>> {
    (0..length.div_ceil(PIECE_BYTES)).map(move |n| n * PIECE_BYTES..length.min((n + 1) * PIECE_BYTES))
}

/// Charges a piece that is not the first of its call, and lets others run before it.
async fn pay(store: &mut StoreContextMut<'_, Guest>, piece: &Range<u64>) -> wasmtime::Result<()> {
    if piece.start == 0 {
        return Ok(());
    }
    fuel::charge(store, (piece.end - piece.start) / BYTES_PER_FUEL)?;
    tokio::task::yield_now().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_bytes_once() {
        for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 10 * PIECE_BYTES + 7] {
            let mut end = 0;
            for piece in pieces(length) {
                assert_eq!(piece.start, end, "{length}");
                assert!(piece.end > piece.start && piece.end - piece.start <= PIECE_BYTES, "{length}");
                end = piece.end;
            }
            assert_eq!(end, length);
        }
    }
}
