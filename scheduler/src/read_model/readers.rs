//! A few connections that read, each used by one query at a time on a thread that may block.
//!
//! Look-ups of single tasks go before listings, of which only a few run at once; among each, tenants take turns.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::oneshot;
use wasmill_protocol::TenantName;

use super::{ReadError, store};

/// Queries that run at once; more would only take turns on the cores.
const READERS: usize = 4;
/// Listings among them: whoever looks for a single task finds a connection that is free, or is so at once.
const LISTINGS_MAX: usize = 2;

/// What a query is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Looks up a few rows.
    LookUp = 0,
    /// A step of a listing.
    Listing = 1,
}

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

    /// Waits for the queries that run, closes their connections, and lets no other one begin while the answer is held: the file can be
    /// replaced meanwhile.
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

/// Who may read, and who waits for it.
#[derive(Default)]
struct Turns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Queries that run, by kind.
    running: [usize; 2],
    /// Queries that wait, by kind.
    waiting: [Waiting; 2],
}

/// Queries that wait: in order for each tenant, and the tenants in turn. Bounded by the requests that a tenant may have under way.
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
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(self: &Arc<Self>, kind: Kind, asker: Asker) -> Turn {
        let waiting = {
            let mut state = self.state();
            // Only what cannot run now waits, so that nothing that waits could.
            if state.has_room(kind) {
                state.running[kind as usize] += 1;
                return Turn { turns: Some(Arc::clone(self)), kind };
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
            let (kind, next) = {
                let mut state = self.state();
                let Some((kind, next)) = state.next() else { return };
                state.running[kind as usize] += 1;
                (kind, next)
            };
            if let Err(mut turn) = next.send(Turn { turns: Some(Arc::clone(self)), kind }) {
                // That one has stopped waiting.
                self.state().running[kind as usize] -= 1;
                turn.turns = None;
            }
        }
    }
}

impl State {
    fn has_room(&self, kind: Kind) -> bool {
        let [look_ups, listings] = self.running;
        look_ups + listings < READERS && (kind == Kind::LookUp || listings < LISTINGS_MAX)
    }

    fn next(&mut self) -> Option<(Kind, oneshot::Sender<Turn>)> {
        [Kind::LookUp, Kind::Listing].into_iter().find_map(|kind| {
            let next = if self.has_room(kind) { self.waiting[kind as usize].pop() } else { None };
            next.map(|next| (kind, next))
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

    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let asker = self.order.pop_front()?;
        let queue = self.by_asker.get_mut(&asker)?;
        let turn = queue.pop_front();
        if queue.is_empty() {
            self.by_asker.remove(&asker);
        } else {
            self.order.push_back(asker);
        }
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.turns.take() else { return };
        turns.state().running[self.kind as usize] -= 1;
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

    #[test]
    fn c31_listings_leave_room_and_tenants_take_turns() {
        let turns = Arc::new(Turns::default());
        let mut running: VecDeque<_> = (0..LISTINGS_MAX).map(|_| take(&turns, Kind::Listing, "greedy")).collect();
        let mut waiting = Vec::new();
        waiting.extend((0..5).map(|_| wait(&turns, Kind::Listing, "greedy")));
        waiting.push(wait(&turns, Kind::Listing, "other"));
        let _look_ups: Vec<_> = (LISTINGS_MAX..READERS).map(|_| take(&turns, Kind::LookUp, "greedy")).collect();
        waiting.push(wait(&turns, Kind::LookUp, "third"));
        let mut order = Vec::new();
        while let Some(turn) = running.pop_front() {
            drop(turn);
            while let Some((name, turn)) = served(&mut waiting) {
                order.push(name);
                running.push_back(turn);
            }
        }
        assert_eq!(order, ["third", "greedy", "other", "greedy", "greedy", "greedy", "greedy"]);
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
        assert_eq!(turns.state().running, [0, 0]);
    }
}
