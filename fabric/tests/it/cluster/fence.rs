//! A writer that has lost its place appends nothing, whatever it has sent already.

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use wasmill_fabric::cluster::ClusterConfig;
use wasmill_fabric::{AppendError, Log};
use wasmill_fabric_testing::{EtcdVersion, NatsCluster, NatsOptions, NatsVersion, Proxy};
use wasmill_protocol::LogSeq;

use super::servers::{Pair, behind, config, control, member};
use crate::conformance::within;

/// Appends that are on their way when another writer takes the place of the first of them. To the second the log seems to end where it should.
async fn check(config: &ClusterConfig, nats_port: u16) {
    let proxy = Proxy::start(nats_port);
    let (stale, _dir) = control(&behind(&member(config, "stale"), &proxy)).await;
    let (current, _dir) = control(&member(config, "current")).await;
    let (stale, current) = (stale.log(), current.log());
    assert_eq!(stale.append(LogSeq(0), "before".into()).await.unwrap(), LogSeq(1));

    proxy.hold_requests();
    let sent: Vec<_> = (1..=6).map(|last| stale.append(LogSeq(last), format!("stale {last}").into())).collect();
    let sent = tokio::spawn(join_all(sent));
    assert_eq!(current.append(LogSeq(1), "current".into()).await.unwrap(), LogSeq(2));
    proxy.pass();
    for outcome in within("the stale appends have an outcome", sent).await.unwrap() {
        assert!(matches!(outcome, Err(AppendError::Conflict { .. })), "{outcome:?}");
    }

    // And nothing of it comes later.
    assert_eq!(current.append(LogSeq(2), "after".into()).await.unwrap(), LogSeq(3));
    assert_eq!(read(&*current, 3).await, ["before", "current", "after"]);
    assert_eq!(current.last_seq().await.unwrap(), LogSeq(3));
}

async fn read(log: &dyn Log, count: usize) -> Vec<Bytes> {
    let records = log.tail(LogSeq(1)).take(count).map(|record| record.unwrap().1).collect();
    within("the log is read", records).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_pipelined_appends_of_a_stale_writer_are_all_refused_by_an_old_server() {
    check(&Pair::old().config("any"), Pair::old().nats.layout().port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_pipelined_appends_of_a_stale_writer_are_all_refused_by_a_recent_server() {
    check(&Pair::new().config("any"), Pair::new().nats.layout().port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_pipelined_appends_of_a_stale_writer_are_all_refused_by_three_servers() {
    for version in [NatsVersion::V2_15] {
        let nats = NatsCluster::start(&NatsOptions::new(version));
        let etcd =
            wasmill_fabric_testing::EtcdServer::start(&wasmill_fabric_testing::EtcdOptions::new(EtcdVersion::V3_5));
        let config = config(nats.urls(), vec![etcd.url()], "any");
        // Each server is once the one that the stale writer is connected to, so it is once the stream's leader and twice not.
        for server in &nats.servers {
            let config = ClusterConfig { cluster: super::servers::fresh_name(), ..config.clone() };
            eprintln!("CHECK {version:?} {}", server.layout().port); let r = tokio::spawn({let p = server.layout().port; let c = config.clone(); async move { check(&c, p).await }}).await;
 for s in &nats.servers { eprintln!("LOG {}", s.process().log()); } r.unwrap();
        }
    }
}
