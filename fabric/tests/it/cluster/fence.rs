//! A writer that has lost its place appends nothing, whatever it has sent already, and the log goes
//! on.

use async_nats::header::NATS_EXPECTED_LAST_MESSAGE_ID;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use wasmill_fabric::cluster::{Cluster, ClusterConfig, ControlConfig};
use wasmill_fabric::{AppendError, Log};
use wasmill_fabric_testing::{NatsCluster, NatsOptions, NatsVersion, Proxy};
use wasmill_protocol::LogSeq;

use super::servers::{Pair, behind, config, control, member};
use crate::conformance::within;

/// Records before anything goes wrong.
const BEFORE: u64 = 20;

/// Appends that are called, and on their way where several are at once, when another writer takes
/// the place of the first of them. To the second the log seems to end where it should.
async fn check(config: &ClusterConfig, nats_port: u16) {
    let proxy = Proxy::start(nats_port);
    let (stale, _dir) = control(&behind(&member(config, "stale"), &proxy)).await;
    let (current, _dir) = control(&member(config, "current")).await;
    let (stale, current) = (stale.fabric.log, current.fabric.log);
    let writer = stale.writer();
    // Until the writer knows how many servers keep the stream.
    for last in 0..BEFORE {
        assert_eq!(writer.append(LogSeq(last), "before".into()).await.unwrap(), LogSeq(last + 1));
    }

    proxy.hold_requests();
    let late = |last: u64| writer.append(LogSeq(last), format!("stale {last}").into());
    let sent: Vec<_> = (BEFORE..BEFORE + 6).map(late).collect();
    assert_eq!(current.append(LogSeq(BEFORE), "current".into()).await.unwrap(), LogSeq(BEFORE + 1));
    proxy.pass();
    for outcome in within("the stale appends have an outcome", join_all(sent)).await {
        assert!(matches!(outcome, Err(AppendError::Conflict { .. })), "{outcome:?}");
    }
    // One that would follow the record of the other, by a caller that has not heard yet.
    let outcome = within("the next has an outcome", late(BEFORE + 1)).await;
    assert!(matches!(outcome, Err(AppendError::Conflict { .. })), "{outcome:?}");

    // And nothing of it comes later.
    assert_eq!(current.append(LogSeq(BEFORE + 1), "after".into()).await.unwrap(), LogSeq(BEFORE + 2));
    assert_eq!(read(&*current, BEFORE, 2).await, ["current", "after"]);
    assert_eq!(current.last_seq().await.unwrap(), LogSeq(BEFORE + 2));
}

/// The records after one.
async fn read(log: &dyn Log, after: u64, count: usize) -> Vec<Bytes> {
    let records = log.tail(LogSeq(after + 1)).take(count).map(|record| record.unwrap().1).collect();
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
async fn f05_appends_of_a_stale_writer_are_all_refused_by_three_servers() {
    for version in [NatsVersion::V2_9, NatsVersion::V2_15] {
        let nats = NatsCluster::start(&NatsOptions::new(version));
        // Each server is once the one that the stale writer is connected to, so it is once the
        // stream's leader and twice not.
        for server in &nats.servers {
            let config = config(nats.urls(), vec![Pair::new().etcd.url()], "any");
            check(&config, server.layout().port).await;
        }
    }
}

/// A writer that has read further than it expects the log to end does not even ask: the log might
/// have lost the records, and would take the append.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_is_known_to_be_taken_is_not_asked_for() {
    let pair = Pair::new();
    let config = pair.config("any");
    let proxy = Proxy::start(pair.nats.layout().port);
    let (stale, _dir) = control(&behind(&member(&config, "stale"), &proxy)).await;
    let (current, _dir) = control(&member(&config, "current")).await;
    let writer = stale.fabric.log.writer();
    assert_eq!(current.fabric.log.append(LogSeq(0), "current".into()).await.unwrap(), LogSeq(1));
    assert_eq!(read(&*stale.fabric.log, 0, 1).await, ["current"]);
    proxy.hold_requests();
    for last in [0, 1] {
        let outcome = writer.append(LogSeq(last), "stale".into()).await;
        assert!(matches!(outcome, Err(AppendError::Conflict { last: LogSeq(1), .. })), "{outcome:?}");
    }
}

/// An append that names its predecessor would stop a stream that several servers keep, so none is
/// sent once they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_a_stream_that_more_servers_keep_gets_one_append_at_a_time() {
    let nats = NatsCluster::start(&NatsOptions::new(NatsVersion::V2_15));
    let config = config(nats.urls(), vec![Pair::new().etcd.url()], "node-1");
    let dir = tempfile::tempdir().unwrap();
    let mut options = ControlConfig::new(dir.path().join("blobs"));
    options.replicas = Some(1);
    let log = Cluster::connect(&config, &options).await.unwrap().fabric.log;
    let context = async_nats::jetstream::new(async_nats::connect(nats.urls()).await.unwrap());
    let stream = context.get_stream(format!("wasmill-{}-log", config.cluster)).await.unwrap();
    // Whether the second of two appends is sent behind the first: it names it then.
    let (mut last, writer) = (LogSeq(0), log.writer());
    let mut pipelines = async || {
        let appends = [(last, "first"), (last.next(), "second")].map(|(last, text)| writer.append(last, text.into()));
        let appended = within("two appends", join_all(appends)).await;
        last = appended.into_iter().map(Result::unwrap).max().unwrap();
        let read = async {
            loop {
                // While the replicas change nobody may answer.
                if let Ok(stored) = stream.get_raw_message(last.0).await {
                    return stored;
                }
            }
        };
        let second = within("the second append", read).await;
        assert_eq!(second.payload, "second");
        second.headers.get(NATS_EXPECTED_LAST_MESSAGE_ID).is_some()
    };
    within("it is known", async { while !pipelines().await {} }).await;

    for (replicas, expected) in [(3, false), (1, true)] {
        let mut changed = stream.cached_info().config.clone();
        changed.num_replicas = replicas;
        context.update_stream(&changed).await.unwrap();
        within("it is noticed", async { while pipelines().await != expected {} }).await;
    }
}

/// Two expect the same end of the log, again and again, while the servers hand the stream to one
/// another: a wrong sequence is never the end of the stream, whenever it is found. Not with 2.9,
/// which can stop in this until it is told to hand the stream on once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_one_of_two_writers_has_the_place_whichever_server_decides() {
    let nats = NatsCluster::start(&NatsOptions::new(NatsVersion::V2_15));
    let config = config(nats.urls(), vec![Pair::new().etcd.url()], "any");
    let ((one, _dir), (two, _other_dir)) =
        (control(&member(&config, "one")).await, control(&member(&config, "two")).await);
    let logs = [("one", one.fabric.log), ("two", two.fabric.log)];
    let operator = async_nats::connect(nats.urls()).await.unwrap();
    let step_down = format!("$JS.API.STREAM.LEADER.STEPDOWN.wasmill-{}-log", config.cluster);
    let mut records = Vec::new();
    for round in 0..60 {
        if round % 12 == 6 {
            operator.publish(step_down.clone(), Bytes::new()).await.unwrap();
        }
        let last = records.len() as u64;
        let races = logs.iter().map(|(name, log)| async move {
            let writer = log.writer();
            let appends =
                (0..3).map(|later| writer.append(LogSeq(last + later), format!("{name} {round} {later}").into()));
            let outcomes = join_all(appends.collect::<Vec<_>>()).await;
            (*name, outcomes.iter().all(Result::is_ok), outcomes)
        });
        let outcomes = within("the race has an outcome", join_all(races)).await;
        let winners: Vec<_> = outcomes.iter().filter(|(_, won, _)| *won).map(|(name, ..)| *name).collect();
        let [winner] = winners[..] else { panic!("{outcomes:?}") };
        records.extend((0..3).map(|later| format!("{winner} {round} {later}")));
    }
    assert_eq!(read(&*logs[0].1, 0, records.len()).await, records);
}
