//! Doing the same work once for all who want it at the same time.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

/// Compilations under way, by key. A caller that wants the same joins; when nobody is left who
/// waits, the work is dropped.
pub(crate) struct Flights<K, T: Clone> {
    list: Arc<Mutex<List<K, T>>>,
}

struct List<K, T: Clone> {
    counter: u64,
    going_on: BTreeMap<K, (u64, WeakShared<BoxFuture<'static, T>>)>,
}

impl<K, T> Flights<K, T>
where
    K: Ord + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Self {
        Self { list: Arc::new(Mutex::new(List { counter: 0, going_on: BTreeMap::new() })) }
    }

    /// Joins the work for `key`, or starts it with `work`.
    pub(crate) fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Shared<BoxFuture<'static, T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut list = lock(&self.list);
        if let Some(flight) = list.going_on.get(&key).and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        list.counter += 1;
        let number = list.counter;
        let landing = Landing { list: Arc::clone(&self.list), key: key.clone(), number };
        let work = work();
        let flight = async move {
            let done = work.await;
            drop(landing);
            done
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            list.going_on.insert(key, (number, weak));
        }
        flight
    }
}

impl<K, T: Clone> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("going_on", &lock(&self.list).going_on.len()).finish()
    }
}

fn lock<K, T: Clone>(list: &Mutex<List<K, T>>) -> MutexGuard<'_, List<K, T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes work off the list when it ends, also when it ends because nobody wants it.
struct Landing<K: Ord, T: Clone> {
    list: Arc<Mutex<List<K, T>>>,
    key: K,
    number: u64,
}

impl<K: Ord, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut list = lock(&self.list);
        // New work for the same key may have begun in between.
        if list.going_on.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            list.going_on.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn who_comes_meanwhile_joins() {
        let flights: Flights<u32, u32> = Flights::new();
        let (end, ended) = oneshot::channel::<u32>();
        let first = flights.join(1, || async { ended.await.unwrap() });
        let second = flights.join(1, || async { unreachable!("the first is going on") });
        let other = flights.join(2, || async { 20 });
        assert_eq!(other.await, 20);
        end.send(10).unwrap();
        assert_eq!(tokio::join!(first, second), (10, 10));
        // It is over: the next one starts anew.
        assert_eq!(flights.join(1, || async { 11 }).await, 11);
        assert!(lock(&flights.list).going_on.is_empty());
    }

    #[tokio::test]
    async fn what_nobody_wants_is_dropped() {
        struct Dropped(Arc<AtomicU32>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let flights: Flights<u32, u32> = Flights::new();
        let count = Arc::new(AtomicU32::new(0));
        let dropped = Dropped(Arc::clone(&count));
        let mut first = flights.join(1, || async move {
            let _held = dropped;
            std::future::pending().await
        });
        let mut second = flights.join(1, std::future::pending);
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(count.load(Ordering::SeqCst), 0);
        drop(second);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(lock(&flights.list).going_on.is_empty());
    }
}
