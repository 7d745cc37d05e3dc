//! Which hosts live, as a leader hears of it from etcd: a list, then changes, and a list again when changes were missed.

use wasmill_fabric_models::etcd::{EtcdError, EventKind, Range};
use wasmill_protocol::Incarnation;
use wasmill_protocol::message::HostInfo;

use super::etcd_side::ETCD_PATIENCE_US;
use super::{EtcdHappening, Happening, Sender, World};
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{EtcdWait, HostWatch};
use crate::plant::Plant;
use crate::servers::{Caller, EtcdAnswer, EtcdAsk, HOSTS, HostEntry, RIVALS, WatchNews, Watcher, host_of};

impl World {
    /// A leader begins to hear of hosts.
    pub(super) fn watch_hosts(&mut self, node: usize) {
        let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
            return;
        };
        let epoch = cluster.number();
        cluster.watch = HostWatch { epoch, ..HostWatch::default() };
        self.ask_etcd(node, EtcdAsk::Hosts, EtcdWait::Hosts(epoch));
    }

    /// The watch of a node, if that life of it still watches in this epoch.
    fn watch(&mut self, sender: Sender, epoch: u64) -> Option<&mut HostWatch> {
        let cluster = self.nodes[sender.node].alive(sender.life)?.cluster.as_mut()?;
        (cluster.watch.epoch == epoch).then_some(&mut cluster.watch)
    }

    pub(super) fn hosts_listed(&mut self, sender: Sender, epoch: u64, answer: Option<EtcdAnswer>) {
        let Some(watch) = self.watch(sender, epoch) else { return };
        let Some(EtcdAnswer::Hosts(hosts, revision)) = answer else {
            self.ask_etcd(sender.node, EtcdAsk::Hosts, EtcdWait::Hosts(epoch));
            return;
        };
        let known = std::mem::take(&mut watch.known);
        watch.known = hosts.iter().copied().collect();
        for (host, entry) in &known {
            if hosts.iter().all(|(listed, _)| listed != host) {
                self.tell_left(sender, *host, entry.incarnation);
            }
        }
        for (host, entry) in hosts {
            if known.get(&host) != Some(&entry) {
                self.tell_joined(sender, host, known.get(&host).copied(), entry);
            }
        }
        self.ask_watch(sender, revision + 1, epoch);
    }

    fn ask_watch(&mut self, sender: Sender, from: u64, epoch: u64) {
        self.ask_etcd(sender.node, EtcdAsk::Watch(from, epoch), EtcdWait::Watch(epoch, from));
    }

    /// A host lives, or another life of it where one was known.
    fn tell_joined(&mut self, sender: Sender, host: usize, before: Option<HostEntry>, entry: HostEntry) {
        let HostEntry { incarnation, process } = entry;
        // A process knows which one had its directory before it. Another one's directory is a copy.
        let predecessor = if process < RIVALS { process.saturating_sub(1) } else { 0 };
        let mut info = HostInfo { incarnation, process, predecessor, ..self.hosts[host].info() };
        if let Some(before) = before.filter(|before| process >= RIVALS && before.process < RIVALS) {
            self.note_rivalled(sender, host, before.incarnation);
        }
        if self.plant == Some(Plant::RivalUnseen) {
            info.process = 0;
        }
        self.host_joined(sender, info);
    }

    /// A leader hears that another process has become a host: what ran there in the life that it knew pays nothing for it.
    fn note_rivalled(&mut self, sender: Sender, host: usize, life: Incarnation) {
        let Some(process) = self.nodes[sender.node].alive(sender.life) else { return };
        let Some(leader) = &process.leader else { return };
        self.marks.hit(Mark::HostRivalled);
        self.oracle.rivalled.insert((leader.term, self.hosts[host].id.clone(), life));
    }

    fn tell_left(&mut self, sender: Sender, host: usize, incarnation: Incarnation) {
        let id = self.hosts[host].id.clone();
        self.host_left(sender, id, incarnation);
    }

    /// etcd opens a watch.
    pub(super) fn open_watch(&mut self, caller: Caller, from: u64, epoch: u64) -> Result<EtcdAnswer, EtcdError> {
        let Place::Node(node) = caller.place else { return Err(EtcdError::NotLeader) };
        let now = self.now;
        let servers = self.servers();
        let mut watch = servers.etcd.watch(Range::Prefix(HOSTS.into()), Some(from));
        // A watch that begins before what is there fails at once.
        servers.etcd.read_watch(&mut watch)?;
        let watch = servers.etcd.watch(Range::Prefix(HOSTS.into()), Some(from));
        servers.watchers.retain(|watcher| watcher.node != node || watcher.epoch != epoch);
        servers.watchers.push(Watcher { node, life: caller.life, epoch, watch, told_at: now });
        Ok(EtcdAnswer::Watching(servers.etcd.revision()))
    }

    /// A watch that waits for what etcd has not come to yet would miss all until then: etcd was restored since the hosts were listed.
    pub(super) fn watch_opened(&mut self, sender: Sender, epoch: u64, from: u64, answer: Option<EtcdAnswer>) {
        if !matches!(answer, Some(EtcdAnswer::Watching(revision)) if revision + 1 >= from) {
            self.watch_again(sender, epoch);
        }
    }

    /// The watch has ended, for whatever reason: what was missed is found by a new list.
    fn watch_again(&mut self, sender: Sender, epoch: u64) {
        if self.plant == Some(Plant::WatchGapIgnored) {
            return self.watch_from_now(sender, epoch);
        }
        if self.watch(sender, epoch).is_some() {
            self.marks.hit(Mark::WatchRelisted);
            self.ask_etcd(sender.node, EtcdAsk::Hosts, EtcdWait::Hosts(epoch));
        }
    }

    /// A planted bug: what happened in between is missed.
    fn watch_from_now(&mut self, sender: Sender, epoch: u64) {
        let revision = self.servers().etcd.revision();
        if self.watch(sender, epoch).is_some() {
            self.ask_watch(sender, revision + 1, epoch);
        }
    }

    /// Tells everybody who watches what has changed. A stream keeps its order, and breaks when something of it is lost.
    pub(super) fn tell_watchers(&mut self) {
        let mut watchers = std::mem::take(&mut self.servers().watchers);
        watchers.retain_mut(|watcher| {
            let events = match self.servers().etcd.read_watch(&mut watcher.watch) {
                Ok(events) if events.is_empty() => return true,
                Ok(events) => Some(events),
                Err(_) => None,
            };
            let sender = Sender { node: watcher.node, life: watcher.life };
            let arrival = self.wire(Place::Etcd, Place::Node(watcher.node)).filter(|_| events.is_some());
            let goes_on = arrival.is_some();
            let at = arrival.unwrap_or(self.now.plus_us(ETCD_PATIENCE_US)).max(watcher.told_at);
            watcher.told_at = at;
            let news = WatchNews { epoch: watcher.epoch, events: events.filter(|_| goes_on) };
            self.at_time(at, Happening::Etcd(EtcdHappening::WatchNews(sender, Box::new(news))));
            goes_on
        });
        self.servers().watchers.append(&mut watchers);
    }

    /// All watches are cut by the servers.
    pub(super) fn break_watches(&mut self) {
        for watcher in std::mem::take(&mut self.servers().watchers) {
            let sender = Sender { node: watcher.node, life: watcher.life };
            let news = WatchNews { epoch: watcher.epoch, events: None };
            let at = self.now.plus_us(1_000).max(watcher.told_at);
            self.at_time(at, Happening::Etcd(EtcdHappening::WatchNews(sender, Box::new(news))));
        }
    }

    pub(super) fn watch_news(&mut self, sender: Sender, news: WatchNews) {
        let epoch = news.epoch;
        let Some(events) = news.events else { return self.watch_again(sender, epoch) };
        for event in events {
            let Some(watch) = self.watch(sender, epoch) else { return };
            let Some(host) = host_of(&event.key) else { continue };
            match event.kind {
                EventKind::Put(put) => {
                    let entry = HostEntry::decode(&put.value);
                    let before = watch.known.insert(host, entry);
                    self.tell_joined(sender, host, before, entry);
                }
                EventKind::Delete => {
                    if let Some(entry) = watch.known.remove(&host) {
                        self.tell_left(sender, host, entry.incarnation);
                    }
                }
            }
        }
    }
}
