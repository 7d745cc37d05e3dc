//! The memory of a million queued tasks in the core. The greatest sum of allocations, divided by a
//! million, is that of one.

#![allow(missing_docs, reason = "the benchmarks have no callers")]
#![allow(dead_code, reason = "hosts are of no use here")]

#[path = "core/leader.rs"]
mod leader;

use divan::{AllocProfiler, Bencher};

use leader::{Leader, Size};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench(args = [100, 100_000], sample_count = 1, sample_size = 1)]
fn million_queued(bencher: Bencher, shapes: u32) {
    bencher.bench_local(|| Leader::without_hosts(Size { hosts: 0, shapes, needs: 1, queued: 1_000_000 }));
}
