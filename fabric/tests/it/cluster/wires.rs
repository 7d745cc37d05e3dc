//! The bus through connections that are cut, servers that cut us off, and a whole fleet that comes
//! back at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::watch;
use wasmill_fabric::remote_blobs::serve_blobs;
use wasmill_fabric::{Bus, BusError};
use wasmill_fabric_testing::{EtcdOptions, EtcdServer, EtcdVersion, NatsOptions, NatsServer, NatsVersion, Proxy};
use wasmill_metrics::{Page, Registry};

use super::servers::{Pair, behind, config, control, host, member};
use crate::conformance::{PATIENCE, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f44_a_subscriber_that_the_server_cuts_off_notices_and_subscribes_again() {
    for version in [NatsVersion::V2_9, NatsVersion::V2_15] {
        let options =
            NatsOptions { more: "max_pending: 2MB\nwrite_deadline: \"500ms\"".to_owned(), ..NatsOptions::new(version) };
        let nats = NatsServer::start(&options);
        let proxy = Proxy::start(nats.layout().port);
        let config = config(vec![nats.url()], vec![Pair::new().etcd.url()], "host-1");
        let slow = host(&behind(&config, &proxy)).await;
        let quick = host(&member(&config, "host-2")).await;
        let mut subscription = slow.fabric.bus.subscribe("news", 10).await.unwrap();
        let mut stays = quick.fabric.bus.subscribe("news", 100_000).await.unwrap();

        // Nothing reaches it any more, so the server has to keep what is for it.
        proxy.hold_answers();
        let ended = tokio::spawn(async move { while subscription.recv().await.is_some() {} }).fuse();
        let flood = async {
            let news = Bytes::from(vec![7; 100_000]);
            loop {
                quick.fabric.bus.publish("news", news.clone()).await.unwrap();
                stays.recv().await.unwrap();
            }
        };
        let until_cut = async {
            within("the server cuts it off", async {
                while !nats.process().log().contains("Slow Consumer") {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            proxy.pass();
            within("the subscription ends", ended).await.unwrap();
        };
        tokio::select! {
            () = until_cut => {}
            () = flood => {}
        }
        let mut again = within("it subscribes again", async {
            loop {
                if let Ok(subscription) = slow.fabric.bus.subscribe("news", 100_000).await {
                    return subscription;
                }
            }
        })
        .await;
        quick.fabric.bus.publish("news", "after".into()).await.unwrap();
        // The last of the flood may still come before it.
        within("news", async { while again.recv().await.unwrap().content.into_bytes() != "after" {} }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_a_bus_without_its_server_says_so_and_sends_nothing_later() {
    let mut nats = NatsServer::start(&NatsOptions::new(NatsVersion::V2_15));
    let config = config(vec![nats.url()], vec![Pair::new().etcd.url()], "host-1");
    let one = host(&config).await;
    let mut subscription = one.fabric.bus.subscribe("news", 10).await.unwrap();
    let pending = one.fabric.bus.request("news", "a question".into(), PATIENCE);
    let pending = tokio::spawn(pending);
    let question = subscription.recv().await.unwrap();
    nats.kill();
    assert!(matches!(within("no answer", pending).await.unwrap(), Err(BusError::NoAnswer(_))));
    drop(question);
    assert!(within("the subscription ends", subscription.recv()).await.is_none());
    within("it is noticed", async { while one.fabric.bus.publish("news", "lost".into()).await.is_ok() {} }).await;
    let unreachable = |error: BusError| assert!(matches!(error, BusError::Unreachable(_)), "{error:?}");
    unreachable(one.fabric.bus.publish("news", "lost too".into()).await.unwrap_err());
    unreachable(one.fabric.bus.request("news", Bytes::new(), PATIENCE).await.unwrap_err());
    unreachable(one.fabric.bus.subscribe("news", 10).await.unwrap_err());

    nats.restart();
    let mut again = within("it subscribes again", async {
        loop {
            if let Ok(subscription) = one.fabric.bus.subscribe("news", 10).await {
                return subscription;
            }
        }
    })
    .await;
    one.fabric.bus.publish("news", "heard".into()).await.unwrap();
    assert_eq!(again.recv().await.unwrap().content.into_bytes(), "heard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_the_servers_answer_is_measured() {
    let mut nats = NatsServer::start(&NatsOptions::new(NatsVersion::V2_15));
    let mut etcd = EtcdServer::start(&EtcdOptions::new(EtcdVersion::V3_5));
    let (cluster, _dir) = control(&config(vec![nats.url()], vec![etcd.url()], "node-1")).await;
    let registry = Registry::new();
    cluster.watch(&registry);
    let shown = |name: &str| {
        let page = Page::of(&registry).into_text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse::<f64>().unwrap()
    };
    let until = async |name: &str, wanted: fn(f64) -> bool| {
        within(name, async {
            while !wanted(shown(name)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    assert_eq!((shown("wasmill_nats_connected"), shown("wasmill_nats_disconnections_total")), (1.0, 0.0));

    let _lease = within("an election", cluster.fabric.membership.campaign("node-1")).await.unwrap();
    until("wasmill_etcd_keep_alive_seconds_count", |answered| answered >= 1.0).await;
    etcd.kill();
    until("wasmill_etcd_keep_alives_failed_total", |failed| failed >= 1.0).await;
    etcd.restart();

    nats.kill();
    until("wasmill_nats_connected", |connected| connected == 0.0).await;
    until("wasmill_nats_disconnections_total", |lost| lost == 1.0).await;
    nats.restart();
    until("wasmill_nats_connected", |connected| connected == 1.0).await;
}

/// A request whose subscriber dies before it answers is not waited for to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_dies_is_noticed_by_those_who_wait_for_its_answer() {
    let pair = Pair::new();
    let proxy = Proxy::start(pair.nats.layout().port);
    let config = pair.config("host-1");
    let dies = host(&behind(&config, &proxy)).await;
    let asks = host(&member(&config, "host-2")).await;
    let mut subscription = dies.fabric.bus.subscribe("question", 10).await.unwrap();
    let answer = tokio::spawn(asks.fabric.bus.request("question", Bytes::new(), Duration::from_secs(600)));
    let _question = subscription.recv().await.unwrap();
    proxy.refuse();
    let answer = within("the loss is noticed", answer).await.unwrap();
    assert!(matches!(answer, Err(BusError::NoSubscriber(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_fleet_that_loses_its_server_comes_back() {
    const HOSTS: usize = 40;
    let mut nats = NatsServer::start(&NatsOptions::new(NatsVersion::V2_15));
    let config = config(vec![nats.url()], vec![Pair::new().etcd.url()], "node-1");
    let (cluster, _dir) = control(&config).await;
    let hosts = futures::future::join_all((0..HOSTS).map(|number| {
        let config = member(&config, &format!("host-{number}"));
        async move { host(&config).await }
    }))
    .await;
    for _ in 0..2 {
        nats.kill();
        nats.restart();
        let mut heartbeats = within("the leader is back", async {
            loop {
                if let Ok(subscription) = cluster.fabric.bus.subscribe("heartbeats.*", HOSTS).await {
                    return subscription;
                }
            }
        })
        .await;
        let beat = hosts.iter().enumerate().map(|(number, host)| async move {
            while host.fabric.bus.publish(&format!("heartbeats.host-{number}"), Bytes::new()).await.is_err() {}
        });
        within("every host is back", futures::future::join_all(beat)).await;
        for _ in 0..HOSTS {
            within("a heartbeat", heartbeats.recv()).await.unwrap();
        }
    }
}

/// Blobs for hosts are served again after the bus was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_hosts_read_and_store_blobs_through_a_restart() {
    let mut nats = NatsServer::start(&NatsOptions::new(NatsVersion::V2_15));
    let config = config(vec![nats.url()], vec![Pair::new().etcd.url()], "node-1");
    let (cluster, _dir) = control(&config).await;
    let (_shutdown, receiver) = watch::channel(false);
    tokio::spawn(serve_blobs(cluster.fabric.bus, cluster.fabric.blobs, "node-1".to_owned(), receiver));
    let one = host(&member(&config, "host-1")).await;
    let bytes = Bytes::from(vec![7; 3_000_000]);
    let put = async |bytes: Bytes| {
        within("the blob is stored", async {
            loop {
                if let Ok(stat) = one.fabric.blobs.put(bytes.clone()).await {
                    return stat;
                }
            }
        })
        .await
    };
    let before = put(bytes.clone()).await;
    nats.kill();
    nats.restart();
    let after = put(bytes.slice(1..)).await;
    for (stat, expected) in [(before, bytes.clone()), (after, bytes.slice(1..))] {
        let read = within("the blob is read", async {
            loop {
                if let Ok(read) = one.fabric.blobs.read(stat.digest, u64::MAX).await {
                    return read;
                }
            }
        })
        .await;
        assert!(read == expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_of_one_node_are_there_for_another() {
    for pair in [Pair::old(), Pair::new()] {
        let config = pair.config("node-1");
        let ((one, _dir), (two, _other_dir)) = (control(&config).await, control(&member(&config, "node-2")).await);
        let bytes = Bytes::from(vec![9; 1_000_000]);
        let stat = one.fabric.blobs.put(bytes.clone()).await.unwrap();
        assert!(two.fabric.blobs.read(stat.digest, u64::MAX).await.unwrap() == bytes);
        assert!(two.fabric.blobs.local_path(stat.digest).is_some_and(|path| path.is_file()));
        // To store it again makes it young; a sweep that has seen it old does not remove it then.
        let again = two.fabric.blobs.put(bytes).await.unwrap();
        assert!(again.modified > stat.modified);
        assert!(!one.fabric.blobs.delete_older(stat.digest, again.modified).await.unwrap());
        assert!(one.fabric.blobs.delete_older(stat.digest, again.modified + Duration::from_secs(1)).await.unwrap());
        let gone = one.fabric.blobs.stat(stat.digest).await;
        assert!(matches!(gone, Err(wasmill_fabric::BlobError::Unknown(_))), "{gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_is_no_answer() {
    let config = Pair::new().config("host-1");
    let one = host(&config).await;
    let bus: Arc<dyn Bus> = one.fabric.bus;
    let mut subscription = bus.subscribe("large", 1).await.unwrap();
    let request = bus.request("large", Bytes::new(), Duration::from_millis(300));
    let (answer, ()) = tokio::join!(request, async {
        let responder = subscription.recv().await.unwrap().responder.unwrap();
        responder.respond(Bytes::from(vec![0; bus.payload_bytes_max() + 1]).into());
    });
    assert!(matches!(answer, Err(BusError::NoAnswer(_))), "{answer:?}");
}
