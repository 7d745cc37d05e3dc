//! Places for connections: how many in all, how many of one address, and whose connection makes
//! room for another.
//!
//! A connection without a request under way costs its client nothing, so it is worth little: when
//! there are too many the one that has been idle for longest ends, of the address that has most of
//! them. One that has a request under way keeps its place.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::activity::Activity;

/// The part of what could make room that does so together.
const ROOM_AT_ONCE: usize = 128;

/// The origin of connections that share one bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    V4(Ipv4Addr),
    /// The first 64 bits: the rest is the client's to choose.
    V6([u16; 4]),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// The places.
pub(super) struct ConnectionPermits {
    max: usize,
    per_origin_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    members: HashMap<u64, Member>,
    by_origin: HashMap<Origin, usize>,
}

struct Member {
    origin: Origin,
    activity: Arc<Activity>,
}

/// A connection's place; free again when it is dropped.
pub(super) struct ConnectionPermit {
    places: Arc<ConnectionPermits>,
    number: u64,
}

impl ConnectionPermits {
    /// So many in all, and of one address.
    pub(super) fn new(max: usize, per_origin_max: usize) -> Arc<Self> {
        Arc::new(Self { max, per_origin_max, taken: Mutex::default() })
    }

    /// A place for a connection, for which another one may have been asked to end. `None` when all
    /// that could make room have requests under way.
    ///
    /// O(1) while there is room, else O(connections) for every hundredth of them.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr, activity: &Arc<Activity>) -> Option<ConnectionPermit> {
        let origin = Origin::from(address);
        let mut taken = self.taken();
        if taken.by_origin.get(&origin).is_some_and(|count| *count >= self.per_origin_max) {
            taken.make_room(Some(origin))?;
        } else if taken.members.len() >= self.max {
            taken.make_room(None)?;
        }
        let number = taken.next;
        taken.next += 1;
        taken.members.insert(number, Member { origin, activity: Arc::clone(activity) });
        *taken.by_origin.entry(origin).or_default() += 1;
        Some(ConnectionPermit { places: Arc::clone(self), number })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Asks the connections that are worth least to end, of one origin or of all: so many at once
    /// that looking at all of them is paid by as many newcomers.
    fn make_room(&mut self, origin: Option<Origin>) -> Option<()> {
        let candidates = self.members.iter().filter(|(_, member)| origin.is_none_or(|origin| member.origin == origin));
        let worth = candidates.filter_map(|(number, member)| {
            let idle_since_ms = member.activity.idle_since_ms()?;
            let neighbours = self.by_origin.get(&member.origin).copied().unwrap_or(0);
            Some((Reverse(neighbours), idle_since_ms, *number))
        });
        let mut worth: Vec<_> = worth.collect();
        let ending = (worth.len() / ROOM_AT_ONCE).max(1);
        if worth.is_empty() {
            return None;
        }
        worth.select_nth_unstable(ending - 1);
        for (_, _, number) in &worth[..ending] {
            if let Some(member) = self.members.get(number) {
                member.activity.make_room();
            }
            self.remove(*number);
        }
        Some(())
    }

    fn remove(&mut self, number: u64) {
        let Some(member) = self.members.remove(&number) else { return };
        if let Some(count) = self.by_origin.get_mut(&member.origin) {
            *count -= 1;
            if *count == 0 {
                self.by_origin.remove(&member.origin);
            }
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.places.taken().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::FutureExt;

    use super::*;

    fn idle() -> Arc<Activity> {
        Activity::new(Instant::now())
    }

    fn is_unwanted(activity: &Activity) -> bool {
        activity.is_unwanted().now_or_never().is_some()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn c28_the_oldest_idle_connection_of_the_largest_crowd_makes_room() {
        let places = ConnectionPermits::new(4, 3);
        let (crowd, quiet) = (address("10.0.0.1"), address("10.0.0.2"));
        let connections: Vec<_> = [quiet, crowd, crowd, crowd].map(|from| (from, idle())).into();
        let held: Vec<_> = connections.iter().map(|(from, activity)| places.take(*from, activity).unwrap()).collect();
        let newcomer = idle();
        let _newcomer = places.take(address("10.0.0.3"), &newcomer).unwrap();
        let unwanted: Vec<_> = connections.iter().map(|(_, activity)| is_unwanted(activity)).collect();
        assert_eq!(unwanted, [false, true, false, false]);
        drop(held);
        assert_eq!(places.taken().members.len(), 1, "what has made room is not counted twice");
        assert_eq!(places.taken().by_origin.len(), 1);
    }

    #[test]
    fn c28_one_address_has_a_share() {
        let places = ConnectionPermits::new(100, 2);
        let crowd = address("2001:db8:1:2::1");
        let (first, second, third) = (idle(), idle(), idle());
        let _busy = first.begin();
        let _first = places.take(crowd, &first).unwrap();
        let _second = places.take(address("2001:db8:1:2:ffff::9"), &second).unwrap();
        let _third = places.take(crowd, &third).unwrap();
        assert!(!is_unwanted(&first), "it has a request under way");
        assert!(is_unwanted(&second));
        let _busy = third.begin();
        assert!(places.take(crowd, &idle()).is_none(), "nobody can make room");
        assert!(places.take(address("2001:db8:1:3::1"), &idle()).is_some());
        assert!(places.take(address("::ffff:10.0.0.1"), &idle()).is_some());
        assert_eq!(Origin::from(address("::ffff:10.0.0.1")), Origin::from(address("10.0.0.1")));
    }
}
