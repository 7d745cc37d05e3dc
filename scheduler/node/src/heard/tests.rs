use super::*;

const CONFIG: Config = Config { calls_max: 8, kept_us: 100, kept_bytes_max: 50, waiting_max: 2 };

fn name(number: u64) -> CallName {
    CallName { asker: 1, number }
}

fn heard() -> Heard<&'static str, &'static str> {
    Heard::new(CONFIG)
}

fn told(heard: &mut Heard<&'static str, &'static str>, number: u64, answer: &'static str) -> Vec<&'static str> {
    heard.answered(name(number), &answer).collect()
}

#[test]
fn a_call_is_decided_once_and_answered_as_often_as_it_is_asked() {
    let mut heard = heard();
    assert_eq!(heard.commands(0, name(1), 10, "a"), Hearing::Decide);
    assert_eq!(heard.commands(1, name(1), 10, "b"), Hearing::Waits);
    assert_eq!(heard.commands(2, name(1), 10, "c"), Hearing::Waits, "the oldest copy is given up");
    assert_eq!(told(&mut heard, 1, "yes"), ["b", "c"]);
    assert_eq!(told(&mut heard, 1, "no"), [""; 0], "it has an answer");
    assert_eq!(heard.commands(3, name(1), 10, "d"), Hearing::Tell("d", "yes"));
    assert_eq!(told(&mut heard, 2, "yes"), [""; 0], "it was never heard");
}

#[test]
fn a_question_is_new_once() {
    let mut heard = heard();
    assert!(heard.question(name(1)) && !heard.question(name(1)) && heard.question(name(2)));
}

#[test]
fn answers_are_kept_for_a_time_and_up_to_a_size() {
    let mut heard = heard();
    for number in [1, 2] {
        assert_eq!(heard.commands(0, name(number), 10, "a"), Hearing::Decide);
        assert_eq!(told(&mut heard, number, "yes"), ["a"]);
    }
    assert_eq!(heard.commands(99, name(3), 10, "a"), Hearing::Decide);
    assert_eq!(heard.commands(99, name(1), 10, "b"), Hearing::Tell("b", "yes"));
    assert_eq!(heard.commands(100, name(4), 10, "a"), Hearing::Decide);
    assert_eq!(heard.commands(100, name(1), 10, "b"), Hearing::Forgotten);
    assert_eq!(told(&mut heard, 3, "yes"), ["a"]);
    assert_eq!(heard.commands(101, name(5), 45, "a"), Hearing::Decide);
    assert_eq!(heard.commands(101, name(3), 10, "b"), Hearing::Forgotten, "there is no room for it");
    assert_eq!(told(&mut heard, 4, "yes"), ["a"], "whoever waits is told all the same");
    assert_eq!(heard.commands(101, name(4), 10, "b"), Hearing::Forgotten);
    assert_eq!(heard.commands(101, name(5), 45, "b"), Hearing::Waits, "what is decided is not decided twice");
}

#[test]
fn the_oldest_calls_are_forgotten() {
    let mut heard = heard();
    for number in 0..9 {
        assert_eq!(heard.commands(0, name(number), 1, "a"), Hearing::Decide);
    }
    assert_eq!((heard.calls.len(), heard.by_age.len()), (8, 8));
    assert_eq!(heard.commands(0, name(0), 1, "a"), Hearing::Decide, "no copy comes so late");
}

#[test]
fn whoever_waits_when_the_leadership_ends_is_known() {
    let mut heard = heard();
    assert_eq!(heard.commands(0, name(1), 1, "a"), Hearing::Decide);
    assert_eq!(heard.commands(0, name(2), 1, "b"), Hearing::Decide);
    assert_eq!(told(&mut heard, 1, "yes"), ["a"]);
    assert_eq!(heard.end().collect::<Vec<_>>(), ["b"]);
}
