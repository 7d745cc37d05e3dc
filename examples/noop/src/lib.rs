//! The smallest task: does nothing and returns nothing, so that what is measured is everything around it.

use wasmill_guest::{Error, task};

#[task]
fn noop() -> Result<Vec<u8>, Error> {
    Ok(Vec::new())
}
