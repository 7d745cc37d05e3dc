use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};

use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::tenant::Quotas;
use wasmill_protocol::{TenantName, Uptime};
use wasmill_record::Decided;
use wasmill_record::event::EventBody;
use wasmill_record::snapshot::{Current, ReadModelCopy, SnapshotRef};
use wasmill_scheduler_core::{CoreConfig, State};

use super::*;
use crate::upkeep::{SnapshotConfig, Work};

/// A time that only grows.
const NOW: Timestamp = Timestamp(1_000_000);
/// Larger than every record of a test.
const ROOM: usize = usize::MAX;

/// A snapshot is due after every four records.
fn often() -> Upkeep {
    let config =
        SnapshotConfig { records: 4, keep_records: 0, copy_log_bytes: 1, copy_percent: 0, ..SnapshotConfig::default() };
    Upkeep::new(config, Current::default(), Vec::new())
}

fn begun_with(config: Config) -> Leading {
    let core = Core::new(7, CoreConfig::default(), State::default());
    let mut leading = Leading::new(config, core, Chain::default(), Term(1), often());
    let uptime = Uptime { boot: "b".to_owned(), us: 1 };
    let lead = core_io::Input::Lead { term: Term(1), node: "n".to_owned(), passed_us: 0, uptime };
    leading.step(NOW, lead.into());
    leading
}

fn begun() -> Leading {
    begun_with(Config::default())
}

fn name(number: u64) -> TenantName {
    format!("tenant-{number}").parse().unwrap()
}

/// Asks for a tenant: its first creation is an event, every further one is refused.
fn create(leading: &mut Leading, reply_to: u64, tenant: u64) {
    let command = Command::CreateTenant { name: name(tenant), weight: 1, class: 0, quotas: Quotas::default() };
    leading.step(NOW, core_io::Input::Command { reply_to: ReplyTo(reply_to), command }.into());
}

fn seqs(ready: &Ready) -> Vec<u64> {
    ready.appends.iter().map(|append| append.chain.last.0).collect()
}

fn replies(effects: &[Effects]) -> Vec<u64> {
    effects.iter().flat_map(|effects| &effects.replies).map(|(reply_to, _)| reply_to.0).collect()
}

#[test]
fn what_was_decided_takes_effect_once_its_record_is_durable() {
    let mut leading = begun();
    create(&mut leading, 1, 1);
    let ready = leading.take_ready(ROOM);
    assert_eq!(
        (seqs(&ready), ready.effects.len()),
        (vec![1], 0),
        "the beginning of the term and the tenant are one record"
    );
    create(&mut leading, 2, 2);
    assert_eq!(seqs(&leading.take_ready(ROOM)), [2]);
    create(&mut leading, 3, 3);
    let ready = leading.take_ready(ROOM);
    assert!(ready.is_empty(), "two are under way: what comes then gathers");
    assert_eq!(leading.next_timeout(), Some(NOW.plus_us(crate::watch::LOG.ask_after_us)), "only the log is watched");
    leading.step(NOW, Input::Appended(LogSeq(1)));
    let ready = leading.take_ready(ROOM);
    assert_eq!((replies(&ready.effects), seqs(&ready)), (vec![1], vec![3]));
    assert_eq!(ready.effects[0].record.as_ref().map(|record| record.term), Some(Term(1)));
    leading.step(NOW, Input::Appended(LogSeq(2)));
    leading.step(NOW, Input::Appended(LogSeq(3)));
    let durable = leading.take_durable();
    assert_eq!(replies(&durable), [2, 3]);
    assert_eq!(durable.iter().map(|effects| effects.seq.0).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn each_record_names_the_one_before_it() {
    let mut leading = begun();
    let mut before = Chain::default();
    for number in 0..5 {
        create(&mut leading, number, number);
        let ready = leading.take_ready(ROOM);
        let [append] = ready.appends.as_slice() else { panic!("{ready:?}") };
        assert_eq!(append.record.prev_hash, before.hash);
        assert_eq!(append.chain, before.then(&append.bytes));
        assert_eq!(append.chain.log_bytes, before.log_bytes + append.bytes.len() as u64);
        before = append.chain;
        leading.step(NOW, Input::Appended(append.chain.last));
    }
}

#[test]
fn a_refusal_waits_for_what_it_may_rest_on_and_for_nothing_else() {
    let mut leading = begun();
    create(&mut leading, 1, 1);
    leading.take_ready(ROOM);
    create(&mut leading, 2, 1);
    let ready = leading.take_ready(ROOM);
    assert!(ready.is_empty(), "the tenant that it rests on is not durable: {ready:?}");
    leading.step(NOW, Input::Appended(LogSeq(1)));
    assert_eq!(replies(&leading.take_durable()), [1, 2]);
    create(&mut leading, 3, 1);
    let ready = leading.take_ready(ROOM);
    let [effects] = ready.effects.as_slice() else { panic!("{ready:?}") };
    assert_eq!((effects.seq, effects.record.is_none()), (LogSeq(1), true));
    assert_eq!(effects.replies, [(ReplyTo(3), Err(Refusal::TenantExists))]);
}

#[test]
fn a_record_that_is_too_large_is_cut_and_everything_waits_for_the_last_part() {
    let mut leading = begun();
    (0..8).for_each(|number| create(&mut leading, number, number));
    let ready = leading.take_ready(400);
    assert!(ready.appends.len() > 2, "{}", ready.appends.len());
    let events: usize = ready.appends.iter().map(|append| append.record.events.len()).sum();
    assert_eq!(events, 9, "none is lost");
    let cut: Vec<_> = ready.appends.iter().map(|append| append.is_cut).collect();
    assert!(!cut[cut.len() - 1] && cut[..cut.len() - 1].iter().all(|is_cut| *is_cut), "{cut:?}");
    for append in &ready.appends {
        assert!(append.bytes.len() <= 400 || append.record.events.len() == 1);
        leading.step(NOW, Input::Appended(append.chain.last));
        let answered = replies(&leading.take_durable());
        assert_eq!(answered.len(), if append.is_cut { 0 } else { 8 });
    }
}

/// Asks for a tenant for another node.
fn create_named(leading: &mut Leading, (number, place): (u64, u32), tenant: u64) {
    let command = Command::CreateTenant { name: name(tenant), weight: 1, class: 0, quotas: Quotas::default() };
    let reply_to = ReplyTo(1_000 * number + u64::from(place));
    let name = CommandName { asker: 9, number, place };
    leading.step(NOW, Input::Named { name, reply_to, command: Box::new(command) });
}

fn decided(append: &Append) -> Vec<(u64, u32)> {
    let decided = append.record.decided.iter().flatten();
    decided.flat_map(|decided| decided.done.iter().map(|(place, _)| (decided.number, *place))).collect()
}

#[test]
fn a_record_names_the_commands_that_it_decides() {
    let mut leading = begun();
    create(&mut leading, 1, 1);
    create_named(&mut leading, (5, 0), 2);
    create_named(&mut leading, (5, 1), 2);
    create_named(&mut leading, (5, 2), 3);
    create_named(&mut leading, (6, 0), 4);
    let ready = leading.take_ready(ROOM);
    let done = |places: &[u32]| places.iter().map(|place| (*place, Done::Created)).collect();
    let named =
        vec![Decided { asker: 9, number: 5, done: done(&[0, 2]) }, Decided { asker: 9, number: 6, done: done(&[0]) }];
    assert_eq!(ready.appends[0].record.decided, Some(named), "what is refused is not among them");
    create_named(&mut leading, (7, 0), 4);
    create(&mut leading, 2, 5);
    assert_eq!(leading.take_ready(ROOM).appends[0].record.decided, Some(Vec::new()));
}

#[test]
fn each_part_of_what_was_cut_names_the_commands_whose_first_event_it_has() {
    let mut leading = begun();
    (0..8).for_each(|place| create_named(&mut leading, (5, place), u64::from(place)));
    let ready = leading.take_ready(600);
    assert!(ready.appends.len() > 2, "{}", ready.appends.len());
    let mut told = Vec::new();
    for append in &ready.appends {
        let tenants = append.record.events.iter().filter(|event| matches!(event.body, EventBody::TenantPut { .. }));
        assert_eq!(tenants.count(), decided(append).len());
        told.extend(decided(append));
    }
    assert_eq!(told, (0..8).map(|place| (5, place)).collect::<Vec<_>>());
}

#[test]
fn an_overview_is_told_after_the_next_record_however_busy_the_log_is() {
    let mut leading = begun();
    create(&mut leading, 1, 1);
    leading.take_ready(ROOM);
    create(&mut leading, 2, 2);
    leading.take_ready(ROOM);
    leading.step(NOW, Input::Overview(ReplyTo(100)));
    for number in 3..6 {
        // There is always more to record as soon as there is room.
        create(&mut leading, number, number);
        leading.step(NOW, Input::Appended(LogSeq(number - 2)));
        leading.take_ready(ROOM);
    }
    let waiting: Vec<_> = leading.under_way().map(|effects| (effects.seq.0, effects.overviews.len())).collect();
    assert_eq!(waiting, [(4, 0), (5, 0)], "it was told with record 3, which is durable");
}

#[test]
fn an_overview_says_what_is_durable_when_it_is_told() {
    let mut leading = begun();
    create(&mut leading, 1, 1);
    leading.step(NOW, Input::Overview(ReplyTo(100)));
    assert!(leading.take_ready(ROOM).effects.is_empty());
    leading.step(NOW, Input::Appended(LogSeq(1)));
    let durable = leading.take_durable();
    let told: Vec<_> = durable[0].overviews.iter().map(|(to, overview)| (to.0, overview.log_seq)).collect();
    assert_eq!(told, [(100, LogSeq(1))]);
    leading.step(NOW, Input::Overview(ReplyTo(101)));
    assert_eq!(leading.take_ready(ROOM).effects.len(), 1, "nothing is under way: at once");
}

#[test]
fn a_busy_leader_stops_once_what_it_has_decided_is_durable() {
    let mut leading = begun();
    create(&mut leading, 1, 1);
    leading.take_ready(ROOM);
    create(&mut leading, 2, 2);
    leading.take_ready(ROOM);
    create(&mut leading, 3, 3);
    leading.step(NOW, Input::Shutdown);
    assert!(!leading.takes_in() && !leading.is_open());
    assert!(leading.take_ready(ROOM).is_empty(), "there is no room for what was decided");
    leading.step(NOW, Input::Appended(LogSeq(1)));
    assert_eq!(seqs(&leading.take_ready(ROOM)), [3]);
    leading.step(NOW, Input::Appended(LogSeq(2)));
    // A leader under load would go on for ever.
    create(&mut leading, 4, 4);
    let ready = leading.take_ready(ROOM);
    assert!(ready.appends.is_empty() && ready.end.is_none(), "{ready:?}");
    leading.step(NOW, Input::Appended(LogSeq(3)));
    let ready = leading.take_ready(ROOM);
    assert_eq!((replies(&ready.effects), ready.end), (vec![3], Some(End::Shutdown)));
    assert!(leading.take_ready(ROOM).is_empty(), "it ends once");
}

#[test]
fn an_idle_leader_stops_at_once() {
    for (input, end) in [(Input::Shutdown, End::Shutdown), (Input::TimeEnds, End::Lost(Loss::Time))] {
        let mut leading = begun();
        leading.take_ready(ROOM);
        leading.step(NOW, Input::Appended(LogSeq(1)));
        leading.step(NOW, input);
        assert_eq!(leading.take_ready(ROOM).end, Some(end));
    }
}

#[test]
fn what_replaces_a_leader_ends_it_at_once_and_nothing_else_does() {
    let ends = |input: Input| {
        let mut leading = begun();
        create(&mut leading, 1, 1);
        leading.take_ready(ROOM);
        leading.step(NOW, input);
        let ready = leading.take_ready(ROOM);
        assert!(ready.effects.is_empty(), "nothing of it is known to be durable");
        ready.end
    };
    assert_eq!(ends(Input::TermSeen(Term(1))), None);
    assert_eq!(ends(Input::TermSeen(Term(2))), Some(End::Lost(Loss::TermSeen(Term(2)))));
    assert_eq!(ends(Input::LeaseLost), Some(End::Lost(Loss::Lease)));
    assert_eq!(ends(Input::AppendFailed(AppendFailure::Refused)), Some(End::Lost(Loss::Refused)));
    assert_eq!(ends(Input::AppendFailed(AppendFailure::NoSpace)), Some(End::NoSpace));
}

/// A leadership whose log answers every question like this, for as long as it leads or ten questions take. How it ends, and after how long.
fn watched(end: Option<LogSeq>) -> (Option<End>, u64) {
    let mut leading = begun();
    let mut now = NOW;
    for _ in 0..10 {
        let ready = leading.take_ready(ROOM);
        if ready.end.is_some() {
            return (ready.end, now.us_since(NOW));
        }
        match ready.ask_log {
            Some(question) if end.is_some() => leading.step(now, Input::LogEnds { question, end }),
            _ => {
                now = leading.next_timeout().unwrap();
                leading.step(now, core_io::Input::Tick.into());
            }
        }
    }
    (None, now.us_since(NOW))
}

#[test]
fn a_leader_asks_where_the_log_ends_and_gives_up_when_it_is_gone_or_somebody_else_has_appended() {
    assert_eq!(watched(Some(LogSeq(1))).0, None, "it ends with what this leader has handed out");
    assert_eq!(watched(Some(LogSeq(2))), (Some(End::Lost(Loss::Replaced(LogSeq(2)))), 2_000_000));
    let (end, after_us) = watched(None);
    assert_eq!(end, Some(End::Lost(Loss::LogGone)));
    assert!((6_000_000..=10_000_000).contains(&after_us), "{after_us}");
}

#[test]
fn what_is_durable_takes_effect_also_when_the_leadership_ends() {
    let mut leading = begun();
    create(&mut leading, 1, 1);
    leading.take_ready(ROOM);
    create(&mut leading, 2, 2);
    leading.take_ready(ROOM);
    leading.step(NOW, Input::Appended(LogSeq(1)));
    leading.step(NOW, Input::AppendFailed(AppendFailure::Refused));
    leading.step(NOW, Input::Appended(LogSeq(2)));
    let ready = leading.take_ready(ROOM);
    assert_eq!((replies(&ready.effects), ready.end), (vec![1], Some(End::Lost(Loss::Refused))));
}

#[test]
fn nothing_more_is_taken_in_when_too_much_has_gathered() {
    let mut leading = begun_with(Config { events_gathered_max: 3, ..Config::default() });
    leading.take_ready(ROOM);
    create(&mut leading, 1, 1);
    leading.take_ready(ROOM);
    for number in 2..5 {
        assert!(leading.takes_in());
        create(&mut leading, number, number);
    }
    assert!(!leading.takes_in());
    leading.step(NOW, Input::Appended(LogSeq(1)));
    assert!(leading.takes_in());
}

#[test]
fn snapshots_are_taken_copies_made_and_the_log_trimmed_and_all_of_it_is_recorded() {
    let mut leading = begun();
    let mut done = Vec::new();
    for number in 0..40 {
        create(&mut leading, number, number);
        for append in leading.take_ready(ROOM).appends {
            leading.step(NOW, Input::Appended(append.chain.last));
        }
        for effects in leading.take_durable() {
            for work in effects.work {
                let ended = match work {
                    Work::Snapshot(frozen, chain) => {
                        assert_eq!((frozen.seq(), chain.last), (effects.seq, effects.seq));
                        let digest = chain.hash;
                        Ended::Snapshot(SnapshotRef { seq: chain.last, digest, bytes: 1, log_bytes: chain.log_bytes })
                    }
                    Work::Measure => Ended::Measured(1),
                    Work::Copy { .. } => unreachable!("it follows from what was measured"),
                    Work::Trim(to) => {
                        done.push(format!("trim {to}"));
                        Ended::Trimmed
                    }
                };
                leading.step(NOW, Input::WorkEnded(ended));
            }
        }
        for effects in leading.take_durable() {
            let [Work::Copy { log_bytes }] = effects.work[..] else { panic!("{effects:?}") };
            let copy = ReadModelCopy { seq: effects.seq, log_bytes, ..ReadModelCopy::default() };
            leading.step(NOW, Input::WorkEnded(Ended::Copy(copy)));
        }
    }
    let current = leading.core().state().current();
    assert_eq!(current.snapshots.len(), 2);
    assert!(current.read_model.is_some() && done.len() > 2, "{done:?}");
}

#[test]
fn records_become_durable_in_their_order_or_an_assertion_fails() {
    let mut leading = begun();
    leading.take_ready(ROOM);
    create(&mut leading, 1, 1);
    leading.take_ready(ROOM);
    let stepped = panic::catch_unwind(AssertUnwindSafe(|| leading.step(NOW, Input::Appended(LogSeq(2)))));
    assert!(stepped.is_err());
}

/// Draws as SplitMix64 does.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) % bound
    }
}

/// A log that knows what is durable, and what was answered.
#[derive(Default)]
struct Log {
    handed_out: VecDeque<Append>,
    durable: u64,
    tenants: BTreeSet<TenantName>,
    answered: Vec<u64>,
    overviews: u64,
}

impl Log {
    fn take(&mut self, ready: Ready) {
        self.handed_out.extend(ready.appends);
        for effects in ready.effects {
            assert!(effects.seq.0 <= self.durable, "{} takes effect, {} is durable", effects.seq, self.durable);
            for (reply_to, answer) in effects.replies {
                let tenant = name(reply_to.0 % 50);
                assert!(self.tenants.contains(&tenant), "{tenant} is answered for and is not durable: {answer:?}");
                let expected = if reply_to.0 < 50 { Ok(Done::Created) } else { Err(Refusal::TenantExists) };
                assert_eq!(answer, expected);
                self.answered.push(reply_to.0);
            }
            for (_, overview) in effects.overviews {
                assert!(overview.log_seq.0 <= self.durable);
                self.overviews += 1;
            }
        }
    }

    fn store(&mut self) -> Option<LogSeq> {
        let append = self.handed_out.pop_front()?;
        self.durable += 1;
        assert_eq!(append.chain.last.0, self.durable);
        for event in &append.record.events {
            if let EventBody::TenantPut { tenant } = &event.body {
                assert!(self.tenants.insert(tenant.name.clone()), "{} is recorded twice", tenant.name);
            }
        }
        Some(append.chain.last)
    }
}

#[test]
fn every_command_is_answered_once_and_in_order_whatever_the_log_does() {
    for seed in 0..200 {
        let (mut drawn, mut log) = (Drawn(seed), Log::default());
        let mut leading = begun();
        let bytes_max = [ROOM, 300, 1_000][usize::try_from(drawn.below(3)).unwrap()];
        let (mut asked, mut overviews) = (0, 0);
        for _ in 0..400 {
            match drawn.below(5) {
                0 | 1 => {
                    create(&mut leading, asked, asked % 50);
                    asked += 1;
                }
                2 => {
                    leading.step(NOW, Input::Overview(ReplyTo(u64::MAX)));
                    overviews += 1;
                }
                3 => {
                    if let Some(seq) = log.store() {
                        leading.step(NOW, Input::Appended(seq));
                    }
                }
                _ => log.take(leading.take_ready(bytes_max)),
            }
        }
        leading.step(NOW, Input::Shutdown);
        let mut end = None;
        while end.is_none() {
            let ready = leading.take_ready(bytes_max);
            end = ready.end;
            log.take(ready);
            if let Some(seq) = log.store() {
                leading.step(NOW, Input::Appended(seq));
            }
        }
        assert_eq!(log.answered, (0..asked).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!((end, log.overviews), (Some(End::Shutdown), overviews), "seed {seed}");
    }
}
