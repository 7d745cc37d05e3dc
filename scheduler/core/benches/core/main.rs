//! The cost of a decision of the core, and of the questions that it is asked, alone and on one
//! thread.
//!
//! A decision is a task ordered, placed, started and ended: no encoding, no log, no network.

#![allow(missing_docs, reason = "the benchmarks have no callers")]

mod leader;

use std::cell::RefCell;

use divan::Bencher;
use divan::counter::ItemsCount;
use wasmill_scheduler_core::Input;

use leader::{Leader, Size};

/// Reports that arrive between two calls of `take_ready`.
const REPORTS: usize = 256;
/// Tasks on a page of the tasks that wait.
const PAGE: u32 = 1_000;
const MILLION: u32 = 1_000_000;

fn main() {
    divan::main();
}

fn decide(bencher: Bencher, size: Size) {
    let leader = RefCell::new(Leader::new(size));
    bencher
        .counter(ItemsCount::new(REPORTS))
        .with_inputs(|| leader.borrow_mut().reports(REPORTS))
        .bench_local_values(|reports| leader.borrow_mut().decide(reports));
}

#[divan::bench(args = [1, 1_000, 10_000], sample_count = 400, sample_size = 1, max_time = 5)]
fn decisions_by_hosts(bencher: Bencher, hosts: u32) {
    decide(bencher, Size { hosts, shapes: 100, needs: 1, queued: MILLION });
}

#[divan::bench(args = [1_000, 16_384, 100_000], sample_count = 400, sample_size = 1, max_time = 5)]
fn decisions_by_shapes(bencher: Bencher, shapes: u32) {
    decide(bencher, Size { hosts: 1_000, shapes, needs: 1, queued: MILLION });
}

/// Sets of labels of which each shape requires one: the lanes.
#[divan::bench(args = [1, 1_000], sample_count = 400, sample_size = 1, max_time = 5)]
fn decisions_by_needs(bencher: Bencher, needs: u32) {
    decide(bencher, Size { hosts: 1_000, shapes: 1_000, needs, queued: MILLION });
}

/// One host, one tenant, one shape: what a single machine has.
#[divan::bench(sample_count = 400, sample_size = 1)]
fn decisions_alone(bencher: Bencher) {
    decide(bencher, Size { hosts: 1, shapes: 1, needs: 1, queued: MILLION });
}

#[divan::bench(args = [1, 1_000, 10_000], sample_count = 400, sample_size = 1)]
fn heartbeat(bencher: Bencher, hosts: u32) {
    let leader = RefCell::new(Leader::new(Size { hosts, shapes: 100, needs: 1, queued: MILLION }));
    let mut host = 0;
    bencher
        .with_inputs(|| {
            host = (host + 1) % hosts;
            leader.borrow_mut().heartbeat(host)
        })
        .bench_local_values(|beat| {
            let mut leader = leader.borrow_mut();
            leader.step(Input::Heartbeat(beat));
            leader.take_ready()
        });
}

#[divan::bench(args = [1_000, 10_000], sample_count = 400, sample_size = 1)]
fn join(bencher: Bencher, hosts: u32) {
    let mut leader = Leader::new(Size { hosts, shapes: 100, needs: 1, queued: MILLION });
    let mut next = hosts;
    bencher.bench_local(|| {
        leader.join(next);
        next += 1;
        leader.core.take_ready()
    });
}

#[divan::bench(args = [1, 10_000], sample_count = 20, sample_size = 1)]
fn explain_page(bencher: Bencher, hosts: u32) {
    let leader = Leader::new(Size { hosts, shapes: 100, needs: 1, queued: MILLION });
    let (end, now) = (leader.tasks(), leader.core.state().time());
    let page: Vec<_> = (end - PAGE..end).map(|number| leader.task(number)).collect();
    bencher.bench_local(|| leader.core.explain_all(&page, now).len());
}

/// A task is submitted, and no host has a place for it.
#[divan::bench(args = [1, 1_000, 10_000], sample_count = 400, sample_size = 1)]
fn wake_up_without_room(bencher: Bencher, hosts: u32) {
    let leader = RefCell::new(Leader::new(Size { hosts, shapes: 100, needs: 1, queued: MILLION }));
    bencher.with_inputs(|| leader.borrow_mut().submit()).bench_local_values(|()| leader.borrow_mut().take_ready());
}
