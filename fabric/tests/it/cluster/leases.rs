//! Leases, elections and hosts through everything that can happen to them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use wasmill_fabric::cluster::{ClusterConfig, HostCluster};
use wasmill_fabric::{HostEvent, HostRegistration, Leadership, Membership};
use wasmill_fabric_testing::{EtcdCluster, EtcdOptions, EtcdServer, EtcdVersion, Proxy};
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Incarnation};

use super::servers::{Pair, config, control, etcd_behind, fresh_name, host, member};
use crate::conformance::within;

fn info(id: &str, incarnation: u64) -> HostInfo {
    HostInfo { id: HostId::from(id), incarnation: Incarnation(incarnation), ..HostInfo::default() }
}

fn left(id: &str, incarnation: u64) -> HostEvent {
    HostEvent::Left(HostId::from(id), Incarnation(incarnation))
}

async fn next(hosts: &mut BoxStream<'static, HostEvent>) -> HostEvent {
    within("a change among the hosts", hosts.next()).await.unwrap()
}

/// Tries until the host is registered, as agents do.
async fn registered(host: &HostCluster, info: HostInfo) -> HostRegistration {
    within("a host registers", async {
        loop {
            if let Ok(registration) = host.fabric.membership.register(info.clone()).await {
                return registration;
            }
        }
    })
    .await
}

async fn until_lost(lost: &mut watch::Receiver<bool>) {
    within("the loss is told", lost.wait_for(|lost| *lost)).await.unwrap();
}

async fn elect(membership: &dyn Membership, node: &str) -> Leadership {
    within("an election", membership.campaign(node)).await.unwrap()
}

/// etcd itself, past everything that the fabric does.
async fn etcd(url: &str) -> Client {
    Client::connect([url], None).await.unwrap()
}

/// Leases of those who lead or wait to, in the order in which they came.
async fn candidates(etcd: &Client, config: &ClusterConfig) -> Vec<i64> {
    let prefix = format!("/wasmill/{}/leader/", config.cluster);
    let found = etcd.kv_client().get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap();
    let mut found: Vec<_> = found.kvs().iter().map(|kv| (kv.create_revision(), kv.lease())).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, lease)| lease).collect()
}

async fn until_candidates(etcd: &Client, config: &ClusterConfig, count: usize) -> Vec<i64> {
    within("as many candidates", async {
        loop {
            let found = candidates(etcd, config).await;
            if found.len() == count {
                return found;
            }
        }
    })
    .await
}

/// The revision in which the seat of the first candidate was made.
async fn seat(etcd: &Client, config: &ClusterConfig) -> u64 {
    let prefix = format!("/wasmill/{}/leader/", config.cluster);
    let found = etcd.kv_client().get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap();
    found.kvs().iter().map(|kv| kv.create_revision().unsigned_abs()).min().unwrap()
}

/// The lease of a candidate is taken away while it waits, and then the seat becomes free: etcd says
/// that it has won.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_candidate_whose_lease_died_in_the_queue_campaigns_again() {
    for pair in [Pair::old(), Pair::new()] {
        let config = pair.config("node-1");
        let (first, _dir) = control(&config).await;
        let (second, _dir) = control(&member(&config, "node-2")).await;
        let etcd = etcd(&pair.etcd.url()).await;
        let leading = elect(&*first.fabric.membership, "node-1").await;
        let membership = second.fabric.membership.clone();
        let waiting = tokio::spawn(async move { membership.campaign("node-2").await });
        let leases = until_candidates(&etcd, &config, 2).await;

        etcd.lease_client().revoke(leases[1]).await.unwrap();
        leading.lease.release().await;
        let elected = within("the election", waiting).await.unwrap().unwrap();
        assert!(!*elected.lost.borrow());
        assert!(elected.term > leading.term);
        // Not only in words: the seat is there, and it is the one that was won.
        assert_eq!(seat(&etcd, &config).await, elected.term.0);
        assert_ne!(candidates(&etcd, &config).await, [leases[1]]);
    }
}

/// A candidate that is cut off for longer than its lease, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_candidate_that_was_cut_off_campaigns_again() {
    let pair = Pair::new();
    let config = ClusterConfig { lease_ms: 1_000, ..pair.config("node-1") };
    let (first, _dir) = control(&config).await;
    let proxy = Proxy::start(pair.etcd.port());
    let (second, _dir) = control(&etcd_behind(&member(&config, "node-2"), &proxy)).await;
    let etcd = etcd(&pair.etcd.url()).await;
    let leading = elect(&*first.fabric.membership, "node-1").await;
    let membership = second.fabric.membership.clone();
    let waiting = tokio::spawn(async move { membership.campaign("node-2").await });
    let leases = until_candidates(&etcd, &config, 2).await;
    proxy.hold_requests();
    proxy.hold_answers();
    until_candidates(&etcd, &config, 1).await;
    leading.lease.release().await;
    proxy.pass();
    let elected = within("the election", waiting).await.unwrap().unwrap();
    let seats = until_candidates(&etcd, &config, 1).await;
    assert_ne!(seats[0], leases[1]);
    assert_eq!(seat(&etcd, &config).await, elected.term.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_a_leader_without_etcd_steps_down_by_its_own_clock() {
    let pair = Pair::new();
    let config = ClusterConfig { lease_ms: 2_000, ..pair.config("node-1") };
    let proxy = Proxy::start(pair.etcd.port());
    let (cluster, _dir) = control(&etcd_behind(&config, &proxy)).await;
    let mut leading = elect(&*cluster.fabric.membership, "node-1").await;
    // Nothing arrives any more, and nobody says so.
    proxy.hold_requests();
    proxy.hold_answers();
    let began = Instant::now();
    until_lost(&mut leading.lost).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // It never goes back, whatever comes later.
    proxy.pass();
    let again = elect(&*cluster.fabric.membership, "node-1").await;
    assert!(again.term > leading.term && *leading.lost.borrow() && !*again.lost.borrow());
}

/// As [`f06_a_leader_without_etcd_steps_down_by_its_own_clock`], with connections that are refused:
/// every try fails at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_stream_of_keepalives_is_opened_anew_while_time_is_left() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_5] {
        let mut etcd = EtcdServer::start(&EtcdOptions::new(version));
        let config =
            ClusterConfig { lease_ms: 10_000, ..config(vec![Pair::new().nats.url()], vec![etcd.url()], "node-1") };
        let (cluster, _dir) = control(&config).await;
        let mut leading = elect(&*cluster.fabric.membership, "node-1").await;
        let lease = candidates(&super::leases::etcd(&etcd.url()).await, &config).await[0];
        etcd.kill();
        etcd.restart();
        // Kept alive again after the restart: its time to live grows.
        let client = super::leases::etcd(&etcd.url()).await;
        within("the lease is kept alive", async {
            let mut before = i64::MAX;
            loop {
                let now = client.lease_client().time_to_live(lease, None).await.unwrap().ttl();
                assert!(now > 0, "the lease is gone");
                if now > before {
                    break;
                }
                before = now;
            }
        })
        .await;
        assert!(leading.lost.changed().now_or_never().is_none());

        etcd.kill();
        until_lost(&mut leading.lost).await;
        etcd.restart();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_etcd_has_ended_is_lost_at_once() {
    let pair = Pair::new();
    let config = ClusterConfig { lease_ms: 3_000, ..pair.config("node-1") };
    let (cluster, _dir) = control(&config).await;
    let etcd = etcd(&pair.etcd.url()).await;
    let mut leading = elect(&*cluster.fabric.membership, "node-1").await;
    etcd.lease_client().revoke(candidates(&etcd, &config).await[0]).await.unwrap();
    until_lost(&mut leading.lost).await;
}

/// The process is as busy as it can be for longer than a lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e09_leases_do_not_notice_a_busy_runtime() {
    let config = ClusterConfig { lease_ms: 2_000, ..Pair::new().config("node-1") };
    let (cluster, _dir) = control(&config).await;
    let mut leading = elect(&*cluster.fabric.membership, "node-1").await;
    let busy = |_| {
        tokio::spawn(async {
            let began = Instant::now();
            // Never yields.
            while began.elapsed() < Duration::from_secs(4) {
                std::hint::black_box(began);
            }
        })
    };
    futures::future::join_all((0..2).map(busy)).await;
    assert!(leading.lost.changed().now_or_never().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_politely_is_followed_at_once() {
    let pair = Pair::new();
    // Longer than anybody's patience: nothing here waits for a lease to end.
    let config = ClusterConfig { lease_ms: 600_000, ..pair.config("node-1") };
    let (first, _dir) = control(&config).await;
    let (second, _dir) = control(&member(&config, "node-2")).await;
    let etcd = etcd(&pair.etcd.url()).await;
    let leading = elect(&*first.fabric.membership, "node-1").await;
    let membership = second.fabric.membership.clone();
    let waiting = tokio::spawn(async move { membership.campaign("node-2").await });
    until_candidates(&etcd, &config, 2).await;
    leading.lease.release().await;
    let elected = within("the election", waiting).await.unwrap().unwrap();
    drop(elected);
    until_candidates(&etcd, &config, 0).await;

    // A candidate that is not waited for any more waits no longer either.
    let leading = elect(&*first.fabric.membership, "node-1").await;
    let membership = second.fabric.membership.clone();
    let waiting = tokio::spawn(async move { membership.campaign("node-2").await });
    until_candidates(&etcd, &config, 2).await;
    waiting.abort();
    until_candidates(&etcd, &config, 1).await;
    drop(leading);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_without_a_quorum_nobody_leads_and_then_somebody_does_again() {
    let mut etcd = EtcdCluster::start(&EtcdOptions::new(EtcdVersion::V3_5));
    let config = ClusterConfig { lease_ms: 2_000, ..config(vec![Pair::new().nats.url()], etcd.urls(), "node-1") };
    let (cluster, _dir) = control(&config).await;
    let mut leading = elect(&*cluster.fabric.membership, "node-1").await;
    etcd.servers[0].kill();
    // Two of three go on without the third.
    let membership = cluster.fabric.membership;
    within("a host registers", async { while membership.register(info("a", 1)).await.is_err() {} }).await;
    etcd.servers[1].kill();
    until_lost(&mut leading.lost).await;
    let waiting = tokio::spawn(async move { membership.campaign("node-1").await });
    std::thread::scope(|scope| {
        for server in &mut etcd.servers[..2] {
            scope.spawn(|| server.restart());
        }
    });
    let elected = within("the election", waiting).await.unwrap().unwrap();
    assert!(elected.term > leading.term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_host_that_falls_silent_leaves_when_its_lease_ends_and_notices_it_itself() {
    let pair = Pair::new();
    let config = ClusterConfig { lease_ms: 2_000, ..pair.config("node-1") };
    let (cluster, _dir) = control(&config).await;
    let proxy = Proxy::start(pair.etcd.port());
    let silent = host(&etcd_behind(&member(&config, "a"), &proxy)).await;
    let mut registration = silent.fabric.membership.register(info("a", 1)).await.unwrap();
    let mut hosts = cluster.fabric.membership.hosts();
    assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("a", 1)));
    proxy.hold_requests();
    proxy.hold_answers();
    until_lost(&mut registration.lost).await;
    assert_eq!(next(&mut hosts).await, left("a", 1));
    // Another life, over the same wire.
    proxy.pass();
    let _again = registered(&silent, info("a", 2)).await;
    assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("a", 2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_life_of_a_host_is_never_replaced_by_an_earlier_one() {
    for pair in [Pair::old(), Pair::new()] {
        let config = pair.config("a");
        let (first, second) = (host(&config).await, host(&config).await);
        let mut replaced = first.fabric.membership.register(info("a", 5)).await.unwrap();
        let _later = second.fabric.membership.register(info("a", 6)).await.unwrap();
        until_lost(&mut replaced.lost).await;
        let Err(error) = first.fabric.membership.register(info("a", 5)).await else {
            panic!("an earlier life was let in")
        };
        assert!(error.to_string().contains("a later life of host `a` is registered, 6"), "{error}");
        // The rest of the earlier life does not end the later one.
        replaced.lease.release().await;
        let (cluster, _dir) = control(&member(&config, "node-1")).await;
        assert_eq!(next(&mut cluster.fabric.membership.hosts()).await, HostEvent::Joined(info("a", 6)));
    }
}

/// The watch is cut off, and what it would have told is compacted before it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_listed_anew_when_the_watch_has_missed_something() {
    for pair in [Pair::old(), Pair::new()] {
        let config = pair.config("node-1");
        let proxy = Proxy::start(pair.etcd.port());
        let (cluster, _dir) = control(&etcd_behind(&config, &proxy)).await;
        let mut hosts = cluster.fabric.membership.hosts();
        let stays = host(&member(&config, "stays")).await;
        // One after the other: those that are found together are told in the order of their names.
        let _stays = stays.fabric.membership.register(info("stays", 1)).await.unwrap();
        assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("stays", 1)));
        let leaves = stays.fabric.membership.register(info("leaves", 1)).await.unwrap();
        assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("leaves", 1)));

        proxy.refuse();
        leaves.lease.release().await;
        let _comes = stays.fabric.membership.register(info("comes", 1)).await.unwrap();
        let etcd = etcd(&pair.etcd.url()).await;
        let revision = etcd.kv_client().get("x", None).await.unwrap().header().unwrap().revision();
        etcd.kv_client().compact(revision, None).await.unwrap();
        proxy.pass();
        assert_eq!(next(&mut hosts).await, left("leaves", 1));
        assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("comes", 1)));
        assert!(hosts.next().now_or_never().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_known_through_a_restart_of_etcd() {
    let mut etcd = EtcdServer::start(&EtcdOptions::new(EtcdVersion::V3_5));
    let config = ClusterConfig { lease_ms: 10_000, ..config(vec![Pair::new().nats.url()], vec![etcd.url()], "node-1") };
    let (cluster, _dir) = control(&config).await;
    let mut hosts = cluster.fabric.membership.hosts();
    let one = host(&member(&config, "a")).await;
    let mut registration = one.fabric.membership.register(info("a", 1)).await.unwrap();
    assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("a", 1)));
    etcd.kill();
    assert!(hosts.next().now_or_never().is_none(), "what etcd said last holds while it is away");
    etcd.restart();
    let _other = registered(&one, info("b", 1)).await;
    assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("b", 1)));
    assert!(registration.lost.changed().now_or_never().is_none());
}

/// etcd is restored from an old backup: its revisions go back, and hosts that it has never heard of
/// still serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_known_through_a_restored_etcd() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_5] {
        let mut etcd = EtcdServer::start(&EtcdOptions::new(version));
        let (data, backup) = (etcd.process().dir().join("data"), etcd.process().dir().join("backup"));
        etcd.kill();
        copy_dir(&data, &backup);
        etcd.restart();
        let pair = Pair::new();
        let config = config(vec![pair.nats.url()], vec![etcd.url()], "node-1");
        let (cluster, _dir) = control(&config).await;
        let mut hosts = cluster.fabric.membership.hosts();
        let one = host(&member(&config, "a")).await;
        let mut forgotten = one.fabric.membership.register(info("a", 1)).await.unwrap();
        assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("a", 1)));
        let client = self::etcd(&etcd.url()).await;
        for value in 0..50 {
            client.kv_client().put("x", value.to_string(), None).await.unwrap();
        }
        etcd.kill();
        fs::remove_dir_all(&data).unwrap();
        copy_dir(&backup, &data);
        etcd.restart();
        until_lost(&mut forgotten.lost).await;
        assert_eq!(next(&mut hosts).await, left("a", 1));
        let _again = registered(&one, info("a", 2)).await;
        assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("a", 2)));
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// F31 for hosts: terms grow across clusters of control nodes that come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_on_the_same_servers_do_not_see_each_other() {
    let pair = Pair::new();
    let config = pair.config("node-1");
    let other = ClusterConfig { cluster: fresh_name(), ..config.clone() };
    let ((one, _dir), (two, _other_dir)) = (control(&config).await, control(&other).await);
    let _leading = elect(&*one.fabric.membership, "node-1").await;
    let _leading_too = elect(&*two.fabric.membership, "node-1").await;
    let _registered = one.fabric.membership.register(info("a", 1)).await.unwrap();
    let mut hosts = two.fabric.membership.hosts();
    let _theirs = two.fabric.membership.register(info("b", 1)).await.unwrap();
    assert_eq!(next(&mut hosts).await, HostEvent::Joined(info("b", 1)));
    one.fabric.log.append(wasmill_protocol::LogSeq(0), "ours".into()).await.unwrap();
    assert_eq!(two.fabric.log.last_seq().await.unwrap(), wasmill_protocol::LogSeq(0));
    let mut news = two.fabric.bus.subscribe("news", 1).await.unwrap();
    one.fabric.bus.publish("news", "ours".into()).await.unwrap();
    two.fabric.bus.publish("news", "theirs".into()).await.unwrap();
    assert_eq!(news.recv().await.unwrap().content.into_bytes(), "theirs");
}
