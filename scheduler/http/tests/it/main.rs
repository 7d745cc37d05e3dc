//! The HTTP interface over the real driver, log and read model, with a host that pretends to run
//! tasks. Tests are named after the rows of hostile input that they show.
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails and says where and why")]

mod support;

mod auth;
mod boundary;
mod bulk;
mod clocks;
mod cluster;
mod commands;
mod connections;
mod crowds;
mod forwarding;
mod modules;
mod no_space;
mod restart;
mod results;
mod run;
mod shares;
mod snapshots;
mod storage;
mod submission;
mod system;
mod tasks;
mod tenants;
mod tls;
