//! Appends through everything that can happen to them on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use wasmill_fabric::cluster::{Cluster, ControlConfig};
use wasmill_fabric::{AppendError, Log, LogError};
use wasmill_fabric_testing::{
    EtcdOptions, EtcdServer, EtcdVersion, NatsCluster, NatsOptions, NatsServer, NatsVersion, Proxy,
};
use wasmill_protocol::LogSeq;

use super::servers::{Pair, behind, config, control, member};
use crate::conformance::within;

/// The stream itself, past everything that the fabric does.
async fn stream(nats_url: &str, cluster: &str) -> (jetstream::Context, jetstream::stream::Stream) {
    let context = jetstream::new(async_nats::connect(nats_url).await.unwrap());
    let stream = context.get_stream(format!("wasmill-{cluster}-log")).await.unwrap();
    (context, stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f39_an_append_whose_answer_is_lost_is_stored_once() {
    for pair in [Pair::old(), Pair::new()] {
        let proxy = Proxy::start(pair.nats.layout().port);
        let config = pair.config("node-1");
        let (cluster, _dir) = control(&behind(&config, &proxy)).await;
        let log = cluster.fabric.log;
        assert_eq!(log.append(LogSeq(0), "first".into()).await.unwrap(), LogSeq(1));

        proxy.hold_answers();
        let lost = tokio::spawn(log.append(LogSeq(1), "second".into()));
        let (_, mut stream) = stream(&pair.nats.url(), config.cluster.as_str()).await;
        within("the record is stored", async { while stream.info().await.unwrap().state.last_sequence < 2 {} }).await;
        proxy.cut();
        proxy.pass();
        assert_eq!(within("the append is done", lost).await.unwrap().unwrap(), LogSeq(2));
        assert_eq!(log.last_seq().await.unwrap(), LogSeq(2));
    }
}

/// The servers remember the ids of messages for a while only; after that the place in the log
/// tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f39_an_append_that_the_server_has_forgotten_is_read_back() {
    let pair = Pair::new();
    let proxy = Proxy::start(pair.nats.layout().port);
    let config = pair.config("node-1");
    let (cluster, _dir) = control(&behind(&config, &proxy)).await;
    let log = cluster.fabric.log;
    let (context, mut stream) = stream(&pair.nats.url(), config.cluster.as_str()).await;
    let mut forgetful = stream.info().await.unwrap().config.clone();
    forgetful.duplicate_window = std::time::Duration::from_millis(100);
    context.update_stream(&forgetful).await.unwrap();

    proxy.hold_answers();
    let lost = tokio::spawn(log.append(LogSeq(0), "first".into()));
    within("the record is stored", async { while stream.info().await.unwrap().state.last_sequence < 1 {} }).await;
    proxy.refuse();
    let id = stream.get_raw_message(1).await.unwrap().headers.get(NATS_MESSAGE_ID).unwrap().clone();
    within("the server has forgotten the message", async {
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_MESSAGE_ID, id.clone());
            headers.insert(NATS_EXPECTED_LAST_SEQUENCE, "17");
            let message = PublishMessage::build().headers(headers);
            let subject = format!("wasmill.{}.log", config.cluster);
            match context.send_publish(subject, message).await.unwrap().await {
                Ok(ack) => assert!(ack.duplicate),
                Err(error) => {
                    assert_eq!(error.kind(), PublishErrorKind::WrongLastSequence);
                    break;
                }
            }
        }
    })
    .await;
    // Somebody else goes on meanwhile, who has read the record.
    let (other, _dir) = control(&member(&config, "node-2")).await;
    assert_eq!(other.fabric.log.append(LogSeq(1), "of another".into()).await.unwrap(), LogSeq(2));
    proxy.pass();
    assert_eq!(within("the append is done", lost).await.unwrap().unwrap(), LogSeq(1));
    let conflict = within("the next one has an outcome", log.append(LogSeq(1), "second".into())).await;
    assert!(matches!(conflict, Err(AppendError::Conflict { last: LogSeq(2), .. })), "{conflict:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_a_server_that_says_nothing_is_given_up_after_a_bounded_time() {
    let nats = NatsServer::start(&NatsOptions::new(NatsVersion::V2_15));
    let etcd = EtcdServer::start(&EtcdOptions::new(EtcdVersion::V3_5));
    let (cluster, _dir) = control(&config(vec![nats.url()], vec![etcd.url()], "node-1")).await;
    nats.process().pause();
    let writer = cluster.fabric.log.writer();
    let appends = [0, 1].map(|last| writer.append(LogSeq(last), "nobody hears".into()));
    for outcome in within("the appends are given up", futures::future::join_all(appends)).await {
        assert!(matches!(outcome, Err(AppendError::Unreachable { .. })), "{outcome:?}");
    }
    nats.process().resume();
    // A reader of the log knows whether it has arrived, and can go on.
    within("the log goes on", async {
        loop {
            let Ok(last) = cluster.fabric.log.last_seq().await else { continue };
            if cluster.fabric.log.append(last, "again".into()).await.is_ok() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_a_full_log_is_told_and_goes_on_when_there_is_space() {
    for pair in [Pair::old(), Pair::new()] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = ControlConfig::new(dir.path().join("blobs"));
        options.log_bytes_max = Some(200_000);
        let cluster = Cluster::connect(&pair.config("node-1"), &options).await.unwrap();
        let (log, record) = (cluster.fabric.log, Bytes::from(vec![7; 50_000]));
        let mut last = LogSeq(0);
        let full = loop {
            match log.append(last, record.clone()).await {
                Ok(seq) => last = seq,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, AppendError::NoSpace { seq } if seq == last.next()), "{full}");
        assert_eq!(log.last_seq().await.unwrap(), last);
        log.trim(LogSeq(2)).await.unwrap();
        assert_eq!(log.append(last, record).await.unwrap(), last.next());
    }
}

/// Appends until `stop` says so, several at once, whatever happens; gives what was acknowledged.
async fn write(log: Arc<dyn Log>, mut stop: tokio::sync::watch::Receiver<bool>) -> BTreeMap<LogSeq, Bytes> {
    const IN_FLIGHT: usize = 8;
    let (mut acknowledged, mut number) = (BTreeMap::new(), 0u64);
    'leadership: while !*stop.borrow_and_update() {
        let Ok(mut last) = log.last_seq().await else { continue };
        let writer = log.writer();
        let mut appends = FuturesOrdered::new();
        while !*stop.borrow() {
            while appends.len() < IN_FLIGHT {
                number += 1;
                let record = Bytes::from(format!("record {number}"));
                let append = writer.append(last, record.clone());
                appends.push_back(async move { (append.await, record) });
                last = last.next();
            }
            match appends.next().await {
                Some((Ok(seq), record)) => assert_eq!(acknowledged.insert(seq, record), None),
                _ => continue 'leadership,
            }
        }
        while let Some((outcome, record)) = appends.next().await {
            if let Ok(seq) = outcome {
                assert_eq!(acknowledged.insert(seq, record), None);
            }
        }
    }
    acknowledged
}

/// Reads all of the log, and holds it against what was acknowledged.
async fn assert_nothing_is_lost(log: &dyn Log, acknowledged: &BTreeMap<LogSeq, Bytes>) {
    // The servers may still be looking for one that decides.
    let last = within("the end is read", async {
        loop {
            match log.last_seq().await {
                Err(LogError::Unreachable { .. }) => {}
                last => return last.unwrap(),
            }
        }
    })
    .await;
    let count = usize::try_from(last.0).unwrap();
    let records: Vec<_> = within("the log is read", log.tail(LogSeq(1)).take(count).collect()).await;
    let records: BTreeMap<LogSeq, Bytes> = records.into_iter().map(Result::unwrap).collect();
    for (seq, record) in acknowledged {
        assert_eq!(records.get(seq), Some(record), "record {seq} of {last}");
    }
    let mut seen: Vec<_> = records.values().collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "a record is there twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_a_server_that_is_killed_and_starts_again_loses_nothing() {
    for version in [NatsVersion::V2_9, NatsVersion::V2_15] {
        let mut nats = NatsServer::start(&NatsOptions::new(version));
        let etcd = EtcdServer::start(&EtcdOptions::new(EtcdVersion::V3_5));
        let (cluster, _dir) = control(&config(vec![nats.url()], vec![etcd.url()], "node-1")).await;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let writing = tokio::spawn(write(cluster.fabric.log.clone(), stopped));
        let mut tail = cluster.fabric.log.tail(LogSeq(1));
        let mut next = LogSeq(1);
        for _ in 0..3 {
            // A tail goes on through all of it, without a gap.
            for _ in 0..200 {
                let (seq, _) = within("the tail goes on", tail.next()).await.unwrap().unwrap();
                assert_eq!(seq, next);
                next = seq.next();
            }
            nats.kill();
            nats.restart();
        }
        within("the tail goes on", tail.next()).await.unwrap().unwrap();
        stop.send_replace(true);
        let acknowledged = within("the writer stops", writing).await.unwrap();
        assert!(acknowledged.len() > 400, "{} records", acknowledged.len());
        assert_nothing_is_lost(&*cluster.fabric.log, &acknowledged).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_one_of_three_servers_and_then_all_of_them_are_killed_and_nothing_is_lost() {
    let mut nats = NatsCluster::start(&NatsOptions::new(NatsVersion::V2_15));
    let etcd = EtcdServer::start(&EtcdOptions::new(EtcdVersion::V3_5));
    let (cluster, _dir) = control(&config(nats.urls(), vec![etcd.url()], "node-1")).await;
    assert_eq!(cluster.warnings(), <[String; 0]>::default());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writing = tokio::spawn(write(cluster.fabric.log.clone(), stopped));
    let mut tail = cluster.fabric.log.tail(LogSeq(1));
    let mut next = LogSeq(1);
    let mut read = async |count: usize| {
        for _ in 0..count {
            let (seq, _) = within("the tail goes on", tail.next()).await.unwrap().unwrap();
            assert_eq!(seq, next);
            next = seq.next();
        }
    };
    for index in 0..3 {
        read(100).await;
        nats.servers[index].kill();
        // Two go on without the third.
        read(100).await;
        nats.servers[index].restart();
        nats.wait_until_whole();
    }
    nats.servers.iter_mut().for_each(NatsServer::kill);
    std::thread::scope(|scope| {
        for server in &mut nats.servers {
            scope.spawn(|| server.restart());
        }
    });
    read(100).await;
    stop.send_replace(true);
    let acknowledged = within("the writer stops", writing).await.unwrap();
    assert_nothing_is_lost(&*cluster.fabric.log, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_a_log_that_is_gone_or_shorter_than_it_was_stops_everything() {
    let mut nats = NatsServer::start(&NatsOptions::new(NatsVersion::V2_15));
    let etcd = EtcdServer::start(&EtcdOptions::new(EtcdVersion::V3_5));
    let config = config(vec![nats.url()], vec![etcd.url()], "node-1");
    let (cluster, _dir) = control(&config).await;
    let log = cluster.fabric.log;
    for last in 0..5 {
        log.append(LogSeq(last), format!("record {last}").into()).await.unwrap();
    }
    nats.terminate();
    let (data, backup) = (nats.layout().dir.join("data"), nats.layout().dir.join("backup"));
    copy(&data, &backup);
    nats.restart();
    within("the log goes on", async { while log.append(LogSeq(5), "record 5".into()).await.is_err() {} }).await;
    let mut tail = log.tail(LogSeq(1));
    for seq in 1..=6 {
        assert_eq!(within("the tail goes on", tail.next()).await.unwrap().unwrap().0, LogSeq(seq));
    }

    // Restored from a backup that does not have record 6: every part that has seen it stops.
    nats.kill();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    nats.restart();
    let shorter = |error: LogError| assert!(matches!(error, LogError::Storage { .. }), "{error:?}");
    shorter(within("the end is read", storage(|| log.last_seq())).await);
    shorter(within("the tail notices", tail.next()).await.unwrap().unwrap_err());
    assert!(tail.next().await.is_none());
    // A process that begins now has not seen it, but others have left word.
    let (later, _dir) = control(&member(&config, "node-2")).await;
    let later = later.fabric.log;
    shorter(within("the end is read", storage(|| later.last_seq())).await);

    // Somebody has deleted the stream.
    let (context, _) = stream(&nats.url(), config.cluster.as_str()).await;
    context.delete_stream(format!("wasmill-{}-log", config.cluster)).await.unwrap();
    shorter(within("the end is read", storage(|| log.last_seq())).await);
    let dir = tempfile::tempdir().unwrap();
    let Err(error) = Cluster::connect(&config, &ControlConfig::new(dir.path().join("blobs"))).await else {
        panic!("a log that is gone was begun anew")
    };
    assert!(error.to_string().contains("is not the one it was"), "{error}");
}

/// The first error that is not about a server that cannot be reached.
async fn storage<F, T>(ask: impl Fn() -> F) -> LogError
where
    F: Future<Output = Result<T, LogError>>,
    T: std::fmt::Debug,
{
    loop {
        match ask().await {
            Err(LogError::Unreachable { .. }) => {}
            answer => return answer.unwrap_err(),
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_changed_to_lose_records_is_refused() {
    let pair = Pair::new();
    let config = pair.config("node-1");
    drop(control(&config).await);
    let (context, stream) = stream(&pair.nats.url(), config.cluster.as_str()).await;
    let mut changed = stream.cached_info().config.clone();
    changed.max_age = std::time::Duration::from_secs(3_600);
    context.update_stream(&changed).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let Err(error) = Cluster::connect(&config, &ControlConfig::new(dir.path().join("blobs"))).await else {
        panic!("a log that forgets was accepted")
    };
    assert_eq!(
        error.to_string(),
        format!(
            "stream `wasmill-{}-log` is configured to lose records: records are removed by their number or age",
            config.cluster
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_acknowledge_too_early_are_told() {
    let etcd = vec![Pair::new().etcd.url()];
    let lazy =
        NatsOptions { sync: wasmill_fabric_testing::SyncInterval::Default, ..NatsOptions::new(NatsVersion::V2_15) };
    let lazy = NatsServer::start(&lazy);
    for (nats, expected) in [
        (&Pair::new().nats, None),
        (&lazy, Some("set `sync_interval: always`")),
        (&Pair::old().nats, Some("use 2.10 or later")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = ControlConfig::new(dir.path().join("blobs"));
        if expected != Some("use 2.10 or later") {
            options.nats_monitors = vec![format!("127.0.0.1:{}", nats.layout().http_port)];
        }
        let cluster = Cluster::connect(&config(vec![nats.url()], etcd.clone(), "node-1"), &options).await.unwrap();
        match (cluster.warnings(), expected) {
            ([], None) => {}
            ([warning], Some(expected)) if warning.contains(expected) => {}
            (warnings, expected) => panic!("{warnings:?} instead of {expected:?}"),
        }
    }
}
