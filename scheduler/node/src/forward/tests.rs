use wasmill_protocol::TenantName;
use wasmill_protocol::command::Done;
use wasmill_protocol::message::control::ControlRequest;
use wasmill_record::Decided;
use wasmill_record::event::Event;

use super::*;

const ASKER: u64 = 7;
const SECOND_US: u64 = 1_000_000;
/// A command's bound, so that two fit into one call and three do not.
const CALL_BYTES_MAX: usize = 6_000;

fn command(name: &str) -> Command {
    Command::RemoveTenant { name: name.parse().unwrap_or_else(|_| TenantName::default_tenant()) }
}

fn commands(names: &[&str]) -> Asked {
    Asked::Commands(names.iter().map(|name| command(name)).collect())
}

/// A node whose log is at record 1, of term 3.
fn forwards() -> Forwards {
    let mut forwards = Forwards::new(Config { call_bytes_max: CALL_BYTES_MAX, ..Config::default() }, ASKER);
    forwards.read(0, LogSeq(1), &record(3, &[]));
    forwards
}

/// The first record of a term, which decides these calls of one command each.
fn record(term: u64, decided: &[u64]) -> Record {
    let body = EventBody::TermStarted {
        term: Term(term),
        node: String::new(),
        passed_us: 0,
        uptime: wasmill_protocol::Uptime::default(),
    };
    Record { term: Term(term), events: vec![Event { at: wasmill_protocol::Timestamp(0), body }], ..more(decided) }
}

/// A record of whatever term it is.
fn more(decided: &[u64]) -> Record {
    let decided = decided.iter().map(|&number| Decided { asker: ASKER, number, done: vec![(0, Done::Removed)] });
    Record { decided: Some(decided.collect()), ..Record::default() }
}

fn replies(replies: &[Reply]) -> Outcome {
    Outcome::Answer(ControlAnswer::Replies(replies.to_vec()))
}

fn done(seq: u64) -> Reply {
    Reply::Done { seq: LogSeq(seq), done: Done::Removed }
}

/// What is to be done, in words.
fn ready(forwards: &mut Forwards) -> Vec<String> {
    let said = |answer: Answer| match answer {
        Ok((seq, _)) => format!("done in {seq}"),
        Err(refusal) => format!("{refusal:?}"),
    };
    let shown = |action: Action| match action {
        Action::Ask { number, tries, term, request, .. } => match request {
            ControlRequest::Commands(commands) => format!("ask {number}.{tries} of {term}: {}", commands.len()),
            _ => format!("ask {number}.{tries} of {term}: question"),
        },
        Action::Forget { number } => format!("forget {number}"),
        Action::Concluded { number, fate } => match fate {
            Fate::Done(..) => format!("{number} was done"),
            fate => format!("{number} is {fate:?}"),
        },
        Action::Tell { told: Told::Commands(answers), .. } => {
            format!("tell {}", answers.into_iter().map(said).collect::<Vec<_>>().join(", "))
        }
        Action::Tell { told: Told::Question(answer), .. } => format!("answer {}", answer.is_some()),
    };
    forwards.take_ready().into_iter().map(shown).collect()
}

#[test]
fn a_client_is_answered_once_this_node_shows_what_was_done() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a"]));
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: 1"]);
    forwards.heard(10, 0, 1, replies(&[done(3)]));
    forwards.read(20, LogSeq(2), &more(&[]));
    assert_eq!(ready(&mut forwards), [""; 0]);
    forwards.read(30, LogSeq(3), &more(&[0]));
    assert_eq!(ready(&mut forwards), ["tell done in 3"]);
    assert!(forwards.is_idle() && forwards.next_timeout_us().is_none());
}

#[test]
fn a_record_that_is_not_read_in_time_is_not_told_of() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a", "b"]));
    forwards.heard(10, 0, 1, replies(&[done(3), Reply::Refused(Refusal::TenantUnknown)]));
    forwards.take_ready();
    assert_eq!(forwards.next_timeout_us(), Some(10 + 5 * SECOND_US));
    forwards.tick(10 + 5 * SECOND_US);
    assert_eq!(ready(&mut forwards), ["tell OutcomeUnknown, TenantUnknown"]);
    assert!(forwards.is_idle() && forwards.next_timeout_us().is_none());
}

#[test]
fn a_leader_is_looked_for_and_then_given_up() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a"]));
    let mut now_us = 0;
    for tries in 1.. {
        if forwards.is_idle() {
            break;
        }
        forwards.heard(now_us, 0, tries, Outcome::Unheard);
        now_us = forwards.next_timeout_us().unwrap_or(now_us);
        forwards.tick(now_us);
    }
    assert_eq!(now_us, 5 * SECOND_US);
    assert_eq!(ready(&mut forwards).last().unwrap(), "tell NotLeader");
}

#[test]
fn the_next_leader_is_asked_at_once_what_nobody_has_heard() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a"]));
    forwards.heard(0, 0, 1, Outcome::Unheard);
    forwards.read(1, LogSeq(2), &record(5, &[]));
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: 1", "ask 0.2 of 5: 1"]);
}

#[test]
fn a_leader_that_nobody_hears_is_looked_for_ever_less_often_until_a_later_term_begins() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a"]));
    let (mut now_us, mut tries, mut asked) = (0, 1, Vec::new());
    while now_us < 3 * SECOND_US {
        forwards.heard(now_us, 0, tries, Outcome::Unheard);
        asked.push(now_us);
        now_us = forwards.next_timeout_us().unwrap();
        forwards.tick(now_us);
        tries += 1;
    }
    assert_eq!(asked[..6], [0, 50_000, 150_000, 350_000, 750_000, 1_550_000]);
    forwards.heard(now_us, 0, tries, Outcome::Unheard);
    forwards.read(now_us, LogSeq(2), &record(5, &[]));
    forwards.heard(now_us, 0, tries + 1, Outcome::Unheard);
    assert_eq!(forwards.next_timeout_us(), Some(now_us + 50_000));
}

#[test]
fn an_answer_that_was_lost_is_asked_for_again_under_the_same_name() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a"]));
    forwards.heard(0, 0, 1, Outcome::Unanswered);
    forwards.tick(50_000);
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: 1", "ask 0.2 of 3: 1"]);
    forwards.heard(60_000, 0, 1, Outcome::Unanswered);
    assert_eq!(ready(&mut forwards), [""; 0], "what comes of an earlier try says nothing of this one");
    forwards.heard(60_000, 0, 1, replies(&[done(1)]));
    assert_eq!(ready(&mut forwards), ["forget 0", "tell done in 1"], "but its answer is as good");
}

#[test]
fn a_silent_leader_is_not_needed_where_the_log_tells() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a"]));
    forwards.read(10, LogSeq(2), &more(&[0]));
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: 1"], "it has the answer");
    forwards.tick(5 * SECOND_US);
    assert_eq!(ready(&mut forwards), ["forget 0", "0 was done", "tell done in 2"]);
}

#[test]
fn what_became_of_a_command_is_known_where_a_later_term_begins() {
    let mut forwards = forwards();
    for name in ["a", "b"] {
        forwards.ask(0, commands(&[name]));
    }
    forwards.heard(5, 0, 1, Outcome::Answer(ControlAnswer::LeadershipLost));
    forwards.read(10, LogSeq(2), &more(&[1]));
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: 1", "ask 1.1 of 3: 1"]);
    forwards.read(20, LogSeq(3), &record(5, &[]));
    assert_eq!(
        ready(&mut forwards),
        ["forget 1", "1 was done", "tell done in 2", "0 is NotRecorded", "ask 2.1 of 5: 1"]
    );
}

#[test]
fn where_the_log_does_not_tell_the_outcome_is_unknown() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a"]));
    forwards.restored(10, LogSeq(9), Term(5));
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: 1", "forget 0", "0 is Unknown", "tell OutcomeUnknown"]);

    let mut forwards = self::forwards();
    forwards.ask(0, commands(&["a"]));
    forwards.tick(15 * SECOND_US);
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: 1", "forget 0", "0 is Unknown", "tell OutcomeUnknown"]);
    assert!(forwards.is_idle() && forwards.next_timeout_us().is_none());
}

#[test]
fn commands_go_in_as_many_calls_as_the_bus_needs_and_each_is_settled_alone() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a", "b", "c"]));
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: 2", "ask 1.1 of 3: 1"]);
    forwards.heard(10, 1, 1, replies(&[Reply::Refused(Refusal::TenantUnknown)]));
    forwards.heard(10, 0, 1, Outcome::Answer(ControlAnswer::LeadershipLost));
    // The first command of the first call was done, the second was not.
    forwards.read(20, LogSeq(2), &more(&[0]));
    forwards.read(30, LogSeq(3), &record(5, &[]));
    assert_eq!(ready(&mut forwards), ["0 was done", "0 is NotRecorded", "ask 2.1 of 5: 1"]);
    forwards.heard(40, 2, 1, replies(&[done(3)]));
    assert_eq!(ready(&mut forwards), ["tell done in 2, done in 3, TenantUnknown"]);
}

#[test]
fn a_question_is_asked_anew_under_another_name() {
    let mut forwards = forwards();
    forwards.ask(0, Asked::Question(ControlRequest::Overview));
    forwards.heard(0, 0, 1, Outcome::Unanswered);
    forwards.tick(50_000);
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: question", "ask 1.1 of 3: question"]);
    forwards.heard(60_000, 1, 1, Outcome::Answer(ControlAnswer::Checked(None)));
    assert_eq!(ready(&mut forwards), ["answer true"]);
    forwards.ask(60_000, Asked::Question(ControlRequest::Overview));
    forwards.tick(60_000 + 15 * SECOND_US);
    assert_eq!(ready(&mut forwards), ["ask 2.1 of 3: question", "forget 2", "answer false"]);
    assert!(forwards.is_idle() && forwards.next_timeout_us().is_none());
}

#[test]
fn a_call_that_the_bus_does_not_carry_was_not_done() {
    let mut forwards = forwards();
    forwards.ask(0, commands(&["a"]));
    forwards.heard(0, 0, 1, Outcome::TooLarge);
    forwards.ask(0, commands(&[]));
    assert_eq!(ready(&mut forwards), ["ask 0.1 of 3: 1", "tell NotLeader", "tell "]);
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let mut forwards = Forwards::new(Config { forwards_max: 2, ..Config::default() }, ASKER);
    for _ in 0..2 {
        assert!(forwards.has_room());
        forwards.ask(0, commands(&["a"]));
    }
    assert!(!forwards.has_room());
}
