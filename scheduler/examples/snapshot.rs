//! Measures snapshots of the core's state:
//! `cargo run --release -p wasmill-scheduler --example snapshot [TASKS]`.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;
use wasmill_protocol::{
    Attempt, AttemptId, FinalState, HostId, Incarnation, LogSeq, Nonce, Outcome, OutcomeKind, Payload, TaskId,
    TaskSpec, Timestamp, Usage,
};
use wasmill_record::event::{Event, EventBody, Sequel};
use wasmill_record::snapshot::Part;
use wasmill_scheduler_core::State;

const TASKS: u64 = 1_000_000;
const EVENTS_PER_RECORD: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let tasks: u64 = std::env::args().nth(1).map_or(Ok(TASKS), |text| text.parse())?;
    let mut state = State::default();
    state.read_model_at(LogSeq(u64::MAX));
    let submitted: Vec<Event> = (0..tasks).map(|number| submitted(id(number))).collect();
    report("submit", tasks, apply(&mut state, &submitted));
    drop(submitted);

    let mut freezes: Vec<_> = (0..100).map(|_| timed(|| drop(black_box(state.freeze())))).collect();
    freezes.sort();
    println!("freeze: {:.3} ms, the slowest of 100 {:.3} ms", ms(freezes[50]), ms(freezes[99]));
    let frozen = state.freeze();
    // Every tenth task is started while the snapshot is there: each chunk is copied once.
    let started: Vec<Event> = (0..tasks).step_by(10).map(|number| started(id(number))).collect();
    let copied = apply(&mut state, &started);
    report("start while a snapshot holds everything", started.len() as u64, copied);

    let begun = Instant::now();
    let parts: Vec<_> = frozen.into_parts().map(|part| part.encode()).collect();
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    println!("write: {:.0} ms, {:.1} MB in {} parts", ms(begun.elapsed()), bytes as f64 / 1e6, parts.len());

    let begun = Instant::now();
    let restored = State::from_snapshot(parts.iter().map(|part| Part::decode(part)).collect::<Result<Vec<_>, _>>()?)?;
    println!("read: {:.0} ms", ms(begun.elapsed()));
    black_box(restored);

    let ended: Vec<Event> = (0..tasks).step_by(10).map(|number| ended(id(number))).collect();
    report("end", ended.len() as u64, apply(&mut state, &ended));
    Ok(())
}

fn apply(state: &mut State, events: &[Event]) -> Duration {
    let begun = Instant::now();
    for events in events.chunks(EVENTS_PER_RECORD) {
        state.apply_record(state.last_seq().next(), events);
    }
    begun.elapsed()
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn report(what: &str, events: u64, took: Duration) {
    println!("{what}: {:.0} ns each", took.as_nanos() as f64 / events as f64);
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn id(number: u64) -> TaskId {
    // Time first, then random bits, as in a UUIDv7.
    TaskId(Uuid::from_u128(u128::from(number / 100) << 80 | u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
}

fn event(body: EventBody) -> Event {
    Event { at: Timestamp(1_700_000_000_000_000), body }
}

fn submitted(task: TaskId) -> Event {
    let spec = Arc::new(TaskSpec { input: Payload::inline("{\"n\":1}".into()), ..TaskSpec::default() });
    event(EventBody::TaskSubmitted { task, spec, fingerprint: None, edges: Vec::new() })
}

fn attempt(task: TaskId) -> AttemptId {
    AttemptId { task, attempt: Attempt(1), nonce: Nonce(u64::MAX / 3) }
}

fn started(id: TaskId) -> Event {
    event(EventBody::AttemptStarted { id: attempt(id), host: HostId::from("host-1"), incarnation: Incarnation(1) })
}

fn ended(id: TaskId) -> Event {
    event(EventBody::AttemptEnded {
        id: attempt(id),
        outcome: Arc::new(Outcome::new(OutcomeKind::Succeeded, "")),
        usage: Usage::default(),
        output: Payload::Empty,
        captured: Payload::Empty,
        next: Sequel::Final { state: FinalState::Succeeded },
    })
}
