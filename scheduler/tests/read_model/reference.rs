//! Random histories, compared with a second and dumb implementation that keeps everything in one
//! list.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use wasmill_protocol::{
    Digest, FinalState, HostId, OutcomeKind, Payload, TaskId, TaskSpec, TaskState, TenantName, Timestamp,
};
use wasmill_record::event::{EndReason, EventBody, Sequel};
use wasmill_scheduler::read_model::{TaskFilter, TaskRow};

use crate::support::{Fed, STEP_US, attempt, blob, ended, ended_before, id, module, spec, started, submitted, tenant};

const TENANTS: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 3] = ["k1", "k2", "k3"];
const RECORDS_MAX: usize = 60;

/// A step of the test. Numbers choose among the tasks that there are.
#[derive(Debug, Clone)]
enum Step {
    Submit {
        tenant: usize,
        module: u8,
        name: Option<u8>,
        label: Option<u8>,
        key: Option<usize>,
        blob: Option<u8>,
        later: bool,
    },
    Change {
        task: u64,
        change: Change,
    },
    RemoveTenant(usize),
    Flush,
    Reopen,
    Crash,
    Move,
    Sweep {
        records: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Queue,
    Start,
    Checkpoint(u8),
    Succeed,
    Retry,
    Requeue,
    Cancel,
    Expire,
    Prioritize(i8),
    Late,
}

/// A task as the dumb implementation knows it.
#[derive(Debug, Clone)]
struct Expected {
    id: TaskId,
    spec: TaskSpec,
    fingerprint: Option<Digest>,
    state: TaskState,
    attempt: u32,
    created: Timestamp,
    updated: Timestamp,
    finished: Option<Timestamp>,
    outcome: Option<OutcomeKind>,
    checkpoint: Payload,
    cancel: bool,
    /// The checkpoints that attempts began with.
    resumed: Vec<Payload>,
    /// Bytes of its log, of its result, and of the message of its outcome.
    texts: [usize; 3],
    /// Bytes of the text of each entry of its history; nothing for a checkpoint, which a further
    /// one takes the place of.
    history: Vec<Option<usize>>,
}

/// Oldest first.
#[derive(Default)]
struct Reference {
    tasks: Vec<Expected>,
    submitted: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        Just(Change::Queue),
        Just(Change::Start),
        Just(Change::Start),
        (0..4_u8).prop_map(Change::Checkpoint),
        Just(Change::Succeed),
        Just(Change::Retry),
        Just(Change::Requeue),
        Just(Change::Cancel),
        Just(Change::Expire),
        (-100..=100_i8).prop_map(Change::Prioritize),
        Just(Change::Late),
    ];
    let optional = |bound: u8| proptest::option::of(0..bound);
    let submit =
        (0..3_usize, 0..3_u8, optional(2), optional(2), proptest::option::of(0..3_usize), optional(4), any::<bool>())
            .prop_map(|(tenant, module, name, label, key, blob, later)| Step::Submit {
                tenant,
                module,
                name,
                label,
                key,
                blob,
                later,
            });
    prop_oneof![
        8 => submit,
        16 => (any::<u64>(), change).prop_map(|(task, change)| Step::Change { task, change }),
        1 => (0..3_usize).prop_map(Step::RemoveTenant),
        3 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => Just(Step::Move),
        1 => (0..RECORDS_MAX as u64).prop_map(|records| Step::Sweep { records }),
    ]
}

fn filter() -> impl Strategy<Value = (TaskFilter, usize)> {
    let states = proptest::collection::btree_set(0..7_usize, 0..3).prop_map(|numbers| {
        let all = [
            TaskState::Waiting,
            TaskState::Queued,
            TaskState::Running,
            TaskState::Succeeded,
            TaskState::Failed,
            TaskState::Cancelled,
            TaskState::Skipped,
        ];
        numbers.into_iter().map(|number| all[number]).collect::<BTreeSet<_>>()
    });
    let time = || proptest::option::of(0..RECORDS_MAX as u64);
    let rest = (proptest::option::of(0..3_u8), proptest::option::of(0..2_u8), proptest::option::of(0..2_u8));
    (states, rest, time(), time(), 1..8_usize).prop_map(
        |(states, (module_number, name, label), after, before, limit)| {
            let at = |records: u64| crate::support::BEGIN.plus_us(records * STEP_US);
            let filter = TaskFilter {
                states,
                module: module_number.map(module),
                name: name.map(name_of),
                labels: label.map(label_of).into_iter().collect(),
                created_after: after.map(at),
                created_before: before.map(at),
            };
            (filter, limit)
        },
    )
}

fn name_of(number: u8) -> String {
    format!("name {number}")
}

fn label_of(number: u8) -> (String, String) {
    ("label".to_owned(), number.to_string())
}

impl Reference {
    /// The event of a step and what it does, if it can happen.
    fn take(&mut self, step: &Step, now: Timestamp) -> Option<EventBody> {
        match step {
            Step::Submit { .. } => Some(self.submit(step, now)),
            Step::Change { task, change } => {
                let count = self.submitted;
                let number = (count > 0).then(|| task % count + 1)?;
                Some(self.change(number, *change, now))
            }
            Step::RemoveTenant(index) => {
                let name = tenant(TENANTS[*index]);
                self.tasks.retain(|task| task.spec.tenant != name);
                Some(EventBody::TenantRemoved { tenant: name })
            }
            Step::Flush | Step::Reopen | Step::Crash | Step::Move | Step::Sweep { .. } => None,
        }
    }

    fn submit(&mut self, step: &Step, now: Timestamp) -> EventBody {
        let Step::Submit { tenant, module: module_number, name, label, key, blob: blob_number, later } = step else {
            unreachable!("the caller has looked");
        };
        self.submitted += 1;
        // The core accepts no second task under a key that is in use.
        let free = |key: &&str| self.key(&crate::support::tenant(TENANTS[*tenant]), key).is_none();
        let key = key.map(|key| KEYS[key]).filter(free);
        let spec = TaskSpec {
            module: module(*module_number),
            name: name.map(name_of),
            labels: label.map(label_of).into_iter().collect(),
            idempotency_key: key.map(str::to_owned),
            input: blob_number.map_or(Payload::Empty, blob),
            not_before: if *later { now.plus_ms(1) } else { Timestamp(0) },
            ..spec(TENANTS[*tenant])
        };
        let body = submitted(self.submitted, spec.clone());
        let EventBody::TaskSubmitted { fingerprint, .. } = &body else { unreachable!("it was just made") };
        self.tasks.push(Expected {
            id: id(self.submitted),
            state: if *later { TaskState::Waiting } else { TaskState::Queued },
            spec,
            fingerprint: *fingerprint,
            attempt: 0,
            created: now,
            updated: now,
            finished: None,
            outcome: None,
            checkpoint: Payload::Empty,
            cancel: false,
            resumed: Vec::new(),
            texts: [0; 3],
            history: vec![Some(0)],
        });
        body
    }

    /// Also for tasks that are final or gone: then nothing changes.
    fn change(&mut self, number: u64, change: Change, now: Timestamp) -> EventBody {
        let mut unknown = None;
        let known = self.tasks.iter_mut().find(|task| task.id == id(number));
        let task = match known {
            Some(task) if !task.state.is_final() => task,
            Some(task) => {
                if matches!(change, Change::Late) {
                    task.history.push(Some(0));
                }
                unknown.insert(task.clone())
            }
            None => unknown.insert(Expected::gone(number)),
        };
        task.updated = now;
        task.note(change);
        let finish = |task: &mut Expected, state: FinalState| {
            task.state = state.into();
            task.finished = Some(now);
            task.checkpoint = Payload::Empty;
        };
        match change {
            Change::Queue => {
                task.state = TaskState::Queued;
                EventBody::TaskQueued { task: task.id }
            }
            Change::Start => {
                task.state = TaskState::Running;
                task.attempt += 1;
                task.outcome = None;
                started(number, task.attempt)
            }
            Change::Checkpoint(blob_number) => {
                task.checkpoint = blob(blob_number);
                EventBody::CheckpointSaved { id: attempt(number, task.attempt), number: 1, data: blob(blob_number) }
            }
            Change::Succeed => {
                finish(task, FinalState::Succeeded);
                task.outcome = Some(OutcomeKind::Succeeded);
                ended(number, task.attempt, OutcomeKind::Succeeded, Sequel::Final { state: FinalState::Succeeded })
            }
            Change::Retry => {
                task.state = TaskState::Waiting;
                task.outcome = Some(OutcomeKind::Errored);
                ended(number, task.attempt, OutcomeKind::Errored, Sequel::Retry { not_before: now.plus_ms(9) })
            }
            Change::Requeue => {
                task.state = TaskState::Queued;
                task.outcome = Some(OutcomeKind::HostLost);
                ended(number, task.attempt, OutcomeKind::HostLost, Sequel::Requeue)
            }
            Change::Cancel => {
                task.cancel = true;
                EventBody::CancelRequested { task: task.id, reason: None }
            }
            Change::Expire => {
                finish(task, FinalState::Failed);
                EventBody::TaskEnded { task: task.id, state: FinalState::Failed, reason: EndReason::Expired }
            }
            Change::Prioritize(priority) => {
                task.spec.priority = priority;
                EventBody::TaskPrioritized { task: task.id, priority }
            }
            Change::Late => EventBody::ReportLate { id: attempt(number, task.attempt), host: HostId::from("late") },
        }
    }

    fn list(&self, name: &TenantName, filter: &TaskFilter) -> Vec<&Expected> {
        let matches = |task: &&Expected| {
            task.spec.tenant == *name
                && (filter.states.is_empty() || filter.states.contains(&task.state))
                && filter.module.is_none_or(|module| task.spec.module == module)
                && filter.name.as_ref().is_none_or(|name| task.spec.name.as_ref() == Some(name))
                && filter.labels.iter().all(|(key, value)| task.spec.labels.get(key) == Some(value))
                && filter.created_after.is_none_or(|after| task.created > after)
                && filter.created_before.is_none_or(|before| task.created < before)
        };
        self.tasks.iter().rev().filter(matches).collect()
    }

    fn key(&self, name: &TenantName, key: &str) -> Option<(TaskId, Digest)> {
        let newest = |task: &&Expected| task.spec.tenant == *name && task.spec.idempotency_key.as_deref() == Some(key);
        self.tasks.iter().rev().find(newest).map(|task| (task.id, task.fingerprint.unwrap()))
    }

    /// The part of its quota that a tenant's tasks take.
    fn stored_bytes(&self, name: &TenantName) -> u64 {
        self.tasks.iter().filter(|task| task.spec.tenant == *name).map(Expected::stored_bytes).sum()
    }

    fn is_referenced(&self, digest: Digest) -> bool {
        self.tasks
            .iter()
            .any(|task| [&task.spec.input, &task.checkpoint].iter().any(|payload| payload.blob() == Some(digest)))
    }

    fn sweep(&mut self, before: Timestamp) -> u64 {
        let count = self.tasks.len();
        self.tasks.retain(|task| task.finished.is_none_or(|finished| finished >= before));
        (count - self.tasks.len()) as u64
    }
}

impl Expected {
    fn gone(number: u64) -> Self {
        Self {
            id: id(number),
            spec: TaskSpec::default(),
            fingerprint: None,
            state: TaskState::Failed,
            attempt: 0,
            created: Timestamp(0),
            updated: Timestamp(0),
            finished: None,
            outcome: None,
            checkpoint: Payload::Empty,
            cancel: false,
            resumed: Vec::new(),
            texts: [0; 3],
            history: Vec::new(),
        }
    }

    /// The effects of a change on the history and on the stored bytes. To be called before
    /// the change is made.
    fn note(&mut self, change: Change) {
        let message = format!("attempt {}", self.attempt).len();
        match change {
            Change::Start => {
                (self.texts[0], self.texts[2]) = (0, 0);
                if *self.resumed.last().unwrap_or(&Payload::Empty) != self.checkpoint {
                    self.resumed.push(self.checkpoint.clone());
                }
            }
            Change::Succeed | Change::Retry | Change::Requeue => {
                self.texts[0] = format!("log of {}", self.attempt).len();
                self.texts[2] = message;
                if let Change::Succeed = change {
                    self.texts[1] = "result".len();
                }
            }
            _ => {}
        }
        match change {
            Change::Checkpoint(_) if self.history.last() == Some(&None) => {}
            Change::Checkpoint(_) => self.history.push(None),
            Change::Succeed | Change::Retry | Change::Requeue => self.history.push(Some(message)),
            _ => self.history.push(Some(0)),
        }
    }

    fn stored_bytes(&self) -> u64 {
        let spec = &self.spec;
        let labels = spec.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let names = [&spec.name, &spec.idempotency_key].into_iter().flatten().map(String::len).sum::<usize>();
        let history = self.history.iter().map(|text| 64 + text.unwrap_or(0)).sum::<usize>();
        let texts = 512 + labels + names + history + self.texts.iter().sum::<usize>();
        let kept = self.resumed.iter().rev().take(4);
        let payloads = kept.chain([&spec.input, &self.checkpoint]).map(Payload::byte_count).sum::<u64>();
        texts as u64 + payloads
    }
}

fn assert_same(row: &TaskRow, expected: &Expected) {
    assert_eq!(row.id, expected.id);
    assert_eq!(*row.spec, expected.spec);
    assert_eq!((row.state, row.attempt.0), (expected.state, expected.attempt));
    assert_eq!(
        (row.created_at, row.updated_at, row.finished_at),
        (expected.created, expected.updated, expected.finished)
    );
    assert_eq!(row.outcome.as_ref().map(|outcome| outcome.kind), expected.outcome);
    assert_eq!(row.cancel_requested, expected.cancel);
}

/// Every task, by its id: seen in memory, in the file or in both, as it happens to be.
async fn assert_tasks(fed: &Fed, reference: &Reference) {
    for number in 1..=reference.submitted {
        let expected = reference.tasks.iter().find(|task| task.id == id(number));
        for name in TENANTS {
            let row = fed.task(name, number).await;
            match expected.filter(|task| task.spec.tenant == tenant(name)) {
                Some(expected) => assert_same(&row.unwrap(), expected),
                None => assert_eq!(row, None),
            }
        }
    }
    for name in TENANTS {
        for key in KEYS {
            let (found, checked_to) = fed.model.key(&tenant(name), key).await.unwrap();
            // The number of a task that has the key is what its fingerprint was made of.
            assert_eq!(found, reference.key(&tenant(name), key), "{name} {key}");
            assert_eq!(checked_to, fed.model.position());
        }
    }
}

/// The stored bytes of tenants, as soon as they are written.
async fn assert_stored(fed: &Fed, reference: &Reference) {
    fed.model.flush().await.unwrap();
    for name in TENANTS {
        assert_eq!(fed.model.stored_bytes(&tenant(name)), reference.stored_bytes(&tenant(name)), "{name}");
    }
}

async fn assert_lists(fed: &Fed, reference: &Reference, filters: &[(TaskFilter, usize)]) {
    for name in TENANTS {
        for (filter, limit) in filters {
            let listed = fed.list(name, filter, *limit).await;
            let expected = reference.list(&tenant(name), filter);
            assert_eq!(listed.len(), expected.len(), "{name} {filter:?}");
            listed.iter().zip(expected).for_each(|(row, expected)| assert_same(row, expected));
            let scanned = fed.scan(name, filter).await;
            assert!(scanned.iter().rev().eq(&listed), "oldest first: {name} {filter:?}");
        }
    }
}

async fn run(steps: Vec<Step>, filters: Vec<(TaskFilter, usize)>) {
    let mut fed = Fed::new();
    let mut reference = Reference::default();
    let mut swept = false;
    for step in steps {
        if let Some(body) = reference.take(&step, fed.now()) {
            fed.feed([body]);
        }
        match step {
            Step::Flush => assert_stored(&fed, &reference).await,
            Step::Reopen => fed = fed.reopen(),
            Step::Crash => fed = fed.crash(),
            Step::Move => fed = fed.moved().await,
            Step::Sweep { records } => {
                swept = true;
                fed.model.flush().await.unwrap();
                let retention = Duration::from_micros(records * STEP_US);
                let removed = fed.model.sweep(ended_before(fed.now(), retention)).await.unwrap();
                let expected = reference.sweep(Timestamp(fed.now().0 - records * STEP_US));
                // Rows of removed tenants that are not erased yet are among them.
                assert!(removed >= expected, "{removed} of {expected}");
            }
            _ => {}
        }
        assert_tasks(&fed, &reference).await;
    }
    assert_lists(&fed, &reference, &filters).await;
    assert_stored(&fed, &reference).await;
    for number in 0..4 {
        let digest = Digest([number; 32]);
        let all_live = fed.model.is_referenced(digest).await.unwrap();
        // Rows of removed tenants are erased in the background, so more may be referred to for a
        // moment.
        assert!(all_live || !reference.is_referenced(digest));
    }
    if !swept {
        // The log does not know of sweeps: what it gives back is swept again.
        let rebuilt = fed.rebuild();
        assert_eq!(rebuilt.everything(&TENANTS).await, fed.everything(&TENANTS).await);
        assert_stored(&rebuilt, &reference).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_reference(
        steps in proptest::collection::vec(step(), 1..RECORDS_MAX),
        filters in proptest::collection::vec(filter(), 6),
    ) {
        let runtime = Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        runtime.block_on(run(steps, filters));
    }
}
