//! Being stopped: while computing, while waiting, before beginning, and just when it ends.

use std::time::{Duration, Instant};

use wasmill_host::channel::FromSandbox;
use wasmill_host::engine::Profile;
use wasmill_host::sandbox::{Linkers, TICK};
use wasmill_protocol::OutcomeKind;
use wasmtime::Module;

use crate::sandbox_command::command_component;
use crate::sandbox_support::{GUESTS_MAX, HOST_IMPORTS, TestSandbox, assert_kind, command, task};

/// The time that a busy machine may add.
const SCHEDULING: Duration = Duration::from_millis(1500);

/// Says on the way that it runs, so that a test knows when to stop it.
fn spinning_task() -> String {
    let body = "(call $progress (f64.const 1) (f64.const 0) (i32.const 0) (i32.const 0)) (loop $again (br $again)) (i32.const 0)";
    task(HOST_IMPORTS, "", body)
}

async fn started(sandbox: &mut TestSandbox) {
    sandbox
        .wait(|message| match message {
            FromSandbox::Progress(..) => Ok(()),
            other => Err(other),
        })
        .await;
}

#[tokio::test]
async fn a_guest_that_computes_is_stopped_within_a_tick() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&spinning_task());
    let id = work.id;
    sandbox.start_work(work).await;
    started(&mut sandbox).await;
    let asked = Instant::now();
    sandbox.stop(id).await;
    let ended = sandbox.ended(id).await;
    assert_kind(&ended, OutcomeKind::Cancelled);
    assert!(asked.elapsed() < TICK + SCHEDULING, "{:?}", asked.elapsed());
    assert!(ended.usage.cpu_us > 0);
}

#[tokio::test]
async fn the_load_counts_guests_that_run_still() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&spinning_task());
    let id = work.id;
    sandbox.start_work(work).await;
    while sandbox.load_cpu_us().await == 0 {}
    sandbox.stop(id).await;
    assert_kind(&sandbox.ended(id).await, OutcomeKind::Cancelled);
}

#[tokio::test]
async fn b30_a_guest_that_waits_in_a_host_call_is_dropped() {
    let mut sandbox = TestSandbox::start();
    for wat in [command("", "(call $sleep (i64.const 0x7fffffffffffffff))"), command_component("", u64::MAX >> 1, 0)] {
        let work = sandbox.work(&wat);
        let id = work.id;
        sandbox.start_work(work).await;
        // Work is taken in order: when the one after it has ended, this one has at least been
        // started.
        let marker = sandbox.work(&command("", ""));
        sandbox.run(marker).await;
        let asked = Instant::now();
        sandbox.stop(id).await;
        assert_kind(&sandbox.ended(id).await, OutcomeKind::Cancelled);
        assert!(asked.elapsed() < TICK + SCHEDULING, "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn a_stop_right_after_the_start_ends_it_too() {
    let mut sandbox = TestSandbox::start();
    for _ in 0..20 {
        let work = sandbox.work(&spinning_task());
        let id = work.id;
        sandbox.start_work(work).await;
        sandbox.stop(id).await;
        assert_kind(&sandbox.ended(id).await, OutcomeKind::Cancelled);
    }
}

#[tokio::test]
async fn b31_a_stop_that_races_with_the_end_gives_one_end() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&command("", ""));
    let mut ids = Vec::new();
    for _ in 0..300 {
        let work = sandbox.again(&work);
        ids.push(work.id);
        sandbox.start_work(work.clone()).await;
        sandbox.stop(work.id).await;
    }
    let mut ended: Vec<_> = sandbox
        .close()
        .await
        .into_iter()
        .map(|message| match message {
            FromSandbox::Ended(ended) => {
                let kind = ended.outcome.kind;
                assert!(matches!(kind, OutcomeKind::Succeeded | OutcomeKind::Cancelled), "{ended:?}");
                ended.id
            }
            other => panic!("{other:?}"),
        })
        .collect();
    ended.sort();
    assert_eq!(ended, ids);
}

#[tokio::test]
async fn a_stop_for_what_is_not_there_is_ignored() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&command("", ""));
    sandbox.stop(work.id).await;
    let id = work.id;
    assert_kind(&sandbox.run(work).await, OutcomeKind::Succeeded);
    sandbox.stop(id).await;
    assert!(sandbox.close().await.is_empty());
}

#[tokio::test]
async fn an_attempt_that_is_started_twice_runs_once() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&spinning_task());
    sandbox.start_work(work.clone()).await;
    started(&mut sandbox).await;
    sandbox.start_work(work.clone()).await;
    sandbox.stop(work.id).await;
    assert_kind(&sandbox.ended(work.id).await, OutcomeKind::Cancelled);
    assert!(sandbox.close().await.is_empty());
}

#[tokio::test]
async fn closing_the_sandbox_stops_everything_and_says_so() {
    let mut sandbox = TestSandbox::start();
    for wat in [spinning_task(), command("", "(call $sleep (i64.const 0x7fffffffffffffff))")] {
        let work = sandbox.work(&wat);
        sandbox.start_work(work).await;
    }
    started(&mut sandbox).await;
    let rest = sandbox.close().await;
    assert_eq!(rest.len(), 2, "{rest:?}");
    for message in rest {
        match message {
            FromSandbox::Ended(ended) => assert_kind(&ended, OutcomeKind::Cancelled),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn more_guests_than_slots_wait_and_can_be_stopped_while_waiting() {
    let mut sandbox = TestSandbox::start();
    let mut sleeping = Vec::new();
    for _ in 0..GUESTS_MAX {
        let work = sandbox.work(&command("", "(call $sleep (i64.const 0x7fffffffffffffff))"));
        sleeping.push(work.id);
        sandbox.start_work(work).await;
    }
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let work = sandbox.work(&command("", ""));
        waiting.push(work.id);
        sandbox.start_work(work).await;
    }
    sandbox.stop(waiting[0]).await;
    assert_kind(&sandbox.ended(waiting[0]).await, OutcomeKind::Cancelled);
    sandbox.stop(sleeping[0]).await;
    assert_kind(&sandbox.ended(sleeping[0]).await, OutcomeKind::Cancelled);
    for id in &waiting[1..] {
        assert_kind(&sandbox.ended(*id).await, OutcomeKind::Succeeded);
    }
}

#[tokio::test]
async fn an_exhausted_pool_makes_guests_wait_and_never_fail() {
    let mut sandbox = TestSandbox::start();
    // Each takes all the memories that a guest may have, which is all that this small pool has.
    let memories = "(memory 0)".repeat(15);
    let mut ids = Vec::new();
    for _ in 0..GUESTS_MAX {
        let work = sandbox.work(&command(&memories, "(call $sleep (i64.const 3000000))"));
        ids.push(work.id);
        sandbox.start_work(work).await;
    }
    for id in ids {
        assert_kind(&sandbox.ended(id).await, OutcomeKind::Succeeded);
    }
}

#[tokio::test]
async fn b27_a_host_function_that_panics_is_our_fault_and_ends_one_attempt() {
    let mut sandbox = TestSandbox::start();
    let linkers = Linkers::new(sandbox.engines.get(Profile::Plain).unwrap()).unwrap();
    let mut linker = linkers.core();
    linker.func_wrap("env", "panic", || -> () { panic!("planted") }).unwrap();
    let wat = r#"(module (import "env" "panic" (func $panic)) (func (export "_start") (call $panic)))"#;
    let module = Module::from_binary(linkers.engine(), &wat::parse_str(wat).unwrap()).unwrap();
    let loaded = wasmill_host::sandbox::LoadedModule::command_module(linker.instantiate_pre(&module).unwrap()).unwrap();
    let work = sandbox.work(wat);
    sandbox.artifacts.insert(work.module, Profile::Plain, loaded);
    let neighbour = sandbox.work(&spinning_task());
    let neighbour_id = neighbour.id;
    sandbox.start_work(neighbour).await;
    started(&mut sandbox).await;

    for _ in 0..3 {
        let work = sandbox.again(&work);
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::HostFault);
        assert_eq!(ended.outcome.message, "a fault in the host, not in the task: planted");
    }
    sandbox.stop(neighbour_id).await;
    assert_kind(&sandbox.ended(neighbour_id).await, OutcomeKind::Cancelled);
    let after = sandbox.work(&command("", ""));
    assert_kind(&sandbox.run(after).await, OutcomeKind::Succeeded);
}

/// Guests take turns by tenant and not one by one: with as many turns as everybody else it would be
/// the last to end.
#[tokio::test]
async fn c31_one_guest_has_as_much_of_the_cores_as_all_of_another_tenant() {
    let mut sandbox = TestSandbox::start();
    let spin = task(&[], "", "(loop $again (br $again)) (i32.const 0)");
    let mut flood = sandbox.work(&spin);
    (flood.tenant, flood.limits.cpu_ms) = ("flood".parse().unwrap(), 100);
    // From here on its module is at hand: nobody begins before the others.
    assert_kind(&sandbox.run(flood.clone()).await, OutcomeKind::CpuExceeded);
    for _ in 1..GUESTS_MAX {
        let one_more = sandbox.again(&flood);
        sandbox.start_work(one_more).await;
    }
    let mut one = sandbox.again(&flood);
    (one.tenant, one.limits.cpu_ms) = ("one".parse().unwrap(), 150);
    let id = one.id;
    sandbox.start_work(one).await;
    let first = sandbox
        .wait(|message| match message {
            FromSandbox::Ended(ended) => Ok(ended),
            other => Err(other),
        })
        .await;
    assert_kind(&first, OutcomeKind::CpuExceeded);
    assert_eq!(first.id, id, "the first to end is the one");
}
