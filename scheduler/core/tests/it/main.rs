//! Tests of the core through its public interface.

mod boundary;
mod model;
mod names;
mod random;
mod scenario;
mod show;
mod world;
