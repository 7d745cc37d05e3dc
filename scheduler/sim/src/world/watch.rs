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
            self.tell_changed(sender, host, known.get(&host).copied(), entry);
        }
        self.ask_watch(sender, revision + 1, epoch);
    }

    fn ask_watch(&mut self, sender: Sender, from: u64, epoch: u64) {
        self.ask_etcd(sender.node, EtcdAsk::Watch(from, epoch), EtcdWait::Watch(epoch, from));
    }

    /// What there is of a host now, and was before. That a life is over is told by a later one alone; an earlier one comes after it was told.
    fn tell_changed(&mut self, sender: Sender, host: usize, before: Option<HostEntry>, entry: HostEntry) {
        if before == Some(entry) {
            return;
        }
        let replaced = before.filter(|before| before.incarnation <= entry.incarnation);
        if let Some(before) = before.filter(|_| replaced.is_none()) {
            self.tell_left(sender, host, before.incarnation);
        }
        self.tell_joined(sender, host, replaced, entry);
    }

    /// A host lives, in place of the life that is replaced if there is one.
    fn tell_joined(&mut self, sender: Sender, host: usize, replaced: Option<HostEntry>, entry: HostEntry) {
        let HostEntry { incarnation, process } = entry;
        let rivals = |process: u64| process >= RIVALS;
        // A process knows which one had its directory before it. Another one's directory is a copy.
        let predecessor = if rivals(process) { 0 } else { process.saturating_sub(1) };
        let mut info = HostInfo { incarnation, process, predecessor, ..self.hosts[host].info() };
        if rivals(process) {
            // It never runs anything: what is lost in its life was the host's, which had that life too. What has ended before has ended by now.
            self.note_rivalled(sender, host, incarnation, 1);
            if let Some(own) = replaced.filter(|replaced| !rivals(replaced.process)) {
                self.note_rivalled(sender, host, own.incarnation, 0);
            }
        } else {
            self.note_own(sender, host, incarnation);
        }
        if self.plant == Some(Plant::RivalUnseen) {
            info.process = 0;
        }
        self.host_joined(sender, info);
    }

    /// A leader hears that another process has become a host: what is lost there in that life, so many microseconds from now on, pays nothing for it.
    fn note_rivalled(&mut self, sender: Sender, host: usize, life: Incarnation, in_us: u64) {
        let now = self.now;
        let Some(process) = self.nodes[sender.node].alive(sender.life) else { return };
        let Some(leader) = &process.leader else { return };
        let (term, at) = (leader.term(), process.clock(now).plus_us(in_us));
        self.marks.hit(Mark::HostRivalled);
        self.oracle.rivalled.insert((term, self.hosts[host].id.clone(), life), at);
    }

    /// A leader hears of a life of the host itself. One that it has heard of before was registered once more, and can end in any way again.
    fn note_own(&mut self, sender: Sender, host: usize, life: Incarnation) {
        let leader = self.nodes[sender.node].alive(sender.life).and_then(|process| process.leader.as_ref());
        if let Some(term) = leader.map(|leader| leader.term()) {
            self.oracle.rivalled.remove(&(term, self.hosts[host].id.clone(), life));
        }
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
        // Those of the same process that this one is to replace. A request can be late, so it may be the older one.
        let is_replaced =
            |watcher: &Watcher| watcher.node == node && watcher.life == caller.life && watcher.epoch <= epoch;
        servers.watchers.retain(|watcher| !is_replaced(watcher));
        servers.watchers.push(Watcher { node, life: caller.life, epoch, watch, told_at: now });
        Ok(EtcdAnswer::Watching(servers.etcd.revision()))
    }

    /// A watch that waits for what etcd has not come to yet would miss all until then: etcd was restored since the hosts were listed.
    pub(super) fn watch_opened(&mut self, sender: Sender, epoch: u64, from: u64, answer: Option<EtcdAnswer>) {
        if !matches!(answer, Some(EtcdAnswer::Watching(revision)) if revision + 1 >= from) {
            self.watch_again(sender, epoch);
        }
    }

    /// The watch has ended, for whatever reason: what was missed is found by a new list. Nothing of the old watch is heard any more.
    fn watch_again(&mut self, sender: Sender, epoch: u64) {
        if self.plant == Some(Plant::WatchGapIgnored) {
            return self.watch_from_now(sender, epoch);
        }
        let Some(cluster) = self.nodes[sender.node].alive(sender.life).and_then(|process| process.cluster.as_mut())
        else {
            return;
        };
        if cluster.watch.epoch == epoch {
            let epoch = cluster.number();
            cluster.watch.epoch = epoch;
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
                    self.tell_changed(sender, host, before, entry);
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
