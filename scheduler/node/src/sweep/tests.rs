use wasmill_protocol::{LogSeq, Term, Timestamp, Uptime};
use wasmill_record::event::{Event, EventBody};

use super::*;

const CONFIG: Config = Config { retention_us: 1_000, interval_us: 100, blob_age_us: 50, blobs_max: 2 };

/// What the log says of time after a term has begun at 10,000.
fn led() -> LedTime {
    let mut led = LedTime::default();
    let body = EventBody::TermStarted { term: Term(1), node: String::new(), passed_us: 0, uptime: Uptime::default() };
    led.apply(LogSeq(1), &Event { at: Timestamp(10_000), body });
    led
}

fn blob(number: u8) -> Digest {
    Digest([number; 32])
}

/// A sweep of these blobs, each with when it was written and whether something refers to it. Those that go.
fn swept(sweep: &mut Sweep<u8>, uptime_us: u64, blobs: &[(u8, u8, bool)]) -> Vec<u8> {
    sweep.begin(uptime_us, &led(), 0);
    while sweep.next(true).is_some_and(|step| step != Step::Blobs) {}
    let goes = blobs
        .iter()
        .filter(|(number, written, is_referenced)| sweep.blob(uptime_us, blob(*number), *written, *is_referenced));
    goes.map(|(number, ..)| *number).collect()
}

#[test]
fn tasks_go_by_led_time_and_blobs_after_them_while_this_node_leads() {
    let mut sweep = Sweep::<u8>::new(CONFIG);
    assert_eq!(sweep.next_timeout_us(), 0, "at once");
    for (leads, passed_us) in [(true, 0), (false, 300)] {
        sweep.begin(7, &led(), passed_us);
        let Some(Step::Tasks(expired)) = sweep.next(leads) else { panic!("tasks go first") };
        assert_eq!(expired.before, Timestamp(9_000 + passed_us));
        assert_eq!(sweep.next(leads), leads.then_some(Step::Blobs));
        assert_eq!((sweep.next(leads), sweep.next_timeout_us()), (None, 107));
    }
}

#[test]
fn a_blob_goes_when_nothing_has_referred_to_it_for_long_enough() {
    let mut sweep = Sweep::new(CONFIG);
    assert_eq!(swept(&mut sweep, 0, &[(1, 1, false), (2, 1, true)]), [0; 0]);
    assert_eq!(swept(&mut sweep, 49, &[(1, 1, false), (2, 1, false)]), [0; 0]);
    assert_eq!(swept(&mut sweep, 50, &[(1, 1, false), (2, 1, false)]), [1]);
    assert_eq!(swept(&mut sweep, 90, &[(2, 2, false)]), [0; 0], "it was stored anew");
    assert_eq!(swept(&mut sweep, 139, &[(2, 2, true)]), [0; 0]);
    assert_eq!(swept(&mut sweep, 140, &[(2, 2, false)]), [0; 0], "something has referred to it since");
    assert_eq!(swept(&mut sweep, 190, &[(2, 2, false)]), [2]);
}

#[test]
fn a_node_that_has_not_led_all_the_time_begins_anew() {
    let mut sweep = Sweep::new(CONFIG);
    assert_eq!(swept(&mut sweep, 0, &[(1, 1, false)]), [0; 0]);
    sweep.begin(10, &led(), 0);
    while sweep.next(false).is_some() {}
    assert_eq!(swept(&mut sweep, 60, &[(1, 1, false)]), [0; 0]);
}

#[test]
fn no_more_blobs_are_remembered_than_may_be() {
    let mut sweep = Sweep::new(CONFIG);
    let blobs = [(1, 1, false), (2, 1, false), (3, 1, false)];
    assert_eq!(swept(&mut sweep, 0, &blobs), [0; 0]);
    assert_eq!(swept(&mut sweep, 50, &blobs), [1, 2]);
    assert_eq!(swept(&mut sweep, 100, &blobs[2..]), [3]);
}
