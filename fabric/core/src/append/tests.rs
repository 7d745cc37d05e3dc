//! Every rule, with plain values. Calls and appends are numbered from 1 in the order in which they
//! are made.

mod model;

use super::*;

const GIVE_UP_US: u64 = 10_000;
const RETRY_US: u64 = 100;

fn appender(in_flight_max: usize) -> Appender {
    let mut appender = impatient(in_flight_max, GIVE_UP_US);
    appender.step(0, Input::Pipeline(true));
    appender
}

fn impatient(in_flight_max: usize, give_up_us: u64) -> Appender {
    let config = Config { in_flight_max, give_up_us, retry_us: RETRY_US, retry_us_max: 400 };
    Appender::new(config, WriterId(0xa))
}

/// Appends number `number` at `expected_last`.
fn append(appender: &mut Appender, number: u64, expected_last: u64) {
    let record = format!("record {number}").into();
    appender.step(0, Input::Append { number: AppendNumber(number), expected_last: LogSeq(expected_last), record });
}

/// An appender with appends 1 to `count` under way, which expect 5 and what follows: calls 1 to
/// `count`.
fn pipelined(count: u64) -> Appender {
    let mut appender = appender(64);
    (1..=count).for_each(|number| append(&mut appender, number, 4 + number));
    appender.take_ready();
    appender
}

fn answer(appender: &mut Appender, now_us: u64, call: u64, published: Published) {
    appender.step(now_us, Input::Published(CallId(call), published));
}

fn stored(seq: u64) -> Published {
    Published::Stored { seq: LogSeq(seq) }
}

fn wrong_last(last: u64) -> Published {
    Published::WrongLast { last: LogSeq(last) }
}

fn no_answer() -> Published {
    Published::NoAnswer { reason: "cut off".to_owned() }
}

fn id(number: u64) -> MessageId {
    MessageId { writer: WriterId(0xa), number: AppendNumber(number) }
}

/// The requests to the log since the last look, one line each.
fn calls(ready: &Ready) -> Vec<String> {
    let show = |(call, action): &(CallId, Action)| match action {
        Action::Publish { id, expected_last, after: None, .. } => {
            format!("{}: {} at {expected_last}", call.0, id.number.0)
        }
        Action::Publish { id, expected_last, after: Some(after), .. } => {
            format!("{}: {} at {expected_last} after {}", call.0, id.number.0, after.number.0)
        }
        Action::ReadBack { seq } => format!("{}: read {seq}", call.0),
    };
    ready.calls.iter().map(show).collect()
}

/// The outcomes since the last look, one line each.
fn outcomes(ready: &Ready) -> Vec<String> {
    let show = |done: &Done| match &done.outcome {
        Ok(seq) => format!("{}: {seq}", done.number.0),
        Err(error) => format!("{}: {error}", done.number.0),
    };
    ready.done.iter().map(show).collect()
}

#[track_caller]
fn check(appender: &mut Appender, expected_calls: &[&str], expected_outcomes: &[&str]) {
    let ready = appender.take_ready();
    assert_eq!(calls(&ready), expected_calls);
    assert_eq!(outcomes(&ready), expected_outcomes);
}

#[test]
fn appends_are_pipelined_and_each_names_the_one_before_it() {
    let mut appender = appender(2);
    (1..=4).for_each(|number| append(&mut appender, number, 4 + number));
    check(&mut appender, &["1: 1 at 5", "2: 2 at 6 after 1"], &[]);
    answer(&mut appender, 1, 1, stored(6));
    check(&mut appender, &["3: 3 at 7 after 2"], &["1: 6"]);
    answer(&mut appender, 2, 2, stored(7));
    answer(&mut appender, 3, 3, stored(8));
    check(&mut appender, &["4: 4 at 8 after 3"], &["2: 7", "3: 8"]);
    answer(&mut appender, 4, 4, stored(9));
    check(&mut appender, &[], &["4: 9"]);
    assert_eq!((appender.pending(), appender.next_timeout_us()), (0, None));
}

#[test]
fn until_it_is_said_that_the_log_takes_more_one_is_under_way() {
    let mut appender = impatient(64, GIVE_UP_US);
    (1..=4).for_each(|number| append(&mut appender, number, 4 + number));
    check(&mut appender, &["1: 1 at 5"], &[]);
    answer(&mut appender, 1, 1, stored(6));
    check(&mut appender, &["2: 2 at 6"], &["1: 6"]);
    appender.step(2, Input::Pipeline(true));
    check(&mut appender, &["3: 3 at 7 after 2", "4: 4 at 8 after 3"], &[]);
}

#[test]
fn when_the_log_takes_no_more_at_once_what_was_sent_is_not_sent_again_behind_another() {
    let mut appender = pipelined(4);
    appender.step(1, Input::Pipeline(false));
    answer(&mut appender, 2, 2, no_answer());
    answer(&mut appender, 2, 3, stored(8));
    answer(&mut appender, 2, 4, no_answer());
    append(&mut appender, 5, 9);
    check(&mut appender, &[], &[]);
    answer(&mut appender, 3, 1, stored(6));
    check(&mut appender, &["5: 2 at 6"], &["1: 6"]);
    answer(&mut appender, 4, 5, stored(7));
    check(&mut appender, &["6: 4 at 8"], &["2: 7", "3: 8"]);
    answer(&mut appender, 5, 6, stored(9));
    check(&mut appender, &["7: 5 at 9"], &["4: 9"]);
}

#[test]
fn outcomes_come_in_the_order_of_the_calls() {
    let mut appender = pipelined(3);
    answer(&mut appender, 1, 3, stored(8));
    answer(&mut appender, 2, 2, stored(7));
    check(&mut appender, &[], &[]);
    answer(&mut appender, 3, 1, stored(6));
    check(&mut appender, &[], &["1: 6", "2: 7", "3: 8"]);
}

#[test]
fn what_does_not_follow_from_the_one_before_is_not_sent_until_that_is_done() {
    let mut appender = appender(64);
    append(&mut appender, 1, 5);
    append(&mut appender, 2, 9);
    append(&mut appender, 3, 10);
    check(&mut appender, &["1: 1 at 5"], &[]);
    answer(&mut appender, 1, 1, stored(6));
    check(&mut appender, &["2: 2 at 9", "3: 3 at 10 after 2"], &["1: 6"]);
    answer(&mut appender, 2, 2, wrong_last(6));
    check(
        &mut appender,
        &[],
        &[
            "2: cannot append record 10: the log ends at 6, not at 9",
            "3: cannot append record 11: the log ends at 6, not at 10",
        ],
    );
}

#[test]
fn no_answer_is_asked_again_with_the_same_id_and_the_rest_follows() {
    let mut appender = pipelined(3);
    for call in 1..=3 {
        answer(&mut appender, 10, call, no_answer());
    }
    check(&mut appender, &[], &[]);
    assert_eq!(appender.next_timeout_us(), Some(10 + RETRY_US));
    appender.step(10 + RETRY_US, Input::Tick);
    check(&mut appender, &["4: 1 at 5"], &[]);
    // It was stored by the first try.
    answer(&mut appender, 200, 4, stored(6));
    check(&mut appender, &["5: 2 at 6", "6: 3 at 7 after 2"], &["1: 6"]);
    answer(&mut appender, 300, 5, stored(7));
    answer(&mut appender, 300, 6, stored(8));
    check(&mut appender, &[], &["2: 7", "3: 8"]);
}

#[test]
fn the_waits_between_two_tries_double() {
    let mut appender = pipelined(1);
    let (mut now_us, mut waits) = (0, Vec::new());
    for call in 1..=5 {
        answer(&mut appender, now_us, call, no_answer());
        let next_us = appender.next_timeout_us().unwrap();
        waits.push(next_us - now_us);
        now_us = next_us;
        appender.step(now_us, Input::Tick);
    }
    assert_eq!(waits, [100, 200, 400, 400, 400]);
}

#[test]
fn what_does_not_answer_is_given_up_after_a_bound_with_all_that_follow() {
    let mut appender = pipelined(2);
    answer(&mut appender, 1, 1, no_answer());
    appender.step(GIVE_UP_US - 1, Input::Tick);
    check(&mut appender, &["3: 1 at 5"], &[]);
    assert_eq!(appender.next_timeout_us(), Some(GIVE_UP_US));
    appender.step(GIVE_UP_US, Input::Tick);
    check(
        &mut appender,
        &[],
        &[
            "1: the outcome of appending record 6 is unknown: tried for 10 ms: cut off",
            "2: the outcome of appending record 7 is unknown: tried for 10 ms: cut off",
        ],
    );
    // Answers that come now change nothing.
    answer(&mut appender, GIVE_UP_US, 3, stored(6));
    answer(&mut appender, GIVE_UP_US, 2, stored(7));
    check(&mut appender, &[], &[]);
}

#[test]
fn each_one_that_is_done_gives_the_rest_the_whole_time_again() {
    let mut appender = pipelined(2);
    answer(&mut appender, GIVE_UP_US - 1, 1, stored(6));
    appender.step(GIVE_UP_US, Input::Tick);
    check(&mut appender, &[], &["1: 6"]);
    assert_eq!(appender.next_timeout_us(), Some(2 * GIVE_UP_US - 1));
}

#[test]
fn a_log_that_ends_further_on_is_read_back() {
    let other = MessageId { writer: WriterId(0xb), number: AppendNumber(1) };
    let conflict = "1: cannot append record 6: the log ends at 9, not at 5";
    for (found, expected) in [
        (Found::Record(Some(id(1))), "1: 6"),
        (Found::Record(Some(id(2))), conflict),
        (Found::Record(Some(other)), conflict),
        (Found::Record(None), conflict),
        (
            Found::Trimmed,
            "1: the outcome of appending record 6 is unknown: its place in the log was trimmed away before it could be read back",
        ),
    ] {
        let mut appender = pipelined(1);
        answer(&mut appender, 1, 1, wrong_last(9));
        check(&mut appender, &["2: read 6"], &[]);
        appender.step(2, Input::Found(CallId(2), found));
        check(&mut appender, &[], &[expected]);
    }
}

#[test]
fn what_is_not_found_is_tried_again() {
    for found in [Found::Nothing, Found::NoAnswer { reason: "cut off".to_owned() }] {
        let mut appender = pipelined(2);
        answer(&mut appender, 1, 1, wrong_last(6));
        answer(&mut appender, 1, 2, Published::WrongPredecessor);
        appender.step(2, Input::Found(CallId(3), found));
        check(&mut appender, &["3: read 6"], &[]);
        appender.step(2 + RETRY_US, Input::Tick);
        answer(&mut appender, 200, 4, stored(6));
        check(&mut appender, &["4: 1 at 5", "5: 2 at 6"], &["1: 6"]);
    }
}

#[test]
fn nothing_is_sent_behind_one_that_is_read_back() {
    let mut appender = pipelined(1);
    answer(&mut appender, 1, 1, wrong_last(6));
    append(&mut appender, 2, 6);
    check(&mut appender, &["2: read 6"], &[]);
    appender.step(2, Input::Found(CallId(2), Found::Record(Some(id(1)))));
    check(&mut appender, &["3: 2 at 6"], &["1: 6"]);
}

#[test]
fn a_log_that_ends_too_early_is_no_conflict_while_the_one_before_is_under_way() {
    let mut appender = pipelined(2);
    // The second has overtaken the first.
    answer(&mut appender, 1, 2, wrong_last(5));
    check(&mut appender, &[], &[]);
    answer(&mut appender, 2, 1, stored(6));
    check(&mut appender, &["3: 2 at 6"], &["1: 6"]);
    answer(&mut appender, 3, 3, stored(7));
    check(&mut appender, &[], &["2: 7"]);
}

#[test]
fn a_log_that_ends_too_early_is_a_conflict_at_once_for_the_front() {
    let mut appender = pipelined(1);
    answer(&mut appender, 1, 1, wrong_last(3));
    check(&mut appender, &[], &["1: cannot append record 6: the log ends at 3, not at 5"]);
}

#[test]
fn a_log_that_ends_before_what_is_durable_is_behind() {
    let mut appender = pipelined(2);
    answer(&mut appender, 1, 1, stored(6));
    answer(&mut appender, 2, 2, wrong_last(5));
    check(&mut appender, &[], &["1: 6"]);
    appender.step(2 + RETRY_US, Input::Tick);
    answer(&mut appender, 200, 3, wrong_last(5));
    appender.step(1 + GIVE_UP_US, Input::Tick);
    check(
        &mut appender,
        &["3: 2 at 6"],
        &[
            "2: the outcome of appending record 7 is unknown: tried for 10 ms: the log is said to end at 5, and record 6 is durable",
        ],
    );
}

#[test]
fn another_writers_record_ends_everything_that_was_called_after() {
    let mut appender = pipelined(3);
    answer(&mut appender, 1, 1, wrong_last(6));
    // The second was refused although the log ends where it expects it: something else stands
    // before it.
    answer(&mut appender, 1, 2, Published::WrongPredecessor);
    answer(&mut appender, 1, 3, wrong_last(6));
    appender.step(2, Input::Found(CallId(4), Found::Record(None)));
    check(
        &mut appender,
        &["4: read 6"],
        &[
            "1: cannot append record 6: the log ends at 6, not at 5",
            "2: cannot append record 7: the log ends at 6, not at 6",
            "3: cannot append record 8: the log ends at 6, not at 7",
        ],
    );
}

#[test]
fn a_predecessor_that_the_log_has_forgotten_is_not_asked_for_again() {
    let mut appender = pipelined(2);
    answer(&mut appender, 1, 2, Published::WrongPredecessor);
    answer(&mut appender, 2, 1, stored(6));
    check(&mut appender, &["3: 2 at 6"], &["1: 6"]);

    // The same, when the first is done before the second is refused.
    let mut appender = pipelined(2);
    answer(&mut appender, 1, 1, stored(6));
    answer(&mut appender, 2, 2, Published::WrongPredecessor);
    appender.step(2 + RETRY_US, Input::Tick);
    check(&mut appender, &["3: 2 at 6"], &["1: 6"]);
}

#[test]
fn a_full_disk_is_told_to_all_that_follow() {
    let mut appender = pipelined(2);
    answer(&mut appender, 1, 1, Published::NoSpace);
    check(
        &mut appender,
        &[],
        &["1: cannot append record 6: no space is left", "2: cannot append record 7: no space is left"],
    );
    append(&mut appender, 3, 7);
    check(&mut appender, &[], &["3: cannot append record 8: no space is left"]);
}

#[test]
fn a_refusal_says_nothing_about_an_earlier_try_without_answer() {
    for refusal in [Published::NoSpace, Published::TooLarge { bytes_max: 1 }] {
        let mut appender = pipelined(1);
        answer(&mut appender, 1, 1, no_answer());
        appender.step(1 + RETRY_US, Input::Tick);
        answer(&mut appender, 102, 2, refusal);
        appender.step(102 + 2 * RETRY_US, Input::Tick);
        check(&mut appender, &["2: 1 at 5", "3: 1 at 5"], &[]);
        answer(&mut appender, 400, 3, stored(6));
        check(&mut appender, &[], &["1: 6"]);
    }
}

#[test]
fn one_that_is_too_large_leaves_the_log_where_it_was() {
    let mut appender = pipelined(3);
    answer(&mut appender, 1, 1, stored(6));
    answer(&mut appender, 2, 2, Published::TooLarge { bytes_max: 4 });
    check(
        &mut appender,
        &[],
        &[
            "1: 6",
            "2: cannot append a record of 8 bytes: the limit is 4",
            "3: cannot append record 8: the log ends at 6, not at 7",
        ],
    );
}

#[test]
fn a_failed_storage_and_a_record_in_the_wrong_place_end_everything() {
    for (published, reason) in [
        (Published::Failed { reason: "another stream".to_owned() }, "another stream"),
        (stored(9), "it was stored as record 9"),
    ] {
        let mut appender = pipelined(2);
        answer(&mut appender, 1, 2, published);
        check(&mut appender, &[], &[]);
        answer(&mut appender, 2, 1, stored(6));
        check(&mut appender, &[], &["1: 6", &format!("2: cannot append record 7: {reason}")]);
    }
}

#[test]
fn answers_to_calls_that_are_over_are_ignored() {
    let mut appender = pipelined(1);
    answer(&mut appender, 1, 1, no_answer());
    appender.step(1 + RETRY_US, Input::Tick);
    check(&mut appender, &["2: 1 at 5"], &[]);
    answer(&mut appender, 102, 1, wrong_last(3));
    appender.step(102, Input::Found(CallId(2), Found::Record(None)));
    check(&mut appender, &[], &[]);
    answer(&mut appender, 103, 2, stored(6));
    check(&mut appender, &[], &["1: 6"]);
}

#[test]
fn what_is_called_after_a_failure_fails_even_where_the_log_ends_as_expected() {
    // As by a leader that was stopped: two appends are given up, the next one is called before
    // anybody has heard of that, and meanwhile others have appended two records.
    let mut appender = pipelined(2);
    appender.step(GIVE_UP_US, Input::Tick);
    append(&mut appender, 3, 7);
    let unknown = |seq: u64| format!("the outcome of appending record {seq} is unknown: no answer for 10 ms");
    check(
        &mut appender,
        &[],
        &[&format!("1: {}", unknown(6)), &format!("2: {}", unknown(7)), &format!("3: {}", unknown(8))],
    );
    append(&mut appender, 4, 8);
    check(&mut appender, &[], &[&format!("4: {}", unknown(9))]);
    assert_eq!((appender.pending(), appender.next_timeout_us()), (0, None));
}

#[test]
fn message_ids_have_one_spelling() {
    let id = MessageId { writer: WriterId(0xabc), number: AppendNumber(17) };
    assert_eq!(id.to_string(), "0000000000000abc.17");
    assert_eq!(id.to_string().parse(), Ok(id));
    for wrong in ["", ".", "abc.17", "0000000000000ABC.17", "0000000000000abc.017", "0000000000000abc.+7", "x.1"] {
        assert!(wrong.parse::<MessageId>().is_err(), "{wrong}");
    }
}
