//! Everything starts at the same moment, on servers that have never run.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use wasmill_fabric::cluster::{Cluster, ClusterConfig, ConnectError, ControlConfig, Link};
use wasmill_fabric_testing::{
    EtcdCluster, EtcdOptions, EtcdVersion, NatsCluster, NatsOptions, NatsServer, NatsVersion,
};
use wasmill_protocol::LogSeq;

use super::servers::{Pair, config, member, name};
use crate::conformance::within;

/// As processes do: until it can, or trying again does not help.
async fn joined(config: &ClusterConfig) -> Result<(Cluster, tempfile::TempDir), ConnectError> {
    let (mut link, dir) = (Link::new(config)?, tempfile::tempdir().unwrap());
    loop {
        match link.control_node(&ControlConfig::new(dir.path().join("blobs"))).await {
            Err(ConnectError::Unreachable { .. }) => tokio::time::sleep(Duration::from_millis(100)).await,
            joined => return joined.map(|cluster| (cluster, dir)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f56_control_nodes_that_start_before_their_servers_all_come_up() {
    for (nats, etcd) in [(NatsVersion::V2_9, EtcdVersion::V3_4), (NatsVersion::V2_15, EtcdVersion::V3_5)] {
        let mut servers = NatsCluster::prepare(&NatsOptions::new(nats));
        let etcd = EtcdCluster::start(&EtcdOptions::new(etcd));
        let first = config(servers.urls(), etcd.urls(), "node-0");
        let nodes = (0..3).map(|number| {
            let config = ClusterConfig { member: name(&format!("node-{number}")), ..first.clone() };
            tokio::spawn(async move { joined(&config).await })
        });
        let nodes: Vec<_> = nodes.collect();
        let servers = tokio::task::spawn_blocking(move || {
            servers.servers.iter_mut().for_each(NatsServer::restart);
            servers
        });
        let nodes = within("everybody comes up", join_all(nodes)).await;
        let nodes: Vec<_> =
            nodes.into_iter().map(|node| node.unwrap().unwrap_or_else(|error| panic!("{error}"))).collect();
        // It is one log, and one of them has made it.
        let is_new =
            |(cluster, _): &&(Cluster, _)| cluster.news().is_some_and(|news| news.contains("is new and empty"));
        assert_eq!(nodes.iter().filter(is_new).count(), 1);
        let appended = within("a record", async {
            loop {
                let last = nodes[0].0.fabric.log.last_seq().await.unwrap_or(LogSeq(0));
                if let Ok(seq) = nodes[0].0.fabric.log.append(last, "a record".into()).await {
                    return seq;
                }
            }
        })
        .await;
        for (cluster, _) in &nodes {
            within("everybody sees it", async { while cluster.fabric.log.last_seq().await.ok() != Some(appended) {} })
                .await;
        }
        drop(servers.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f56_a_server_without_jetstream_is_named_with_what_it_lacks() {
    for version in [NatsVersion::V2_9, NatsVersion::V2_15] {
        let nats = NatsServer::start(&NatsOptions { has_jetstream: false, ..NatsOptions::new(version) });
        let config = config(vec![nats.url()], vec![Pair::new().etcd.url()], "node-1");
        let began = Instant::now();
        let Err(error) = within("it gives up", joined(&config)).await else { panic!("nothing is kept") };
        assert!(matches!(error, ConnectError::NoJetStream { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("JetStream is not enabled on NATS at nats://") && text.contains("`jetstream`"), "{text}");
        assert!(began.elapsed() >= Duration::from_secs(5), "servers that are being started have to find each other");
    }
}

/// A consumer for each blob would stay on the servers for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_blobs_leaves_nothing_on_the_servers() {
    for pair in [Pair::old(), Pair::new()] {
        let config = pair.config("node-1");
        let (writer, _dir) = super::servers::control(&config).await;
        let (reader, _dir) = super::servers::control(&member(&config, "node-2")).await;
        let client = async_nats::connect(pair.nats.url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(client);
        let stream = jetstream.get_stream(format!("OBJ_wasmill-{}-blobs", config.cluster)).await.unwrap();
        let before = stream.get_info().await.unwrap().state.consumer_count;
        for number in 0..40_usize {
            let bytes: Vec<u8> = (0..40_000 + 30_000 * number).map(|place| (place * 7 + number) as u8).collect();
            let stored = writer.fabric.blobs.put(bytes.clone().into()).await.unwrap();
            let read = reader.fabric.blobs.read(stored.digest, u64::MAX).await.unwrap();
            assert!(read == bytes, "{number}");
        }
        assert_eq!(stream.get_info().await.unwrap().state.consumer_count, before);
    }
}
