//! An attempt whose module is not ready waits apart, and others start meanwhile.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use wasmill_host::agent::{Made, Readiness, Wanted};
use wasmill_host::engine::Profile;
use wasmill_host::sandbox::LoadError;
use wasmill_protocol::message::{Assignment, Report};
use wasmill_protocol::{Digest, Limits, OutcomeKind, TaskSpec, Usage};

use super::world::{Heard, Setup, World, id};

/// The answer of the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    None,
    Ready,
    Refused,
}

/// Modules are ready for the plain profile alone; for the others, when the test says so.
#[derive(Debug)]
struct Compiling {
    answer: watch::Sender<Answer>,
    asked: Mutex<Vec<Wanted>>,
    given_up: watch::Sender<u32>,
}

/// Counts an end that nobody waited for.
struct Waiting<'a>(&'a Compiling);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.given_up.send_modify(|count| *count += 1);
    }
}

/// The test's handle to what the agent has.
#[derive(Debug, Clone)]
struct Handle(Arc<Compiling>);

impl Readiness for Handle {
    fn is_ready(&self, _: Digest, profile: Profile) -> bool {
        profile == Profile::Plain || *self.0.answer.borrow() == Answer::Ready
    }

    fn make_ready(&self, wanted: Wanted) -> BoxFuture<'static, Made> {
        let compiling = Arc::clone(&self.0);
        compiling.asked.lock().unwrap().push(wanted);
        async move {
            let waiting = Waiting(&compiling);
            let mut answer = compiling.answer.subscribe();
            let answer = *answer.wait_for(|answer| *answer != Answer::None).await.unwrap();
            std::mem::forget(waiting);
            let refused = || Err(LoadError::Invalid("it is no module".to_owned()));
            Made { compile_us: 700, result: if answer == Answer::Ready { Ok(()) } else { refused() } }
        }
        .boxed()
    }
}

async fn start() -> (World, Handle) {
    let compiling = Compiling {
        answer: watch::Sender::new(Answer::None),
        asked: Mutex::default(),
        given_up: watch::Sender::new(0),
    };
    let handle = Handle(Arc::new(compiling));
    let mut setup = Setup::new();
    setup.slots = 1;
    setup.readiness = Arc::new(handle.clone());
    (setup.start().await, handle)
}

fn metered(world: &World, number: u64) -> Assignment {
    let plain = world.assignment(number, "echo done");
    let limits = Limits { fuel: Some(1_000), ..Limits::default() };
    let spec = TaskSpec { limits, tenant: "slow".parse().unwrap(), ..TaskSpec::clone(&plain.spec) };
    Assignment { spec: Arc::new(spec), compile_ms_per_s: Some(40), ..plain }
}

fn usage(heard: &Heard, number: u64) -> Usage {
    match heard.end(number) {
        Some(Report::Ended { usage, .. }) => *usage,
        other => panic!("{other:?}"),
    }
}

/// B38
#[tokio::test]
async fn who_waits_for_a_compilation_holds_no_slot() {
    let (world, compiling) = start().await;
    world.assign(vec![metered(&world, 1), metered(&world, 2), world.assignment(3, "echo hello")]).await;
    let heard = world.until("the third ends", |heard| heard.end(3).is_some()).await;
    assert_eq!(heard.started, [id(3)]);
    let heartbeat = world.until("it is told", |heard| heard.heartbeat.as_ref().is_some_and(|beat| beat.unready == 2));
    assert_eq!(heartbeat.await.end(1), None);
    {
        let asked = compiling.0.asked.lock().unwrap();
        let payer = &asked[0].payer;
        assert_eq!((payer.tenant.as_str(), payer.ms_per_s, asked[0].profile), ("slow", Some(40), Profile::Metered));
    }

    compiling.0.answer.send_replace(Answer::Ready);
    let heard = world.until("both end", |heard| heard.end(1).is_some() && heard.end(2).is_some()).await;
    assert_eq!((heard.kind(1), heard.started.len()), (Some(OutcomeKind::Succeeded), 3));
    assert_eq!((usage(&heard, 1).compile_us, usage(&heard, 3).compile_us), (700, 0));
    world.shut_down().await;
}

#[tokio::test]
async fn a_module_that_cannot_be_compiled_ends_its_attempt_with_what_that_took() {
    let (world, compiling) = start().await;
    world.assign(vec![metered(&world, 1)]).await;
    compiling.0.answer.send_replace(Answer::Refused);
    let heard = world.until("it ends", |heard| heard.end(1).is_some()).await;
    assert_eq!((heard.kind(1), heard.started.len()), (Some(OutcomeKind::ModuleInvalid), 0));
    assert_eq!(usage(&heard, 1).compile_us, 700);
    world.shut_down().await;
}

#[tokio::test]
async fn a_compilation_that_nobody_waits_for_is_given_up() {
    let (world, compiling) = start().await;
    world.assign(vec![metered(&world, 1), metered(&world, 2)]).await;
    world.until("it is told", |heard| heard.heartbeat.as_ref().is_some_and(|beat| beat.unready == 2)).await;
    world.cancel(1).await;
    let heard = world.until("it ends", |heard| heard.end(1).is_some()).await;
    assert_eq!(heard.kind(1), Some(OutcomeKind::Cancelled));
    let mut given_up = compiling.0.given_up.subscribe();
    given_up.wait_for(|count| *count == 1).await.unwrap();
    // A shutdown hands the other one back.
    let setup = world.shut_down().await;
    given_up.wait_for(|count| *count == 2).await.unwrap();
    drop(setup);
}
