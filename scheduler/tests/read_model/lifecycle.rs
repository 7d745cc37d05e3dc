//! One task through its life, seen before and after it is in the file.

use wasmill_protocol::{Attempt, FinalState, HostId, LogSeq, OutcomeKind, Payload, TaskSpec, TaskState, Timestamp};
use wasmill_record::event::{EndReason, EventBody, Sequel};
use wasmill_scheduler::read_model::{HISTORY_ENTRIES_MAX, HistoryEvent, TaskRow};

use crate::support::{BEGIN, Fed, STEP_US, attempt, ended, id, spec, started, submitted, succeeded, tenant};

/// Feeds each event in a record of its own; the task must look the same from memory, from the file,
/// and from both.
async fn task_after(bodies: &[EventBody]) -> TaskRow {
    let mut pending = Fed::new();
    let mut mixed = Fed::new();
    for body in bodies {
        pending.feed([body.clone()]);
        mixed.feed([body.clone()]);
        mixed.model.flush().await.unwrap();
    }
    let row = pending.task("default", 1).await.unwrap();
    assert_eq!(mixed.task("default", 1).await.as_ref(), Some(&row));
    assert_eq!(pending.history("default", 1).await, mixed.history("default", 1).await);
    let at_once = pending.reopen();
    assert_eq!(at_once.task("default", 1).await.as_ref(), Some(&row));
    assert_eq!(at_once.history("default", 1).await, mixed.history("default", 1).await);
    row
}

fn at(record: u64) -> Timestamp {
    BEGIN.plus_us(record * STEP_US)
}

#[tokio::test]
async fn a_submitted_task_is_queued() {
    let spec = TaskSpec { priority: 5, input: Payload::inline("payload".into()), ..spec("default") };
    let row = task_after(&[submitted(1, spec.clone())]).await;
    assert_eq!((row.id, &*row.spec, row.state), (id(1), &spec, TaskState::Queued));
    assert_eq!((row.attempt, row.host, row.waiting_until), (Attempt(0), None, None));
    assert_eq!((row.created_at, row.updated_at, row.started_at, row.finished_at), (at(0), at(0), None, None));
    assert_eq!((row.outcome, row.end_reason, row.usage), (None, None, None));
    assert!(!row.cancel_requested);
}

#[tokio::test]
async fn a_task_with_a_later_start_waits_until_it_is_queued() {
    let later = TaskSpec { not_before: at(9), ..spec("default") };
    let row = task_after(&[submitted(1, later.clone())]).await;
    assert_eq!((row.state, row.waiting_until), (TaskState::Waiting, Some(at(9))));
    let row = task_after(&[submitted(1, later), EventBody::TaskQueued { task: id(1) }]).await;
    assert_eq!((row.state, row.waiting_until, row.updated_at), (TaskState::Queued, None, at(1)));
    // A start that has come already is no reason to wait.
    let row = task_after(&[submitted(1, TaskSpec { not_before: at(0), ..spec("default") })]).await;
    assert_eq!((row.state, row.waiting_until), (TaskState::Queued, None));
}

#[tokio::test]
async fn a_running_task_names_its_host() {
    let row = task_after(&[submitted(1, spec("default")), started(1, 1)]).await;
    assert_eq!((row.state, row.attempt, row.host), (TaskState::Running, Attempt(1), Some(HostId::from("host-1"))));
    assert_eq!((row.started_at, row.finished_at), (Some(at(1)), None));
}

#[tokio::test]
async fn a_result_is_kept() {
    let row = task_after(&[submitted(1, spec("default")), started(1, 1), succeeded(1, 1)]).await;
    assert_eq!((row.state, row.attempt, row.host), (TaskState::Succeeded, Attempt(1), Some(HostId::from("host-1"))));
    assert_eq!(row.outcome.unwrap().kind, OutcomeKind::Succeeded);
    assert_eq!(row.usage.unwrap().cpu_us, 1);
    assert_eq!((row.output, row.captured), (Payload::inline("result".into()), Payload::inline("log of 1".into())));
    assert_eq!((row.started_at, row.finished_at), (Some(at(1)), Some(at(2))));
}

#[tokio::test]
async fn a_retry_waits_and_then_shows_the_new_attempt() {
    let failed = ended(1, 1, OutcomeKind::Errored, Sequel::Retry { not_before: at(50) });
    let mut events = vec![submitted(1, spec("default")), started(1, 1), failed];
    let row = task_after(&events).await;
    assert_eq!((row.state, row.host, row.waiting_until), (TaskState::Waiting, None, Some(at(50))));
    assert_eq!(row.outcome.unwrap().kind, OutcomeKind::Errored);
    assert_eq!(row.captured, Payload::inline("log of 1".into()));

    events.extend([EventBody::TaskQueued { task: id(1) }, started(1, 2)]);
    let row = task_after(&events).await;
    assert_eq!((row.state, row.attempt, row.started_at), (TaskState::Running, Attempt(2), Some(at(4))));
    assert_eq!((row.outcome, row.usage, row.captured), (None, None, Payload::Empty));
}

#[tokio::test]
async fn a_lost_host_puts_the_task_back_into_the_queue() {
    let lost = ended(1, 1, OutcomeKind::HostLost, Sequel::Requeue);
    let row = task_after(&[submitted(1, spec("default")), started(1, 1), lost]).await;
    assert_eq!((row.state, row.host, row.waiting_until), (TaskState::Queued, None, None));
}

#[tokio::test]
async fn a_task_ends_without_an_attempt() {
    for (state, expected, reason) in [
        (FinalState::Cancelled, TaskState::Cancelled, EndReason::Cancelled { reason: Some("enough".into()) }),
        (FinalState::Failed, TaskState::Failed, EndReason::Expired),
        (FinalState::Skipped, TaskState::Skipped, EndReason::TenantRemoved),
    ] {
        let end = EventBody::TaskEnded { task: id(1), state, reason: reason.clone() };
        let row = task_after(&[submitted(1, spec("default")), end]).await;
        assert_eq!((row.state, row.end_reason, row.finished_at), (expected, Some(reason), Some(at(1))));
    }
}

#[tokio::test]
async fn asking_for_a_stop_changes_no_state() {
    let ask = EventBody::CancelRequested { task: id(1), reason: Some("enough".into()) };
    let row = task_after(&[submitted(1, spec("default")), started(1, 1), ask]).await;
    assert_eq!(row.state, TaskState::Running);
    assert_eq!((row.cancel_requested, row.cancel_reason.as_deref()), (true, Some("enough")));
}

#[tokio::test]
async fn the_priority_shown_is_the_current_one() {
    let change = EventBody::TaskPrioritized { task: id(1), priority: -7 };
    let row = task_after(&[submitted(1, TaskSpec { priority: 3, ..spec("default") }), change]).await;
    assert_eq!(row.spec.priority, -7);
}

#[tokio::test]
async fn a_final_state_never_changes() {
    let late = EventBody::ReportLate { id: attempt(1, 1), host: HostId::from("host-2") };
    let events = [submitted(1, spec("default")), started(1, 1), succeeded(1, 1)];
    let before = task_after(&events).await;
    let cancelled = EventBody::TaskEnded { task: id(1), state: FinalState::Cancelled, reason: EndReason::Expired };
    let mut after = events.to_vec();
    after.extend([cancelled, started(1, 2), late, EventBody::TaskQueued { task: id(1) }]);
    assert_eq!(task_after(&after).await, before);
}

#[tokio::test]
async fn the_history_tells_everything_in_order() {
    let mut fed = Fed::new();
    let checkpoint = |number| EventBody::CheckpointSaved {
        id: attempt(1, 1),
        number,
        data: Payload::inline(vec![0; number as usize].into()),
    };
    fed.feed([submitted(1, spec("default")), submitted(2, spec("default"))]);
    fed.feed([started(1, 1), checkpoint(1)]);
    fed.feed([checkpoint(2), started(2, 1)]);
    fed.feed([succeeded(1, 1), EventBody::ReportLate { id: attempt(1, 1), host: HostId::from("host-2") }]);
    for fed in [fed.crash(), fed.reopen()] {
        let history = fed.history("default", 1).await.unwrap();
        assert_eq!(history.left_out, 0);
        let told: Vec<_> = history.entries.iter().map(|entry| (entry.seq, entry.at, entry.event.clone())).collect();
        let host = HostId::from("host-1");
        let attempt = Attempt(1);
        let next = Sequel::Final { state: FinalState::Succeeded };
        let expected = [
            (LogSeq(1), at(0), HistoryEvent::Submitted { waiting_until: None }),
            (LogSeq(2), at(1), HistoryEvent::AttemptStarted { attempt, host }),
            // Checkpoints in a row are one entry.
            (LogSeq(3), at(2), HistoryEvent::CheckpointSaved { attempt, bytes: 2, times: 2 }),
            (
                LogSeq(4),
                at(3),
                HistoryEvent::AttemptEnded {
                    attempt,
                    kind: OutcomeKind::Succeeded,
                    message: "attempt 1".into(),
                    next,
                    fuel: None,
                    cached: false,
                },
            ),
            (LogSeq(4), at(3), HistoryEvent::ReportLate { attempt, host: HostId::from("host-2") }),
        ];
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn a_long_history_is_cut_after_its_beginning() {
    const REQUEUES: usize = HISTORY_ENTRIES_MAX;
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("default"))]);
    for number in 0..REQUEUES as u32 {
        fed.feed([started(1, number), ended(1, number, OutcomeKind::HostLost, Sequel::Requeue)]);
    }
    let history = fed.history("default", 1).await.unwrap();
    assert_eq!(history.entries.len(), HISTORY_ENTRIES_MAX);
    assert_eq!(history.left_out, (2 * REQUEUES + 1 - HISTORY_ENTRIES_MAX) as u64);
    assert_eq!(history.entries[0].seq, LogSeq(1));
    assert_eq!(history.entries.last().unwrap().seq, LogSeq(REQUEUES as u64 + 1));
}

#[tokio::test]
async fn another_tenants_task_is_unknown() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("mine"))]);
    for _ in 0..2 {
        assert!(fed.task("mine", 1).await.is_some());
        assert_eq!(fed.task("other", 1).await, None);
        assert_eq!(fed.history("other", 1).await, None);
        assert_eq!(fed.task("mine", 2).await, None);
        fed.model.flush().await.unwrap();
        // The other tenant exists from here on.
        fed.feed([submitted(3, spec("other"))]);
    }
}

#[tokio::test]
async fn specs_come_with_the_last_checkpoint() {
    let mut fed = Fed::new();
    let long = TaskSpec { input: Payload::inline(vec![b'x'; 30_000].into()), ..spec("default") };
    fed.feed([submitted(1, long.clone()), submitted(2, spec("default")), submitted(3, spec("default"))]);
    fed.model.flush().await.unwrap();
    let saved = |number, text: &'static str| EventBody::CheckpointSaved {
        id: attempt(number, 1),
        number: 1,
        data: Payload::inline(text.into()),
    };
    fed.feed([started(1, 1), saved(1, "one"), started(2, 1), saved(2, "two"), submitted(4, spec("other"))]);
    fed.feed([saved(1, "newer"), succeeded(2, 1)]);
    for fed in [fed.crash(), fed.reopen()] {
        let specs = fed.model.specs(&[1, 2, 3, 4, 5].map(id)).await;
        assert_eq!(specs.len(), 4);
        assert_eq!(*specs[&id(1)].0, long);
        assert_eq!(specs[&id(1)].1, Payload::inline("newer".into()));
        assert_eq!(specs[&id(2)].1, Payload::Empty, "nobody reads the checkpoint of a final task");
        assert_eq!(specs[&id(4)].0.tenant, tenant("other"));
    }
}
