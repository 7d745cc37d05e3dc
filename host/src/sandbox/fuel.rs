//! Fuel, exact to the unit.
//!
//! wasmtime looks at the fuel at loops and calls only, so a guest that ends before the next look
//! can have used more than it had, and then shows as having used exactly that. One unit more than
//! the limit is put in: a guest that has used it up has gone over.

use wasmtime::{AsContext, Store, StoreContextMut, Trap};

use super::guest::Guest;

/// The fuel that is put in above the limit.
const FUEL_SPARE: u64 = 1;

/// Fills a new store for a limit, if there is one.
pub(super) fn fill(store: &mut Store<Guest>, limit: Option<u64>) {
    if let Some(fuel) = limit {
        store.set_fuel(fuel.saturating_add(FUEL_SPARE)).expect("a limit on fuel selects a profile that counts it");
    }
}

/// The fuel that is left of the limit; `None` when there is none.
///
/// # Errors
///
/// [`Overspent`] when more than the limit was used.
pub(super) fn left(store: impl AsContext<Data = Guest>) -> Result<Option<u64>, Overspent> {
    let store = store.as_context();
    if store.data().work.limits.fuel.is_none() {
        return Ok(None);
    }
    let fuel = store.get_fuel().expect("a limit on fuel selects a profile that counts it");
    fuel.checked_sub(FUEL_SPARE).map(Some).ok_or(Overspent)
}

/// More fuel was used than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overspent;

/// Takes `price` for what a host function is about to do, if fuel is limited.
///
/// # Errors
///
/// The trap of a guest that has not so much left.
pub(super) fn charge(store: &mut StoreContextMut<'_, Guest>, price: u64) -> wasmtime::Result<()> {
    let left = match left(&*store) {
        Ok(None) => return Ok(()),
        Ok(Some(left)) => left.checked_sub(price),
        Err(Overspent) => None,
    };
    match left {
        Some(left) => store.set_fuel(left + FUEL_SPARE),
        None => {
            store.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}
