//! Whose turn it is on a core: a guest runs for a tick at most, then whoever of the tenant that has
//! had least CPU time.
//!
//! Without it guests would take turns one by one, and one tenant's thirty would keep another's only
//! one waiting for thirty ticks. The order is that of start-time fair queueing (Goyal, Vin and
//! Cheng, 1996): a tenant's virtual time is the CPU time that it has had, and one that had nothing
//! to run begins where the others are, a tick ahead of them. One that comes ahead of whoever runs,
//! and has nobody running, waits for no tick: there is one at once.
//!
//! **Invariant** while a core is free nobody waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use wasmill_protocol::TenantName;

use super::watchdog::TICK;

/// How far a tenant that had nothing to run is ahead of the others, in nanoseconds: what is short
/// ends within its first turn.
const AHEAD_NS: u64 = TICK.as_nanos() as u64;
/// Tenants that are remembered without having a guest, because they will soon have one again; of
/// more, those without debts are forgotten.
const TENANTS_REMEMBERED_MAX: usize = 4096;

/// The turns of one sandbox.
pub(super) struct Turns {
    state: Mutex<State>,
    /// Lets the guests that run see that others wait.
    tick: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug)]
struct State {
    free_cores: usize,
    /// The virtual time of whoever was given the last turn, in nanoseconds. It never goes back.
    now_ns: u64,
    tenants: BTreeMap<TenantName, TenantTurns>,
    /// Tenants with guests that wait, by their virtual times.
    waiting: BTreeSet<(u64, TenantName)>,
}

#[derive(Debug, Default)]
struct TenantTurns {
    /// Its virtual time in nanoseconds.
    had_ns: u64,
    guests: usize,
    /// Guests whose turn it is.
    running: usize,
    /// Guests that wait, in the order in which they came.
    line: VecDeque<Arc<Waiter>>,
}

#[derive(Debug, Default)]
struct Waiter {
    /// It has been given its turn.
    granted: AtomicBool,
    waker: AtomicWaker,
}

/// One guest's part. When it is dropped, its turn goes to the next.
pub(super) struct TurnHolder {
    turns: Arc<Turns>,
    tenant: TenantName,
    standing: TurnState,
}

#[derive(Debug)]
enum TurnState {
    /// It is not one of its tenant's guests: it has not begun, or has ended.
    Outside,
    /// It wants nothing now.
    Away,
    InLine(Arc<Waiter>),
    Running,
}

/// Whether a guest wants more turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    More,
    Nothing,
}

impl Turns {
    /// For as many guests at a time as there are `cores`; `tick` lets those that run end their
    /// turn.
    pub(super) fn new(cores: usize, tick: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let state = State { free_cores: cores.max(1), now_ns: 0, tenants: BTreeMap::new(), waiting: BTreeSet::new() };
        Arc::new(Self { state: Mutex::new(state), tick: Box::new(tick) })
    }

    /// A guest's part in them.
    pub(super) fn place(self: &Arc<Self>, tenant: TenantName) -> TurnHolder {
        TurnHolder { turns: Arc::clone(self), tenant, standing: TurnState::Outside }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock but for its own assertions.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tenant(&mut self, name: &TenantName) -> &mut TenantTurns {
        self.tenants.get_mut(name).expect("a tenant with a guest is known")
    }

    /// Takes a core, if there is one that is free, for a guest of a tenant that may be new. Whether
    /// there is one.
    fn take_core(&mut self, name: &TenantName, is_new: bool) -> bool {
        let tenant = match self.tenants.get_mut(name) {
            Some(tenant) => tenant,
            None => self.tenants.entry(name.clone()).or_default(),
        };
        tenant.guests += usize::from(is_new);
        if self.free_cores == 0 {
            return false;
        }
        self.free_cores -= 1;
        tenant.running += 1;
        let had_ns = tenant.had_ns;
        self.begin(had_ns);
        true
    }

    /// A turn begins at this virtual time.
    fn begin(&mut self, had_ns: u64) {
        self.now_ns = self.now_ns.max(had_ns);
    }

    /// Joins the line of its tenant. Whether those who run are to let it pass: it is ahead of them,
    /// and the first of its tenant.
    fn queue(&mut self, name: &TenantName, waiter: Arc<Waiter>) -> bool {
        let now_ns = self.now_ns;
        let tenant = self.tenant(name);
        tenant.line.push_back(waiter);
        if tenant.line.len() > 1 {
            return false;
        }
        tenant.had_ns = tenant.had_ns.max(now_ns.saturating_sub(AHEAD_NS));
        let (had_ns, running) = (tenant.had_ns, tenant.running);
        self.waiting.insert((had_ns, name.clone()));
        running == 0 && had_ns < now_ns
    }

    /// Ends a turn that took so much CPU time, which moves those of the tenant that wait.
    fn spend(&mut self, name: &TenantName, spent_ns: u64) {
        let tenant = self.tenant(name);
        tenant.running -= 1;
        let before_ns = tenant.had_ns;
        tenant.had_ns = before_ns.saturating_add(spent_ns);
        if !tenant.line.is_empty() {
            let had_ns = tenant.had_ns;
            self.waiting.remove(&(before_ns, name.clone()));
            self.waiting.insert((had_ns, name.clone()));
        }
    }

    /// Gives a core that has become free to the next; whom to wake.
    fn pass_on(&mut self) -> Option<Arc<Waiter>> {
        let Some((had_ns, name)) = self.waiting.pop_first() else {
            self.free_cores += 1;
            return None;
        };
        self.begin(had_ns);
        let tenant = self.tenant(&name);
        let next = tenant.line.pop_front().expect("a tenant that waits has somebody who does");
        tenant.running += 1;
        if !tenant.line.is_empty() {
            self.waiting.insert((had_ns, name));
        }
        next.granted.store(true, Ordering::Relaxed);
        Some(next)
    }

    /// Takes somebody out of the line of its tenant.
    fn leave(&mut self, name: &TenantName, waiter: &Arc<Waiter>) {
        let tenant = self.tenant(name);
        tenant.line.retain(|waits| !Arc::ptr_eq(waits, waiter));
        if tenant.line.is_empty() {
            let had_ns = tenant.had_ns;
            self.waiting.remove(&(had_ns, name.clone()));
        }
    }

    /// One guest less. The tenant is remembered for as long as there is room.
    fn forget(&mut self, name: &TenantName) {
        let now_ns = self.now_ns;
        self.tenant(name).guests -= 1;
        if self.tenants.len() > TENANTS_REMEMBERED_MAX {
            self.tenants.retain(|_, tenant| tenant.guests > 0 || tenant.had_ns > now_ns);
        }
    }
}

impl TurnHolder {
    /// Waits for a turn, which lasts until [`TurnHolder::give_back`].
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.turns.state();
        match &self.standing {
            TurnState::Running => return Poll::Ready(()),
            TurnState::InLine(waiter) => {
                waiter.waker.register(cx.waker());
                if !waiter.granted.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
            }
            TurnState::Outside | TurnState::Away => {
                if !state.take_core(&self.tenant, matches!(self.standing, TurnState::Outside)) {
                    let waiter = Arc::new(Waiter::default());
                    waiter.waker.register(cx.waker());
                    let is_ahead = state.queue(&self.tenant, Arc::clone(&waiter));
                    drop(state);
                    self.standing = TurnState::InLine(waiter);
                    if is_ahead {
                        (self.turns.tick)();
                    }
                    return Poll::Pending;
                }
            }
        }
        drop(state);
        self.standing = TurnState::Running;
        Poll::Ready(())
    }

    /// Whether it is its turn.
    pub(super) fn has_turn(&self) -> bool {
        matches!(self.standing, TurnState::Running)
    }

    /// Ends the turn, in which this much CPU time was spent.
    pub(super) fn give_back(&mut self, spent_ns: u64, wants: Wants) {
        debug_assert!(matches!(self.standing, TurnState::Running), "{:?}", self.standing);
        let next = {
            let mut state = self.turns.state();
            state.spend(&self.tenant, spent_ns);
            let next = state.pass_on();
            self.standing = match wants {
                Wants::More => TurnState::Away,
                Wants::Nothing => {
                    state.forget(&self.tenant);
                    TurnState::Outside
                }
            };
            next
        };
        if let Some(next) = next {
            next.waker.wake();
        }
    }
}

impl Drop for TurnHolder {
    fn drop(&mut self) {
        let waiter = match &self.standing {
            TurnState::Outside => return,
            TurnState::Running => return self.give_back(0, Wants::Nothing),
            TurnState::Away => None,
            TurnState::InLine(waiter) => Some(waiter),
        };
        let next = {
            let mut state = self.turns.state();
            let next = match waiter {
                Some(waiter) if waiter.granted.load(Ordering::Relaxed) => {
                    state.spend(&self.tenant, 0);
                    state.pass_on()
                }
                Some(waiter) => {
                    state.leave(&self.tenant, waiter);
                    None
                }
                None => None,
            };
            state.forget(&self.tenant);
            next
        };
        if let Some(next) = next {
            next.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Waker;

    use super::*;

    const MS: u64 = 1_000_000;

    fn place(turns: &Arc<Turns>, tenant: &str) -> TurnHolder {
        turns.place(tenant.parse().unwrap())
    }

    fn has_turn(place: &mut TurnHolder) -> bool {
        place.poll_turn(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn c31_one_guest_of_a_tenant_waits_for_one_turn_of_anothers_many() {
        let turns = Turns::new(1, || ());
        let mut flood: Vec<TurnHolder> = (0..30).map(|_| place(&turns, "flood")).collect();
        assert!(has_turn(&mut flood[0]));
        assert!(flood[1..].iter_mut().all(|guest| !has_turn(guest)));
        for round in 0..100 {
            let mut one = place(&turns, "one");
            assert!(!has_turn(&mut one), "the core is taken");
            let running = flood.iter_mut().position(has_turn).unwrap();
            flood[running].give_back(10 * MS, Wants::More);
            assert!(has_turn(&mut one), "round {round}");
            assert!(!has_turn(&mut flood[running]), "it is at the end of its line");
            one.give_back(MS, Wants::More);
        }
    }

    #[test]
    fn c31_whoever_comes_ahead_of_those_who_run_waits_for_no_tick() {
        let ticks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ticks);
        let turns = Turns::new(1, move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let ticks = || ticks.load(Ordering::Relaxed);
        let (mut busy, mut other) = (place(&turns, "busy"), place(&turns, "busy"));
        for _ in 0..10 {
            assert!(has_turn(&mut busy) && !has_turn(&mut other));
            busy.give_back(10 * MS, Wants::More);
            assert!(has_turn(&mut other) && !has_turn(&mut busy));
            other.give_back(10 * MS, Wants::More);
        }
        assert!(has_turn(&mut busy) && !has_turn(&mut other));
        assert_eq!(ticks(), 0, "there is nobody but one tenant");
        let (mut late, mut later) = (place(&turns, "late"), place(&turns, "late"));
        assert!(!has_turn(&mut late) && !has_turn(&mut later));
        assert_eq!(ticks(), 1, "the second of a tenant changes nothing");
        busy.give_back(MS, Wants::More);
        assert!(has_turn(&mut late) && !has_turn(&mut later));
        late.give_back(300 * MS, Wants::Nothing);
        let mut again = place(&turns, "late");
        assert!(has_turn(&mut other) && !has_turn(&mut again));
        assert_eq!(ticks(), 1, "its tenant has had more than its share");
    }

    #[test]
    fn tenants_that_always_want_more_have_the_same() {
        let turns = Turns::new(2, || ());
        let tenants = ["many", "many", "many", "many", "many", "few", "few"];
        let mut guests: Vec<TurnHolder> = tenants.iter().map(|tenant| place(&turns, tenant)).collect();
        let mut had = BTreeMap::<&str, u64>::new();
        for _ in 0..1_000 {
            let index = guests.iter_mut().position(has_turn).unwrap();
            *had.entry(tenants[index]).or_default() += 1;
            guests[index].give_back(10 * MS, Wants::More);
            // The guest that ran comes last in the look for the next.
            guests.iter_mut().for_each(|guest| {
                has_turn(guest);
            });
        }
        assert!(had["many"].abs_diff(had["few"]) <= 4, "{had:?}");
    }

    #[test]
    fn what_was_saved_up_while_away_is_a_tick() {
        let turns = Turns::new(1, || ());
        let (mut busy, mut late) = (place(&turns, "busy"), place(&turns, "late"));
        for _ in 0..1_000 {
            assert!(has_turn(&mut busy));
            busy.give_back(10 * MS, Wants::More);
        }
        assert!(has_turn(&mut busy) && !has_turn(&mut late));
        busy.give_back(10 * MS, Wants::More);
        assert!(!has_turn(&mut busy));
        let mut in_a_row = 0;
        while has_turn(&mut late) {
            in_a_row += 1;
            late.give_back(10 * MS, Wants::More);
            let _ = has_turn(&mut late);
            if has_turn(&mut busy) {
                break;
            }
        }
        assert!((1..=3).contains(&in_a_row), "{in_a_row} turns");
    }

    #[test]
    fn tenants_without_guests_are_remembered_up_to_a_bound() {
        let turns = Turns::new(1, || ());
        for number in 0..3 * TENANTS_REMEMBERED_MAX {
            let mut guest = place(&turns, &format!("t{number}"));
            assert!(has_turn(&mut guest));
            guest.give_back(0, Wants::Nothing);
            assert!(turns.state().tenants.len() <= TENANTS_REMEMBERED_MAX, "{number}");
        }
    }

    #[test]
    fn whoever_goes_away_keeps_nothing() {
        let turns = Turns::new(1, || ());
        let (mut first, mut second, mut third) = (place(&turns, "a"), place(&turns, "b"), place(&turns, "c"));
        assert!(has_turn(&mut first) && !has_turn(&mut second) && !has_turn(&mut third));
        // While it waits, with a turn that it has not seen yet, and in the middle of one.
        drop(second);
        let mut fourth = place(&turns, "a");
        assert!(!has_turn(&mut fourth));
        first.give_back(MS, Wants::More);
        drop(third);
        assert!(has_turn(&mut fourth));
        drop((fourth, first));
        let state = turns.state();
        assert_eq!((state.free_cores, state.waiting.len()), (1, 0));
        assert!(state.tenants.values().all(|tenant| tenant.guests == 0 && tenant.line.is_empty()));
    }
}
