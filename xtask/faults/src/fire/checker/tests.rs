//! Made-up histories: good ones are accepted, and bad ones are not.

use serde_json::json;

use super::plant::control;
use super::{Rule, check};
use crate::fire::history::{Answer, Call, Happened, Line, LineAnswer, Order, Seen};

const NODES: [&str; 2] = ["control-1", "control-2"];

/// Writes a history down as it happens.
#[derive(Default)]
struct Tale {
    lines: Vec<Line>,
    op: u64,
    now_us: u64,
}

impl Tale {
    fn new() -> Self {
        let mut tale = Self::default();
        NODES.iter().for_each(|node| tale.start(node));
        tale
    }

    fn start(&mut self, member: &str) {
        self.now_us += 10;
        self.lines.push(Line::Started { member: member.to_owned(), at_us: self.now_us });
    }

    fn ask(&mut self, node: &str, call: Call) -> u64 {
        self.op += 1;
        self.now_us += 10;
        self.lines.push(Line::Asked { op: self.op, node: node.to_owned(), at_us: self.now_us, call });
        self.op
    }

    fn answer(&mut self, op: u64, answer: Answer) {
        self.now_us += 10;
        self.lines.push(Line::Answered { op, at_us: self.now_us, answer });
    }

    fn call(&mut self, node: &str, call: Call, answer: Answer) {
        let op = self.ask(node, call);
        self.answer(op, answer);
    }

    fn submit(&mut self, node: &str, task: &str) {
        self.call(node, Call::Submit(order(task)), Answer::Task { status: 201, seen: seen(task, "queued", 0) });
    }

    fn get(&mut self, node: &str, seen: Seen) {
        self.call(node, Call::Get { task: seen.task.clone() }, Answer::Task { status: 200, seen });
    }

    fn missing(&mut self, node: &str, task: &str) {
        let answer = Answer::Refused { status: 404, code: "task_unknown".to_owned() };
        self.call(node, Call::Get { task: task.to_owned() }, answer);
    }

    /// Every node lists these, and one of them shows more.
    fn end(mut self, tasks: &[Seen]) -> Vec<Line> {
        for node in NODES {
            let listed =
                |seen: &Seen| Line::Listed { node: node.to_owned(), seen: Seen { output: None, ..seen.clone() } };
            self.lines.extend(tasks.iter().map(listed));
            self.lines.push(Line::Idle { node: node.to_owned(), unfinished: 0, slots_used: 0 });
        }
        for seen in tasks {
            let happened =
                happened(&[("submitted", 0, ""), ("attempt_started", 1, ""), ("attempt_ended", 1, &seen.state)]);
            self.lines.push(Line::Shown { node: NODES[1].to_owned(), seen: seen.clone(), happened });
        }
        self.lines
    }
}

/// A task called as its order, with that as its key too.
fn order(task: &str) -> Order {
    Order {
        key: Some(task.to_owned()),
        name: Some(task.to_owned()),
        ends: vec!["succeeded".to_owned()],
        output: Some(("/said".to_owned(), json!(task))),
    }
}

fn seen(task: &str, state: &str, attempt: u64) -> Seen {
    let is_final = super::super::history::is_final(state);
    Seen {
        task: task.to_owned(),
        state: state.to_owned(),
        ended_as: is_final.then(|| state.to_owned()),
        attempt,
        name: Some(task.to_owned()),
        key: Some(task.to_owned()),
        retry_of: None,
        finished_at: is_final.then(|| "2026-01-01T00:00:00.000Z".to_owned()),
        output: (state == "succeeded").then(|| json!({ "said": task })),
    }
}

fn happened(entries: &[(&str, u64, &str)]) -> Vec<Happened> {
    let read = |(event, attempt, state): &(&str, u64, &str)| Happened {
        event: (*event).to_owned(),
        attempt: (*attempt > 0).then_some(*attempt),
        state: (!state.is_empty()).then(|| (*state).to_owned()),
    };
    entries.iter().map(read).collect()
}

fn done(task: &str) -> Seen {
    seen(task, "succeeded", 1)
}

#[track_caller]
fn accepted(lines: &[Line]) {
    let violations = check(lines);
    assert!(violations.is_empty(), "{violations:#?}");
}

/// All that is found is against this one rule.
#[track_caller]
fn rejected(lines: &[Line], rule: Rule) {
    let violations = check(lines);
    assert!(!violations.is_empty(), "nothing is found");
    assert!(violations.iter().all(|violation| violation.rule == rule), "{violations:#?}");
}

/// A bit of everything.
fn good() -> Vec<Line> {
    let mut tale = Tale::new();
    tale.submit("control-1", "a");
    tale.get("control-1", seen("a", "running", 1));
    // Another node may not have heard of it yet.
    tale.missing("control-2", "a");
    tale.get("control-2", done("a"));
    tale.get("control-1", done("a"));
    // A repeated submission gives the same task.
    let again = Answer::Task { status: 200, seen: done("a") };
    tale.call("control-2", Call::Submit(order("a")), again);
    // One whose answer never came, and which was done all the same.
    tale.ask("control-2", Call::Submit(order("b")));
    let asked = vec![order("c"), order("d"), order("e")];
    let refused = LineAnswer::Refused { status: 429, code: "queue_full".to_owned() };
    let answers = vec![LineAnswer::Accepted { task: "c".to_owned() }, refused, LineAnswer::Unknown];
    tale.call("control-1", Call::Bulk(asked), Answer::Lines(answers));
    // Restarted nodes may have to catch up.
    tale.start("control-1");
    tale.missing("control-1", "a");
    tale.call(
        "control-2",
        Call::Cancel { task: "c".to_owned() },
        Answer::Task { status: 200, seen: seen("c", "cancelled", 1) },
    );
    let run = Order { key: None, name: None, ..order("r") };
    let output = Some(json!({ "said": "r" }));
    let ran = Answer::RunEnded { task: "r".to_owned(), ended_as: "succeeded".to_owned(), output };
    tale.call("control-2", Call::Run(run), ran);
    let run = Seen { name: None, key: None, ..done("r") };
    tale.end(&[done("a"), done("b"), seen("c", "cancelled", 1), run])
}

#[test]
fn a_good_history_is_accepted() {
    accepted(&good());
}

#[test]
fn every_planted_bug_is_found() {
    assert_eq!(control(&good()), Vec::<String>::new());
}

#[test]
fn a_history_without_an_end_proves_nothing() {
    rejected(&Tale::new().lines, Rule::NothingLost);
}

#[test]
fn a_task_whose_answer_was_lost_may_be_missing() {
    let mut tale = Tale::new();
    tale.ask("control-1", Call::Submit(order("a")));
    accepted(&tale.end(&[]));
}

#[test]
fn an_accepted_line_of_a_bulk_submission_may_not() {
    let mut tale = Tale::new();
    let answers = vec![LineAnswer::Accepted { task: "a".to_owned() }];
    tale.call("control-1", Call::Bulk(vec![order("a")]), Answer::Lines(answers));
    rejected(&tale.end(&[]), Rule::NothingLost);
}

#[test]
fn a_retry_is_a_new_task_of_the_same_name() {
    let mut tale = Tale::new();
    tale.submit("control-1", "a");
    let new = |state| Seen {
        task: "b".to_owned(),
        key: Some("retry".to_owned()),
        retry_of: Some("a".to_owned()),
        ..seen("a", state, 1)
    };
    let call = Call::Retry { task: "a".to_owned(), key: "retry".to_owned() };
    tale.call("control-1", call, Answer::Task { status: 201, seen: new("queued") });
    tale.call("control-1", Call::Cancel { task: "a".to_owned() }, Answer::Unknown { why: "timeout".to_owned() });
    accepted(&tale.end(&[seen("a", "cancelled", 1), new("succeeded")]));
}

#[test]
fn nobody_cancels_what_nobody_asked_to_cancel() {
    let mut tale = Tale::new();
    tale.submit("control-1", "a");
    rejected(&tale.end(&[seen("a", "cancelled", 1)]), Rule::RightEnd);
}

#[test]
fn a_lost_host_is_an_excuse() {
    let mut tale = Tale::new();
    tale.submit("control-1", "a");
    let lost = Seen { ended_as: Some("host_lost".to_owned()), ..seen("a", "failed", 3) };
    accepted(&tale.end(&[lost]));
}

#[test]
fn a_node_never_goes_back_to_an_earlier_attempt() {
    let mut tale = Tale::new();
    tale.submit("control-1", "a");
    tale.get("control-1", seen("a", "running", 2));
    tale.get("control-2", seen("a", "running", 1));
    accepted(&tale_end(&tale));
    tale.get("control-1", seen("a", "running", 1));
    rejected(&tale_end(&tale), Rule::ReadsOwnWrites);
}

fn tale_end(tale: &Tale) -> Vec<Line> {
    Tale { lines: tale.lines.clone(), ..Tale::default() }.end(&[seen("a", "succeeded", 2)])
}

#[test]
fn answers_that_cross_say_nothing() {
    let mut tale = Tale::new();
    tale.submit("control-1", "a");
    let slow = tale.ask("control-1", Call::Get { task: "a".to_owned() });
    tale.get("control-1", done("a"));
    tale.answer(slow, Answer::Task { status: 200, seen: seen("a", "running", 1) });
    accepted(&tale.end(&[done("a")]));
}

#[test]
fn an_attempt_ends_once() {
    for bad in [
        &[("attempt_started", 1, ""), ("attempt_ended", 1, "queued"), ("attempt_ended", 1, "succeeded")][..],
        &[("attempt_started", 2, ""), ("attempt_started", 1, ""), ("attempt_ended", 1, "succeeded")],
        &[("attempt_started", 1, ""), ("attempt_ended", 1, "queued")],
    ] {
        let mut tale = Tale::new();
        tale.submit("control-1", "a");
        let mut lines = tale.end(&[done("a")]);
        let Some(Line::Shown { happened: entries, .. }) = lines.last_mut() else {
            panic!("the last line shows a task")
        };
        *entries = happened(bad);
        rejected(&lines, Rule::OneEnd);
    }
}

#[test]
fn a_late_report_may_follow_the_end() {
    let mut tale = Tale::new();
    tale.submit("control-1", "a");
    let mut lines = tale.end(&[done("a")]);
    let Some(Line::Shown { happened: entries, .. }) = lines.last_mut() else { panic!("the last line shows a task") };
    entries.extend(happened(&[("report_late", 1, "")]));
    accepted(&lines);
}
