use wasmill_protocol::Term;
use wasmill_record::event::EventBody;

use super::*;

fn began(at: Timestamp, uptime: Uptime) -> Event {
    let body = EventBody::TermStarted { term: Term(1), node: "n".to_owned(), passed_us: 0, uptime };
    Event { at, body }
}

#[test]
fn the_time_is_that_of_the_wall_clock_and_goes_on() {
    let clock = Clock::start(true);
    let first = clock.now();
    assert!(clock.look().believed && clock.now() >= first);
    let wall = reading().wall;
    assert!(wall.us_since(first) < 60_000_000 && first.us_since(wall) < 60_000_000);
}

#[test]
fn f52_a_single_machine_whose_log_was_ahead_has_the_right_time_again() {
    let clock = Clock::start(true);
    let mut led = LedTime::default();
    let ahead = clock.now().plus_ms(31 * 24 * 3_600_000);
    led.apply(LogSeq(1), &began(ahead, Uptime::default()));
    clock.log_found(&led);
    clock.begin_term(ahead);
    assert!(clock.now() < ahead && clock.verdict().believed);
}

#[test]
fn f52_the_time_does_not_leap_while_the_machine_runs_on() {
    let clock = Clock::start(true);
    let now = clock.now();
    // A minute more: the clock and the uptime of a machine do not advance alike to the microsecond.
    let month_ago = Timestamp(now.0 - 31 * 24 * 3_600_000_000 - 60_000_000);
    let mut led = LedTime::default();
    // The last leader was on this machine just now, and its clock showed a month less.
    led.apply(LogSeq(1), &began(month_ago, clock.uptime(uptime::now_us())));
    clock.log_found(&led);
    clock.begin_term(month_ago);
    assert!(clock.now() < month_ago.plus_ms(3_600_000));
    assert!(clock.may_lead());
    let complaint = clock.complaint().unwrap();
    for said in ["31 d 0 h ahead of", "set it right", "followed in"] {
        assert!(complaint.contains(said), "{complaint}");
    }
}

#[test]
fn f52_a_node_that_the_servers_contradict_may_not_lead() {
    let clock = Clock::start(false);
    clock.servers_told(clock.now().plus_ms(61_000), uptime::now_us());
    assert!(!clock.may_lead());
    let complaint = clock.complaint().unwrap();
    assert!(
        complaint.contains("behind the servers that keep the log: set it right, this node does not lead"),
        "{complaint}"
    );
    // What clients ask of this node meanwhile is counted from the servers' time.
    assert!(clock.now() > reading().wall.plus_ms(50_000));
    clock.servers_told(reading().wall, uptime::now_us());
    assert!(clock.may_lead() && clock.complaint().is_none());
}

#[test]
fn what_is_over_is_counted_by_the_time_for_which_somebody_has_led() {
    let clock = Clock::start(true);
    let (long_ago, hour_us) = (Timestamp(1_772_366_400_000_000), 3_600_000_000);
    clock.published(LogSeq(1), &[began(long_ago, Uptime::default())]);
    clock.published(LogSeq(2), &[began(long_ago.plus_ms(90 * 24 * 3_600_000), Uptime::default())]);
    let expired = clock.led_time(|led, passed_us| led.expired(hour_us, passed_us));
    let [first, second] = expired[..] else { panic!("the time has leapt once") };
    assert!(first.before < long_ago && second.before < second.since, "an hour has not passed: {first:?} {second:?}");
    let (passed_us, _) = clock.measured();
    assert!(passed_us < hour_us);
}

#[test]
fn differences_are_shown_in_two_units() {
    let s = 1_000_000;
    for (us, expected) in [
        (61 * s, "1 min 1 s ahead of"),
        (-5 * s, "5 s behind"),
        (7_260 * s, "2 h 1 min ahead of"),
        (-31 * 86_400 * s, "31 d 0 h behind"),
    ] {
        assert_eq!(shown(us), expected);
    }
}
