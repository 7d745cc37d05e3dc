//! Measures the read model: `cargo run --release -p wasmill-scheduler --example read_model [DIR]`.
//!
//! The tasks are no-ops as a bulk submission makes them: submitted, started and ended, in records
//! of many events.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;
use wasmill_protocol::{
    Attempt, AttemptId, Digest, FinalState, HostId, Incarnation, LogSeq, Nonce, Outcome, OutcomeKind, Payload, TaskId,
    TaskSpec, TaskState, Timestamp, Usage,
};
use wasmill_record::Record;
use wasmill_record::event::{Event, EventBody, Sequel};
use wasmill_record::snapshot::Expired;
use wasmill_scheduler::read_model::{ReadModel, TaskFilter};

const TASKS: u64 = 300_000;
const EVENTS_PER_RECORD: u64 = 512;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/read-model"), PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    let mut bench = Bench { model: ReadModel::open(&dir)?, seq: LogSeq(0), applying: Duration::ZERO, events: 0 };
    bench.seq = bench.model.flushed();

    let ids: Vec<TaskId> = (0..TASKS).map(id).collect();
    bench.phase("submit only (one row each)", &ids, |id| vec![submitted(id)]).await?;
    bench.phase("start (an update each)", &ids, |id| vec![started(id)]).await?;
    bench.phase("end (an update each)", &ids, |id| vec![ended(id)]).await?;
    let more: Vec<TaskId> = (TASKS..2 * TASKS).map(id).collect();
    bench.phase("whole lives (one row each)", &more, |id| vec![submitted(id), started(id), ended(id)]).await?;

    bench.reads(&ids).await?;
    let begun = Instant::now();
    let all =
        Expired { since: Timestamp(0), from: LogSeq(0), until: LogSeq(u64::MAX), before: Timestamp(u64::MAX / 4) };
    let swept = bench.model.sweep(all).await?;
    println!("sweep: {:.0} tasks/s", swept as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

struct Bench {
    model: ReadModel,
    seq: LogSeq,
    applying: Duration,
    events: u64,
}

impl Bench {
    async fn phase(
        &mut self,
        name: &str,
        ids: &[TaskId],
        life: fn(TaskId) -> Vec<Event>,
    ) -> Result<(), Box<dyn Error>> {
        let per_record = EVENTS_PER_RECORD / life(ids[0]).len() as u64;
        let (begun, cpu_begun) = (Instant::now(), cpu()?);
        (self.applying, self.events) = (Duration::ZERO, 0);
        let mut making = Duration::ZERO;
        for chunk in ids.chunks(per_record as usize) {
            let made = Instant::now();
            let events: Vec<Event> = chunk.iter().flat_map(|id| life(*id)).collect();
            self.events += events.len() as u64;
            let record = Arc::new(Record { events, ..Record::default() });
            making += made.elapsed();
            self.model.caught_up().await;
            self.seq = self.seq.next();
            let applied = Instant::now();
            self.model.apply(self.seq, &record);
            self.applying += applied.elapsed();
        }
        self.model.flush().await?;
        let seconds = (begun.elapsed() - making).as_secs_f64();
        println!(
            "{name}: {:.0} tasks/s, {:.2} us of CPU each, apply {:.0} ns/event",
            ids.len() as f64 / seconds,
            (cpu()? - cpu_begun - making).as_secs_f64() * 1e6 / ids.len() as f64,
            self.applying.as_nanos() as f64 / self.events as f64
        );
        Ok(())
    }

    async fn reads(&self, ids: &[TaskId]) -> Result<(), Box<dyn Error>> {
        const READS: usize = 5_000;
        let tenant = TaskSpec::default().tenant;
        let begun = Instant::now();
        for id in ids.iter().step_by(ids.len() / READS) {
            self.model.task(&tenant, *id).await?.ok_or("a task is missing")?;
        }
        println!("task: {:.1} us", begun.elapsed().as_secs_f64() * 1e6 / READS as f64);
        let states =
            |states: &[TaskState]| TaskFilter { states: states.iter().copied().collect(), ..TaskFilter::default() };
        let filters = [
            ("all", TaskFilter::default()),
            ("queued, of which there are none", states(&[TaskState::Queued])),
            ("succeeded", states(&[TaskState::Succeeded])),
            ("one module", TaskFilter { module: Some(Digest::default()), ..TaskFilter::default() }),
            (
                "failed of one module",
                TaskFilter {
                    states: BTreeSet::from([TaskState::Failed]),
                    module: Some(Digest::default()),
                    ..TaskFilter::default()
                },
            ),
            ("since a time", TaskFilter { created_after: Some(at(ids[ids.len() / 2])), ..TaskFilter::default() }),
        ];
        for (name, filter) in filters {
            let begun = Instant::now();
            let page = self.model.tasks(&tenant, &filter, 100, None).await?;
            println!("page of {} ({name}): {} us", page.tasks.len(), begun.elapsed().as_micros());
        }
        Ok(())
    }
}

/// CPU time of this process: on a busy machine it says more than the clock. In steps of 10 ms.
fn cpu() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn id(number: u64) -> TaskId {
    // Time first, then random bits, as in a UUIDv7.
    TaskId(Uuid::from_u128(u128::from(number / 100) << 80 | u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
}

fn at(id: TaskId) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + (id.0.as_u128() >> 80) as u64)
}

fn event(id: TaskId, body: EventBody) -> Event {
    Event { at: at(id), body }
}

fn submitted(id: TaskId) -> Event {
    let spec = TaskSpec { input: Payload::inline("{\"n\":1}".into()), ..TaskSpec::default() };
    event(id, EventBody::TaskSubmitted { task: id, spec: Arc::new(spec), fingerprint: None, edges: Vec::new() })
}

fn attempt(task: TaskId) -> AttemptId {
    AttemptId { task, attempt: Attempt(1), nonce: Nonce(1) }
}

fn started(id: TaskId) -> Event {
    event(id, EventBody::AttemptStarted { id: attempt(id), host: HostId::from("host-1"), incarnation: Incarnation(1) })
}

fn ended(id: TaskId) -> Event {
    let body = EventBody::AttemptEnded {
        id: attempt(id),
        outcome: Arc::new(Outcome::new(OutcomeKind::Succeeded, "")),
        usage: Usage { cpu_us: 7, memory_peak_bytes: 65_536, queue_us: 900, run_us: 9, ..Usage::default() },
        output: Payload::inline("{\"n\":2}".into()),
        captured: Payload::Empty,
        next: Sequel::Final { state: FinalState::Succeeded },
    };
    event(id, body)
}
