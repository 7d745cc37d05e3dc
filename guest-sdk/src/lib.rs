//! Write Wasmill tasks in Rust.
//!
//! A task is one function: input in, result out. [`task`] makes it the entry point of a WebAssembly
//! component.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use wasmill_guest::{Context, Error, task};
//!
//! #[derive(Deserialize)]
//! struct Input {
//!     text: String,
//! }
//!
//! #[derive(Serialize)]
//! struct Output {
//!     words: usize,
//! }
//!
//! #[task]
//! fn count(ctx: &Context, input: Input) -> Result<Output, Error> {
//!     if input.text.is_empty() {
//!         return Err(Error::reject("there is no text to count"));
//!     }
//!     ctx.progress(1, 1, "counted");
//!     Ok(Output { words: input.text.split_whitespace().count() })
//! }
//! # let ctx = Context::for_test().build();
//! # assert_eq!(count(&ctx, Input { text: "a b".into() }).unwrap().words, 2);
//! ```
//!
//! `cargo build --release --target wasm32-wasip2` turns it into a module that a Wasmill server
//! accepts.
//!
//! # Input and output
//!
//! The payload of the task is read as JSON into the input type, and the output type is written as
//! JSON. `Vec<u8>` on either side means the bytes as they are. Input that is not what the type asks
//! for rejects the task, with a message that says where; the function is not called. An empty
//! payload counts as `null`, so it fits `()` and `Option`.
//!
//! # Failing
//!
//! [`Error::reject`] ends the task: the same input would fail again. [`Error::retry`] asks for
//! another attempt, and so does `?` on any [`std::error::Error`]. A panic is a trap: its message is
//! in the captured output.
//!
//! # Printing
//!
//! `println!`, `eprintln!` and [`Context::info`] with its siblings go to the captured output of the
//! task. Standard output is flushed when the function returns; a panic before that loses a line
//! that has no end yet.
//!
//! # Testing
//!
//! The function stays an ordinary function. [`Context::for_test`] makes a context outside of a
//! server, which records what the function does with it, so `cargo test` needs neither server nor
//! WebAssembly.

#[cfg(all(target_arch = "wasm32", not(target_env = "p2")))]
compile_error!("a Wasmill task is a component: build it with `--target wasm32-wasip2`");

mod context;
mod error;
mod json_path;
mod payload;

#[cfg(target_arch = "wasm32")]
mod component;
#[cfg(not(target_arch = "wasm32"))]
mod recorder;

pub use context::{Context, Level};
pub use error::Error;
pub use payload::invoke;
#[cfg(not(target_arch = "wasm32"))]
pub use recorder::{Progress, Recorded, TestContext};
pub use wasmill_guest_macros::task;

/// The items that the expansion of [`task`] names. Not for use by hand; it changes without notice.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_arch = "wasm32")]
    pub use crate::component::{Failure, bindings, run};
}
