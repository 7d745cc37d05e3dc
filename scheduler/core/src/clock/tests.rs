use super::*;

const BEGIN: Timestamp = Timestamp(1_772_366_400_000_000);
/// The uptime at the beginning of each test.
const BOOTED_US: u64 = 5_000_000;
const SECOND_US: u64 = 1_000_000;
const HOUR_US: u64 = 3_600 * SECOND_US;
const DAY_US: u64 = 24 * HOUR_US;

/// A machine whose wall clock may be wrong, and one control node on it.
struct Machine {
    passed_us: u64,
    wrong_us: i64,
    clock: Clock,
}

impl Machine {
    fn start(alone: bool, wrong_us: i64) -> Self {
        let reading = Reading { wall: moved(BEGIN, wrong_us), uptime_us: BOOTED_US };
        Self { passed_us: 0, wrong_us, clock: Clock::new(alone, reading) }
    }

    fn reading(&self) -> Reading {
        let wall = moved(self.right(), self.wrong_us);
        Reading { wall, uptime_us: BOOTED_US + self.passed_us }
    }

    /// The time that is right.
    fn right(&self) -> Timestamp {
        BEGIN.plus_us(self.passed_us)
    }

    /// How far the node's time is ahead of what is right.
    fn ahead_us(&self) -> i64 {
        signed(self.clock.ticker().at(self.reading().uptime_us).0) - signed(self.right().0)
    }

    fn log(&mut self, last: Timestamp, expected: &[Timestamp]) {
        self.clock.log_found(last, expected, self.reading());
    }

    fn told(&mut self, witness: Witness, wrong_us: i64) {
        let time = moved(self.right(), wrong_us);
        self.clock.told(witness, time, self.reading().uptime_us, self.reading());
    }

    fn lead(&mut self, last: Timestamp) {
        self.clock.lead(true, last, self.reading());
    }

    fn resign(&mut self) {
        self.clock.lead(false, Timestamp(0), self.reading());
    }

    fn passes(&mut self, us: u64) -> Verdict {
        let mut verdict = self.clock.look(self.reading());
        let until = self.passed_us + us;
        while self.passed_us < until {
            self.passed_us = (self.passed_us + SECOND_US).min(until);
            let before = self.clock.ticker().at(self.reading().uptime_us);
            verdict = self.clock.look(self.reading());
            let after = self.clock.ticker().at(self.reading().uptime_us);
            assert!(!self.clock.leading || before == after, "a look moves the time of a leader: {before:?} {after:?}");
        }
        verdict
    }
}

fn moved(time: Timestamp, us: i64) -> Timestamp {
    Timestamp(time.0.saturating_add_signed(us))
}

fn us(us: u64) -> i64 {
    signed(us)
}

const BOUND: i64 = DIFFERENCE_US_MAX as i64;

#[test]
fn f52_a_node_whose_clock_the_servers_contradict_does_not_lead() {
    for wrong_us in [us(HOUR_US), us(31 * DAY_US), -us(DAY_US), BOUND + 1, -BOUND - 1] {
        let mut machine = Machine::start(false, wrong_us);
        machine.told(Witness::Servers, 0);
        machine.log(BEGIN, &[]);
        let verdict = machine.passes(3 * SECOND_US);
        assert!(!verdict.believed, "{wrong_us}");
        assert_eq!((verdict.difference_us, verdict.witness), (wrong_us, Witness::Servers));
        // A time from now that a client asks for is right all the same.
        assert_eq!(machine.ahead_us(), 0, "{wrong_us}");
        // Set right it may lead at once.
        machine.wrong_us = 0;
        assert!(machine.passes(SECOND_US).believed);
    }
    let mut machine = Machine::start(false, BOUND);
    machine.told(Witness::Servers, 0);
    machine.log(BEGIN, &[]);
    assert!(machine.passes(SECOND_US).believed);
}

#[test]
fn one_wrong_witness_stops_nobody() {
    // The servers are wrong, and the leader is right.
    let mut machine = Machine::start(false, 0);
    machine.told(Witness::Servers, us(DAY_US));
    machine.told(Witness::Leader, 0);
    machine.log(BEGIN, &[]);
    assert!(machine.passes(SECOND_US).believed);
    // The leader is wrong, and the log with it: the servers say so.
    let mut machine = Machine::start(false, 0);
    machine.told(Witness::Leader, us(8 * DAY_US));
    machine.log(moved(BEGIN, us(8 * DAY_US)), &[]);
    assert!(!machine.passes(SECOND_US).believed);
    machine.told(Witness::Servers, 0);
    assert!(machine.passes(SECOND_US).believed);
    assert_eq!(machine.ahead_us(), 0);
    machine.lead(moved(BEGIN, us(8 * DAY_US)));
    assert_eq!(machine.ahead_us(), 0, "the time does not stay ahead");
    // The servers' clock is set wrong later on: ours has not changed.
    machine.told(Witness::Servers, us(DAY_US));
    machine.clock.witnesses.remove(&Witness::Leader);
    let verdict = machine.passes(HOUR_US);
    assert!(verdict.believed && !verdict.ends_leadership);
    assert_eq!(verdict.difference_us, -us(DAY_US));
}

#[test]
fn without_any_other_witness_the_log_must_not_be_ahead() {
    let mut machine = Machine::start(false, -us(HOUR_US));
    machine.log(BEGIN, &[]);
    let verdict = machine.passes(SECOND_US);
    assert!(!verdict.believed);
    assert_eq!((verdict.witness, verdict.difference_us), (Witness::Log, -us(HOUR_US)));
    let mut machine = Machine::start(false, 0);
    machine.log(moved(BEGIN, -us(90 * DAY_US)), &[]);
    assert!(machine.passes(SECOND_US).believed, "nobody has led for three months");
    let mut machine = Machine::start(false, 0);
    machine.log(Timestamp(0), &[]);
    assert!(machine.passes(SECOND_US).believed, "a new cluster");
}

#[test]
fn a_clock_that_is_set_while_its_node_leads_ends_that() {
    let mut machine = Machine::start(false, 0);
    machine.told(Witness::Servers, 0);
    machine.log(BEGIN, &[]);
    machine.lead(BEGIN);
    assert!(!machine.passes(SECOND_US).ends_leadership);
    machine.wrong_us = us(DAY_US);
    let verdict = machine.passes(SECOND_US);
    assert!(verdict.ends_leadership && !verdict.believed);
    assert_eq!(machine.ahead_us(), 0);
    machine.resign();
    assert!(!machine.passes(HOUR_US).believed);
    assert_eq!(machine.ahead_us(), 0);
}

#[test]
fn a_small_difference_is_corrected_without_a_step() {
    for alone in [false, true] {
        for wrong_us in [BOUND, -BOUND, 1] {
            let mut machine = Machine::start(alone, 0);
            machine.log(BEGIN, &[]);
            machine.lead(BEGIN);
            machine.passes(SECOND_US);
            machine.wrong_us = wrong_us;
            assert!(!machine.passes(SECOND_US).ends_leadership);
            assert!(machine.ahead_us().unsigned_abs() <= SECOND_US / 4 + 1);
            machine.passes(5 * 60 * SECOND_US);
            assert_eq!(machine.ahead_us(), wrong_us);
        }
    }
}

#[test]
fn a_leader_goes_on_where_the_log_ends_when_that_is_a_little_ahead() {
    let mut machine = Machine::start(false, 0);
    machine.told(Witness::Servers, 0);
    machine.log(BEGIN, &[]);
    machine.lead(moved(BEGIN, us(20 * SECOND_US)));
    assert_eq!(machine.ahead_us(), us(20 * SECOND_US));
    machine.passes(100 * SECOND_US);
    assert_eq!(machine.ahead_us(), 0);
}

#[test]
fn f33_a_single_machine_whose_clock_is_set_by_hours_has_that_time() {
    for start_us in [-us(2 * HOUR_US), us(2 * HOUR_US), us(12 * HOUR_US), -us(DAY_US)] {
        let mut machine = Machine::start(true, 0);
        machine.log(Timestamp(0), &[]);
        machine.lead(Timestamp(0));
        machine.passes(SECOND_US);
        machine.wrong_us = start_us;
        let verdict = machine.passes(SECOND_US);
        assert!(verdict.ends_leadership && verdict.believed, "{start_us}");
        machine.resign();
        machine.lead(machine.right());
        assert_eq!(machine.ahead_us(), start_us);
        // And back, whichever way that is.
        machine.wrong_us = 0;
        assert!(machine.passes(SECOND_US).ends_leadership);
        machine.resign();
        assert_eq!(machine.ahead_us(), 0, "{start_us}");
    }
}

#[test]
fn f52_a_single_machine_that_runs_on_is_not_a_month_further_at_once() {
    // The last leader was on this machine, ten seconds ago.
    let mut machine = Machine::start(true, us(31 * DAY_US));
    machine.log(moved(BEGIN, -us(10 * SECOND_US)), &[BEGIN]);
    machine.lead(BEGIN);
    let verdict = machine.passes(SECOND_US);
    assert_eq!((verdict.believed, verdict.difference_us), (false, us(31 * DAY_US)));
    assert!(!verdict.ends_leadership && verdict.followed_in_us.is_some());
    assert_eq!(machine.ahead_us(), 0);
    // Set right in time nothing was moved.
    machine.passes(9 * 60 * SECOND_US);
    machine.wrong_us = 0;
    assert!(machine.passes(SECOND_US).believed);
    assert_eq!(machine.ahead_us(), 0);
    // A difference that lasts is followed: the time before was wrong.
    machine.wrong_us = us(31 * DAY_US);
    assert!(!machine.passes(9 * 60 * SECOND_US).ends_leadership);
    assert!(machine.passes(2 * 60 * SECOND_US).ends_leadership);
    machine.resign();
    assert_eq!(machine.ahead_us(), us(31 * DAY_US));
    // And the way back is free.
    machine.wrong_us = 0;
    machine.passes(SECOND_US);
    assert_eq!(machine.ahead_us(), 0);
}

#[test]
fn a_single_machine_that_was_off_starts_with_the_time_of_its_clock() {
    let mut machine = Machine::start(true, 0);
    machine.log(moved(BEGIN, -us(90 * DAY_US)), &[]);
    machine.lead(moved(BEGIN, -us(90 * DAY_US)));
    assert!(machine.passes(SECOND_US).believed);
    assert_eq!(machine.ahead_us(), 0);
    // The clock was ahead when it ran last.
    let mut machine = Machine::start(true, 0);
    machine.log(moved(BEGIN, us(90 * DAY_US)), &[]);
    machine.lead(moved(BEGIN, us(90 * DAY_US)));
    assert!(machine.passes(SECOND_US).believed);
    assert_eq!(machine.ahead_us(), 0);
}

#[test]
fn a_clock_that_was_never_set_is_not_believed_and_its_first_time_is() {
    // In 1970.
    let mut machine = Machine::start(true, -us(BEGIN.0));
    let off_us = us(90 * DAY_US);
    machine.log(moved(BEGIN, -off_us), &[]);
    machine.lead(moved(BEGIN, -off_us));
    assert!(!machine.passes(SECOND_US).believed);
    assert_eq!(machine.ahead_us(), -off_us, "it goes on where the log ends");
    machine.wrong_us = 0;
    let verdict = machine.passes(SECOND_US);
    assert!(verdict.ends_leadership && verdict.believed);
    machine.resign();
    assert_eq!(machine.ahead_us(), 0);
}

#[test]
fn a_machine_that_sleeps_has_slept_for_as_long_as_its_clock_says() {
    let mut machine = Machine::start(true, 0);
    machine.log(BEGIN, &[]);
    machine.lead(BEGIN);
    machine.passes(SECOND_US);
    machine.passed_us += 3 * DAY_US;
    let verdict = machine.clock.look(machine.reading());
    assert!(verdict.believed && !verdict.ends_leadership);
    assert_eq!(machine.ahead_us(), 0);
}

#[test]
fn a_time_that_was_right_before_a_restart_is_right_at_once() {
    let mut machine = Machine::start(true, 0);
    // The clock was a month behind when the last leader began.
    machine.log(moved(BEGIN, -us(30 * DAY_US)), &[BEGIN, moved(BEGIN, -us(30 * DAY_US))]);
    machine.lead(moved(BEGIN, -us(30 * DAY_US)));
    assert_eq!(machine.ahead_us(), 0);
    assert!(machine.passes(SECOND_US).believed);
}
