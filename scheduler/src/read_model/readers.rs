//! A few connections that read, each used by one query at a time on a thread that may block.
//!
//! Look-ups of single tasks go before listings, of which only a few run at once; among each,
//! tenants take turns. A tenant has one thread for its listings, whatever it asks for at once, and
//! only a few pages of it are being made: the others hold nothing while they wait.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::oneshot;
use wasmill_protocol::TenantName;

use super::{ReadError, store};

/// Queries that run at once; more would only take turns on the cores.
const READERS: usize = 4;
/// Listings among them: whoever looks for a single task finds a connection that is free, or is so
/// at once.
const LISTINGS_MAX: usize = 2;

/// Steps of listings of one tenant, reading and showing, that run at once: others have the other
/// cores.
const STEPS_PER_TENANT: usize = 1;
/// Steps of showing that run at once.
const SHOWINGS_MAX: usize = 2;
/// Pages that are being made: each holds what was read for it, up to 16 MiB.
const PAGES_MAX: usize = 8;
/// Pages of one tenant among them.
const PAGES_PER_TENANT: usize = 2;

/// The purpose of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Looks up a few rows.
    LookUp = 0,
    /// Makes an answer of what was read. It needs no connection.
    Showing = 1,
    /// A step of a listing.
    Listing = 2,
    /// All steps of a page. It needs no connection by itself: its steps have turns of their own.
    Page = 3,
}

/// All of them, those first that go before others.
const KINDS: [Kind; 4] = [Kind::LookUp, Kind::Showing, Kind::Listing, Kind::Page];

/// Whose query it is; our own have no tenant.
pub(super) type Asker = Option<TenantName>;

/// The connections. They are opened when they are first needed.
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Turns>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Arc::default(), turns: Arc::default() }
    }

    /// Waits for the queries that run, closes their connections, and lets no other one begin while
    /// the answer is held: the file can be replaced meanwhile.
    pub(super) async fn pause(&self) -> Vec<Turn> {
        let mut turns = Vec::with_capacity(READERS);
        while turns.len() < READERS {
            turns.push(self.turns.take(Kind::LookUp, None).await);
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        turns
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A place among the pages that are being made, to be held from the first step to the last.
    pub(super) async fn page(&self, asker: Asker) -> Turn {
        self.turns.take(Kind::Page, asker).await
    }

    /// Makes an answer when it is the asker's turn, on a thread that may block. It runs to its end
    /// also when the caller stops waiting.
    pub(super) async fn show<T: Send + 'static>(
        &self,
        asker: Asker,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let turn = self.turns.take(Kind::Showing, asker).await;
        let work = move || {
            let _turn = turn;
            make()
        };
        let failed =
            |error: tokio::task::JoinError| ReadError::Storage { action: "show what was found", source: error.into() };
        tokio::task::spawn_blocking(work).await.map_err(failed)
    }

    /// Runs a query when it is its turn. It runs to its end also when the caller stops waiting.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        kind: Kind,
        asker: Asker,
        action: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let turn = self.turns.take(kind, asker).await;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let work = move || {
            let _turn = turn;
            let waiting = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match waiting {
                Some(connection) => connection,
                None => store::open_reader(&path)?,
            };
            let result = query(&connection);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| ReadError::Storage { action, source: error.into() })?
            .map_err(|error| ReadError::Storage { action, source: error.into() })
    }
}

/// The readers' turns, and the callers that wait for one.
#[derive(Default)]
struct Turns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Turns that are taken, by kind.
    running: [usize; KINDS.len()],
    /// The turns of each asker that has any.
    of_asker: HashMap<Asker, [usize; KINDS.len()]>,
    /// Queries that wait, by kind.
    waiting: [Waiting; KINDS.len()],
}

/// Queries that wait: in order for each tenant, and the tenants in turn. Bounded by the requests
/// that a tenant may have under way.
#[derive(Default)]
struct Waiting {
    by_asker: HashMap<Asker, VecDeque<oneshot::Sender<Turn>>>,
    /// Every tenant with an entry above, the next one first.
    order: VecDeque<Asker>,
}

/// One query may run until this is dropped.
pub(super) struct Turn {
    /// Nothing once it was given back.
    turns: Option<Arc<Turns>>,
    kind: Kind,
    asker: Asker,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(self: &Arc<Self>, kind: Kind, asker: Asker) -> Turn {
        let waiting = {
            let mut state = self.state();
            // Only what cannot run now waits, so that nothing that waits could.
            if state.has_room(kind, &asker) {
                state.begin(kind, &asker);
                return Turn { turns: Some(Arc::clone(self)), kind, asker };
            }
            let (turn, waiting) = oneshot::channel();
            state.waiting[kind as usize].push(asker, turn);
            waiting
        };
        waiting.await.expect("whoever waits gets a turn")
    }

    /// Gives what is free to those who wait.
    fn hand_on(self: &Arc<Self>) {
        loop {
            let (kind, asker, next) = {
                let mut state = self.state();
                let Some((kind, asker, next)) = state.next() else { return };
                state.begin(kind, &asker);
                (kind, asker, next)
            };
            if let Err(mut turn) = next.send(Turn { turns: Some(Arc::clone(self)), kind, asker }) {
                // That one has stopped waiting.
                self.state().end(kind, &turn.asker);
                turn.turns = None;
            }
        }
    }
}

impl State {
    fn has_room(&self, kind: Kind, asker: &Asker) -> bool {
        let [look_ups, showings, listings, pages] = self.running;
        let [_, own_showings, own_listings, own_pages] = self.of_asker.get(asker).copied().unwrap_or_default();
        let has_reader = look_ups + listings < READERS;
        let has_step = own_showings + own_listings < STEPS_PER_TENANT;
        match kind {
            Kind::LookUp => has_reader,
            Kind::Showing => showings < SHOWINGS_MAX && has_step,
            Kind::Listing => has_reader && listings < LISTINGS_MAX && has_step,
            Kind::Page => pages < PAGES_MAX && own_pages < PAGES_PER_TENANT,
        }
    }

    fn begin(&mut self, kind: Kind, asker: &Asker) {
        self.running[kind as usize] += 1;
        self.of_asker.entry(asker.clone()).or_default()[kind as usize] += 1;
    }

    fn end(&mut self, kind: Kind, asker: &Asker) {
        self.running[kind as usize] -= 1;
        let own = self.of_asker.get_mut(asker).expect("a turn is counted from its beginning to its end");
        own[kind as usize] -= 1;
        if own.iter().all(|running| *running == 0) {
            self.of_asker.remove(asker);
        }
    }

    fn next(&mut self) -> Option<(Kind, Asker, oneshot::Sender<Turn>)> {
        KINDS.into_iter().find_map(|kind| {
            let order = &self.waiting[kind as usize].order;
            let place = order.iter().position(|asker| self.has_room(kind, asker))?;
            let (asker, next) = self.waiting[kind as usize].pop(place)?;
            Some((kind, asker, next))
        })
    }
}

impl Waiting {
    fn push(&mut self, asker: Asker, turn: oneshot::Sender<Turn>) {
        let queue = self.by_asker.entry(asker.clone()).or_insert_with(|| {
            self.order.push_back(asker);
            VecDeque::new()
        });
        queue.push_back(turn);
    }

    /// The first query of the tenant at `place` in the order. The tenant's next turn comes after
    /// that of all others.
    fn pop(&mut self, place: usize) -> Option<(Asker, oneshot::Sender<Turn>)> {
        let asker = self.order.remove(place)?;
        let queue = self.by_asker.get_mut(&asker)?;
        let turn = queue.pop_front();
        if queue.is_empty() {
            self.by_asker.remove(&asker);
        } else {
            self.order.push_back(asker.clone());
        }
        turn.map(|turn| (asker, turn))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.turns.take() else { return };
        turns.state().end(self.kind, &self.asker);
        turns.hand_on();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    fn asker(name: &str) -> Asker {
        Some(name.parse().unwrap())
    }

    /// The next of those who wait that gets a turn.
    fn served(waiting: &mut Vec<(&'static str, BoxFuture<'static, Turn>)>) -> Option<(&'static str, Turn)> {
        let found = waiting.iter_mut().enumerate().find_map(|(at, (name, turn))| {
            let turn = turn.now_or_never()?;
            Some((at, *name, turn))
        });
        let (at, name, turn) = found?;
        drop(waiting.remove(at));
        Some((name, turn))
    }

    fn wait(turns: &Arc<Turns>, kind: Kind, name: &'static str) -> (&'static str, BoxFuture<'static, Turn>) {
        let turns = Arc::clone(turns);
        let mut waiting = async move { turns.take(kind, asker(name)).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none(), "{name} must wait");
        (name, waiting)
    }

    fn take(turns: &Arc<Turns>, kind: Kind, name: &str) -> Turn {
        turns.take(kind, asker(name)).now_or_never().expect("there is room")
    }

    /// The askers that get turns while each of `running` ends, in order.
    fn served_while_ending(
        running: &mut VecDeque<Turn>,
        waiting: &mut Vec<(&'static str, BoxFuture<'static, Turn>)>,
    ) -> Vec<&'static str> {
        let mut order = Vec::new();
        while let Some(turn) = running.pop_front() {
            drop(turn);
            while let Some((name, turn)) = served(waiting) {
                order.push(name);
                running.push_back(turn);
            }
        }
        order
    }

    #[test]
    fn c31_listings_leave_room_and_tenants_take_turns() {
        let turns = Arc::new(Turns::default());
        let mut running: VecDeque<_> =
            ["greedy", "another"].into_iter().map(|name| take(&turns, Kind::Listing, name)).collect();
        assert_eq!(running.len(), LISTINGS_MAX);
        let mut waiting = Vec::new();
        waiting.extend((0..5).map(|_| wait(&turns, Kind::Listing, "greedy")));
        waiting.push(wait(&turns, Kind::Listing, "other"));
        let _look_ups: Vec<_> = (LISTINGS_MAX..READERS).map(|_| take(&turns, Kind::LookUp, "greedy")).collect();
        waiting.push(wait(&turns, Kind::LookUp, "third"));
        let order = served_while_ending(&mut running, &mut waiting);
        assert_eq!(order, ["third", "greedy", "other", "greedy", "greedy", "greedy", "greedy"]);
    }

    #[test]
    fn c31_a_tenant_reads_and_shows_on_one_thread() {
        let turns = Arc::new(Turns::default());
        let mut running = VecDeque::from([take(&turns, Kind::Listing, "greedy")]);
        let mut waiting = vec![
            wait(&turns, Kind::Listing, "greedy"),
            wait(&turns, Kind::Showing, "greedy"),
            wait(&turns, Kind::Listing, "greedy"),
        ];
        // Reads of others do not wait for it.
        drop((take(&turns, Kind::Listing, "other"), take(&turns, Kind::Showing, "third")));
        let mut at_once = 0;
        while let Some(turn) = running.pop_front() {
            drop(turn);
            while let Some((_, turn)) = served(&mut waiting) {
                running.push_back(turn);
            }
            at_once = at_once.max(running.len());
        }
        assert_eq!((at_once, waiting.len()), (STEPS_PER_TENANT, 0));
        assert!(turns.state().of_asker.is_empty());
    }

    #[test]
    fn c27_few_pages_are_being_made_at_once() {
        let turns = Arc::new(Turns::default());
        let mut running: VecDeque<_> = (0..PAGES_PER_TENANT).map(|_| take(&turns, Kind::Page, "greedy")).collect();
        let mut waiting: Vec<_> = (0..3).map(|_| wait(&turns, Kind::Page, "greedy")).collect();
        let names = ["a", "b", "c"].into_iter().flat_map(|name| [name; PAGES_PER_TENANT]);
        running.extend(names.map(|name| take(&turns, Kind::Page, name)));
        assert_eq!(running.len(), PAGES_MAX);
        waiting.push(wait(&turns, Kind::Page, "late"));
        // A page in the making needs no reader, and takes none from others.
        let _readers: Vec<_> = (0..READERS).map(|_| take(&turns, Kind::LookUp, "greedy")).collect();
        let last = running.pop_back().unwrap();
        drop(last);
        assert_eq!(served(&mut waiting).map(|(name, _)| name), Some("late"), "the greedy one has its share");
        let order = served_while_ending(&mut running, &mut waiting);
        assert_eq!(order, ["greedy", "greedy", "greedy"]);
    }

    #[test]
    fn whoever_stops_waiting_is_passed_over() {
        let turns = Arc::new(Turns::default());
        let running: Vec<_> = (0..READERS).map(|_| take(&turns, Kind::LookUp, "a")).collect();
        let gone: Vec<_> = (0..100).map(|_| wait(&turns, Kind::LookUp, "a")).collect();
        let mut waiting = vec![wait(&turns, Kind::LookUp, "a")];
        drop(gone);
        drop(running);
        assert!(served(&mut waiting).is_some());
        assert_eq!(turns.state().running, [0; KINDS.len()]);
    }
}
