//! The smallest task: takes any payload, does nothing and returns nothing, so that what is measured
//! is everything around it.
//!
//! It is no model for other tasks. Rust's standard library would bring twenty WASI imports and two
//! more core modules, which cost more to instantiate than the task costs to run; so this one does
//! without it, and without the SDK that needs it. The component has one kilobyte.
#![cfg_attr(target_arch = "wasm32", no_std)]

#[cfg(target_arch = "wasm32")]
mod component;
