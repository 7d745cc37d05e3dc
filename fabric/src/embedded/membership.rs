//! Membership inside one process: it always leads, and its hosts are its own.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{self, BoxFuture};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::watch;
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Term};

use super::lock::DirLock;
use super::{OpenError, files};
use crate::hosts::differences;
use crate::{HostEvent, HostRegistration, Leadership, Lease, Membership, MembershipError};

/// Always leader; the term is a file and grows with every campaign.
pub(super) struct EmbeddedMembership {
    term: Arc<files::Line>,
    leading: tokio::sync::Mutex<Leading>,
    hosts: Arc<Registry>,
    _lock: Arc<DirLock>,
}

/// The last leadership that was granted. A new campaign ends it: two leaders of one process must
/// not both believe.
struct Leading {
    term: Term,
    lost: watch::Sender<bool>,
}

impl EmbeddedMembership {
    pub(super) fn open(term_path: &Path, lock: Arc<DirLock>) -> Result<Self, OpenError> {
        let line = files::Line::open(term_path);
        let term = match line.read() {
            Ok(text) => text.parse().map(Term).map_err(|_| OpenError::Damaged {
                path: term_path.to_owned(),
                found: format!("`{}` is not a term", text.chars().take(40).collect::<String>()),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Term(0),
            Err(source) => return Err(OpenError::Directory { action: "read", path: term_path.to_owned(), source }),
        };
        Ok(Self {
            term: Arc::new(line),
            leading: tokio::sync::Mutex::new(Leading { term, lost: watch::Sender::new(false) }),
            hosts: Arc::default(),
            _lock: lock,
        })
    }
}

impl Membership for EmbeddedMembership {
    fn campaign(&self, _node: &str) -> BoxFuture<'_, Result<Leadership, MembershipError>> {
        async move {
            let failed = |reason| MembershipError::Unreachable { action: "persist the new term", reason };
            let mut leading = self.leading.lock().await;
            let term = leading.term.next();
            let line = Arc::clone(&self.term);
            // Durable before anybody hears of it: a term must never be granted twice.
            tokio::task::spawn_blocking(move || line.replace(&term.to_string()))
                .await
                .map_err(|error| failed(error.to_string()))?
                .map_err(|error| failed(error.to_string()))?;
            leading.lost.send_replace(true);
            let (lost, receiver) = watch::channel(false);
            *leading = Leading { term, lost };
            Ok(Leadership { term, lost: receiver, lease: Box::new(EmbeddedLeadership) })
        }
        .boxed()
    }

    fn register(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>> {
        async move {
            let id = host.id.clone();
            let (lost, receiver) = watch::channel(false);
            let number = self.hosts.insert(host, lost)?;
            let guard = Guard { hosts: Arc::clone(&self.hosts), id, number };
            Ok(HostRegistration { lost: receiver, replaced_by: Default::default(), lease: Box::new(guard) })
        }
        .boxed()
    }

    fn hosts(&self) -> BoxStream<'static, HostEvent> {
        let watcher =
            Watcher { hosts: Arc::clone(&self.hosts), changed: self.hosts.changes.subscribe(), known: BTreeMap::new() };
        stream::unfold(watcher, |mut watcher| async move { Some((stream::iter(watcher.next().await), watcher)) })
            .flatten()
            .boxed()
    }
}

/// The hosts that live.
struct Registry {
    entries: Mutex<BTreeMap<HostId, Entry>>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

struct Entry {
    info: HostInfo,
    /// Tells this registration from another one of the same host.
    number: u64,
    lost: watch::Sender<bool>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { entries: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Registry {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<HostId, Entry>> {
        // Nothing panics while it holds this lock, and the map is whole between any two of its
        // operations.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A later life of a host replaces an earlier one, never the other way round.
    fn insert(&self, info: HostInfo, lost: watch::Sender<bool>) -> Result<u64, MembershipError> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&info.id) {
            if entry.info.incarnation > info.incarnation {
                return Err(MembershipError::Unreachable {
                    action: "register the host",
                    reason: format!("a later life of host `{}` is registered", info.id),
                });
            }
            entry.lost.send_replace(true);
        }
        let number = *self.changes.borrow() + 1;
        entries.insert(info.id.clone(), Entry { info, number, lost });
        // Sent under the lock, so that numbers are drawn one by one.
        self.changes.send_replace(number);
        Ok(number)
    }

    fn remove(&self, id: &HostId, number: u64) {
        let mut entries = self.entries();
        if entries.get(id).is_some_and(|entry| entry.number == number) {
            entries.remove(id);
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}

/// Deregisters when dropped.
struct Guard {
    hosts: Arc<Registry>,
    id: HostId,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.hosts.remove(&self.id, self.number);
    }
}

impl Lease for Guard {
    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        future::ready(()).boxed()
    }
}

/// There is nobody else who could lead: nothing has to be given back.
struct EmbeddedLeadership;

impl Lease for EmbeddedLeadership {
    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        future::ready(()).boxed()
    }
}

/// Tells what changed by comparing with what it told last: however slow its reader is, it keeps no
/// queue and loses nothing but lives that came and went in between.
struct Watcher {
    hosts: Arc<Registry>,
    changed: watch::Receiver<u64>,
    known: BTreeMap<HostId, HostInfo>,
}

impl Watcher {
    async fn next(&mut self) -> Vec<HostEvent> {
        loop {
            self.changed.borrow_and_update();
            let events = self.differences();
            if !events.is_empty() {
                return events;
            }
            if self.changed.changed().await.is_err() {
                unreachable!("the registry, which the watcher holds, owns the sender");
            }
        }
    }

    fn differences(&mut self) -> Vec<HostEvent> {
        let living: BTreeMap<HostId, HostInfo> =
            self.hosts.entries().iter().map(|(id, entry)| (id.clone(), entry.info.clone())).collect();
        let events = differences(&self.known, &living);
        self.known = living;
        events
    }
}
