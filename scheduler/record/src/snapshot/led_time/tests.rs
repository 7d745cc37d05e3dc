use wasmill_protocol::ids::Term;

use super::*;

const BEGIN: Timestamp = Timestamp(1_772_366_400_000_000);
const HOUR_US: u64 = 3_600_000_000;
const DAY_US: u64 = 24 * HOUR_US;

/// A log in which every record has one event.
#[derive(Default)]
struct Log {
    led: LedTime,
    seq: u64,
}

impl Log {
    fn event(&mut self, at: Timestamp, body: EventBody) {
        self.seq += 1;
        self.led.apply(LogSeq(self.seq), &Event { at, body });
    }

    fn term(&mut self, at: Timestamp, passed_us: u64, uptime: Uptime) {
        self.event(at, EventBody::TermStarted { term: Term(self.seq), node: "n".to_owned(), passed_us, uptime });
    }

    fn goes_on(&mut self, at: Timestamp) {
        let task = wasmill_protocol::TaskId::default();
        self.event(at, EventBody::TaskQueued { task });
    }

    /// Whether a task that ended at `at` in record `seq` is over after `retention_us`.
    fn is_over(&self, seq: u64, at: Timestamp, retention_us: u64) -> bool {
        let seq = LogSeq(seq);
        let in_range = |range: &&Expired| (range.from..range.until).contains(&seq);
        let ranges = self.led.expired(retention_us, 0);
        assert_eq!(ranges.iter().filter(in_range).count(), 1, "each record is in one range");
        ranges.iter().find(in_range).is_some_and(|range| at < range.before)
    }
}

fn back(time: Timestamp, us: u64) -> Timestamp {
    Timestamp(time.0 - us)
}

fn booted(us: u64) -> Uptime {
    Uptime { boot: "a".to_owned(), us }
}

#[test]
fn without_jumps_led_time_is_the_time_of_the_log() {
    let mut log = Log::default();
    log.term(BEGIN, 0, Uptime::default());
    log.goes_on(BEGIN.plus_us(30 * DAY_US));
    log.term(BEGIN.plus_us(30 * DAY_US + 59_000_000), 0, Uptime::default());
    assert_eq!(log.led.us(), signed(BEGIN.plus_us(30 * DAY_US + 59_000_000)));
    let all = Expired {
        since: Timestamp(0),
        from: LogSeq(0),
        until: LogSeq(u64::MAX),
        before: log.led.last_event().plus_us(5),
    };
    assert_eq!(log.led.expired(0, 5), [all]);
}

#[test]
fn f52_a_leader_a_month_ahead_adds_no_more_than_it_has_led() {
    let mut log = Log::default();
    log.term(BEGIN, 0, Uptime::default());
    log.goes_on(BEGIN);
    let before_us = log.led.us();
    // It leads for an hour, and then one with the right time does.
    let ahead = BEGIN.plus_us(31 * DAY_US);
    log.term(ahead, 0, Uptime::default());
    log.goes_on(ahead.plus_us(HOUR_US));
    assert!(!log.is_over(2, BEGIN, 7 * DAY_US));
    log.term(BEGIN.plus_us(HOUR_US), 0, Uptime::default());
    let led_us = u64::try_from(log.led.us() - before_us).unwrap();
    assert!((HOUR_US..=HOUR_US + 2 * UNMEASURED_US_MAX).contains(&led_us), "{led_us}");
    assert!(!log.is_over(2, BEGIN, 7 * DAY_US));
    // A task that ended while the wrong clock led is kept as long as one that ended before or
    // after.
    assert!(!log.is_over(4, ahead.plus_us(HOUR_US), HOUR_US));
    log.goes_on(BEGIN.plus_us(8 * DAY_US));
    assert!(log.is_over(2, BEGIN, 7 * DAY_US));
    assert!(log.is_over(4, ahead.plus_us(HOUR_US), 7 * DAY_US));
    assert!(!log.is_over(4, ahead.plus_us(HOUR_US), 8 * DAY_US));
}

#[test]
fn a_leader_in_the_past_makes_nothing_old() {
    let mut log = Log::default();
    log.term(BEGIN, 0, Uptime::default());
    let long_ago = back(BEGIN, 400 * DAY_US);
    log.term(long_ago, 0, Uptime::default());
    log.goes_on(long_ago.plus_us(1));
    log.term(BEGIN.plus_us(1), 0, Uptime::default());
    assert!(!log.is_over(3, long_ago.plus_us(1), HOUR_US));
    assert!(!log.is_over(1, BEGIN, HOUR_US));
}

#[test]
fn time_without_a_leader_counts_where_it_was_measured() {
    let led_us = |passed_us, uptime| {
        let mut log = Log::default();
        log.term(BEGIN, 0, booted(HOUR_US));
        log.goes_on(BEGIN.plus_us(HOUR_US));
        log.term(BEGIN.plus_us(3 * DAY_US), passed_us, uptime);
        log.led.us() - signed(BEGIN)
    };
    let minute = clamped(UNMEASURED_US_MAX);
    assert_eq!(led_us(0, Uptime::default()), clamped(HOUR_US) + minute);
    assert_eq!(led_us(DAY_US, Uptime::default()), clamped(HOUR_US + DAY_US));
    // The same machine, which runs on: three days have passed since the term before began.
    assert_eq!(led_us(0, booted(3 * DAY_US + HOUR_US)), clamped(3 * DAY_US));
    assert_eq!(led_us(0, booted(HOUR_US + DAY_US)), clamped(DAY_US));
    let rebooted = Uptime { boot: "b".to_owned(), us: 30 * DAY_US };
    assert_eq!(led_us(0, rebooted), clamped(HOUR_US) + minute);
    // Nobody can measure more than the clock shows.
    assert_eq!(led_us(90 * DAY_US, Uptime::default()), clamped(3 * DAY_US));
}

#[test]
fn the_time_is_expected_from_the_same_start_of_a_machine_alone() {
    let mut log = Log::default();
    log.term(BEGIN, 0, booted(HOUR_US));
    assert_eq!(log.led.expected(&booted(3 * HOUR_US)), [BEGIN.plus_us(2 * HOUR_US)]);
    assert_eq!(log.led.expected(&Uptime { boot: "b".to_owned(), us: 3 * HOUR_US }), []);
    // The clock was set back, and nothing is known of which is right.
    let earlier = back(BEGIN, 9 * DAY_US);
    for minutes in 0..20 {
        log.term(earlier.plus_us(minutes * 60_000_000), 0, booted(HOUR_US + minutes * 60_000_000));
    }
    let expected = [BEGIN.plus_us(2 * HOUR_US), earlier.plus_us(2 * HOUR_US)];
    assert_eq!(log.led.expected(&booted(3 * HOUR_US)), expected);
    log.term(BEGIN, 0, Uptime::default());
    assert_eq!(log.led.expected(&Uptime::default()), []);
    assert_eq!(log.led.expected(&booted(3 * HOUR_US)), []);
}

#[test]
fn the_number_of_spans_is_bounded_and_merging_keeps_longer() {
    let mut log = Log::default();
    for round in 0..500 {
        let jump = if round % 2 == 0 { 0 } else { 40 * DAY_US };
        log.term(BEGIN.plus_us(round + jump), 0, Uptime::default());
    }
    assert_eq!(log.led.spans.len(), SPANS_MAX);
    for round in 0..500 {
        let jump = if round % 2 == 0 { 0 } else { 40 * DAY_US };
        assert!(!log.is_over(round + 1, BEGIN.plus_us(round + jump), DAY_US), "{round}");
    }
}
