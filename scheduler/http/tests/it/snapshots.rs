//! Snapshots, copies of the read model and the trimmed log: whatever a start finds, it ends up with
//! the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use wasmill_protocol::{Digest, LogSeq};
use wasmill_record::snapshot::Current;
use wasmill_scheduler::driver::{DriverError, SnapshotConfig};
use wasmill_scheduler::sweep::Sweep;

use crate::restart::picture;
use crate::support::{Client, Server, TASK, open, until};

/// Snapshots every few records, and nothing is trimmed.
fn often() -> SnapshotConfig {
    SnapshotConfig { records: 8, copy_log_bytes: u64::MAX, ..SnapshotConfig::default() }
}

/// And copies of the read model every few kilobytes; what can be trimmed is.
fn trimming() -> SnapshotConfig {
    SnapshotConfig { records: 8, copy_log_bytes: 4096, copy_percent: 0, keep_records: 0, ..SnapshotConfig::default() }
}

/// A server that has seen something of everything, and its tasks.
struct Scene {
    server: Server,
    tenant: Client,
    tasks: Vec<Value>,
}

impl Scene {
    async fn play(snapshots: SnapshotConfig) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let server = Server::start_keeping(dir, snapshots, |_| {}).await;
        let tenant = server.tenant("acme", "tenant_admin").await;
        server.tenant("gone", "submit").await;
        assert_eq!(server.admin.delete("/v1/tenants/gone").await.status, 204);
        let mut scene = Self { server, tenant, tasks: Vec::new() };
        for round in 0..12 {
            scene.round(round).await;
        }
        scene
    }

    async fn round(&mut self, round: u64) {
        for client in [&self.server.admin, &self.tenant] {
            let digest = self.server.upload(client, TASK).await;
            client.put(&format!("/v1/aliases/app-{round}"), &json!({"digest": digest})).await;
            let labels = json!({"round": round.to_string()});
            for input in ["echo", "big", "fail"] {
                let task = json!({"module": digest, "input_text": input, "labels": labels, "attempts_max": 1});
                let task = client.submit(task).await;
                client.ended(&task["id"]).await;
                self.tasks.push(task["id"].clone());
            }
            let later = json!({"module": digest, "delay_ms": 3_600_000, "priority": round});
            self.tasks.push(client.submit(later.clone()).await["id"].clone());
            let cancelled = client.submit(later).await;
            let path = format!("/v1/tasks/{}/cancel", cancelled["id"].as_str().unwrap());
            assert_eq!(client.post(&path, &json!({})).await.status, 200);
            self.tasks.push(cancelled["id"].clone());
        }
    }

    async fn picture(&self) -> Vec<(String, u16, Vec<u8>)> {
        let queue = self.server.admin.get("/v1/status").await.json()["queue"].to_string();
        let mut picture = picture(&self.server, &[&self.server.admin, &self.tenant], &self.tasks).await;
        picture.push(("queue".to_owned(), 200, queue.into_bytes()));
        picture
    }

    /// The same server after a stop, and after `change` to its data. It shows the same.
    async fn restarted(self, snapshots: SnapshotConfig, change: impl FnOnce(&Path)) -> Self {
        let before = self.picture().await;
        let Self { server, tenant, tasks } = self;
        let dir = server.stop().await;
        free(dir.path()).await;
        change(dir.path());
        let server = Server::start_keeping(dir, snapshots, |_| {}).await;
        let tenant = Client::new(server.address, &tenant.token);
        let after = Self { server, tenant, tasks };
        for (before, after) in before.iter().zip(after.picture().await) {
            let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
            assert_eq!((before.1, text(&before.2)), (after.1, text(&after.2)), "{}", before.0);
        }
        after
    }

    fn current(&self) -> Current {
        self.server.handle.shared().directory.read().current.clone()
    }

    async fn first(&self) -> LogSeq {
        self.server.fabric.log.first_seq().await.unwrap()
    }

    /// Waits until two snapshots and a copy count, and the log begins after what they have.
    async fn trimmed(&self) {
        until("the log is trimmed", async || {
            let to = self.current().trimmable_to();
            to.is_some_and(|to| to > LogSeq(20)) && Some(LogSeq(self.first().await.0 - 1)) == to
        })
        .await;
    }
}

/// Waits until nobody has the directory.
async fn free(dir: &Path) {
    until("the data directory is free", async || wasmill_fabric::embedded::open(dir).is_ok()).await;
}

fn blob(dir: &Path, digest: Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    dir.join("blobs").join(&hex[..2]).join(hex)
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn remove_read_model(dir: &Path) {
    for file in ["read-model.sqlite", "read-model.sqlite-wal", "read-model.sqlite-shm"] {
        let _ = std::fs::remove_file(dir.join(file));
    }
}

/// The error of a driver that starts on these data.
async fn refused(dir: &TempDir) -> DriverError {
    let (driver, _handle, _ground) = open(dir.path(), often()).await;
    driver.run(CancellationToken::new()).await.unwrap_err()
}

#[tokio::test]
async fn f32_a_start_from_a_snapshot_equals_one_from_the_whole_log() {
    let scene = Scene::play(often()).await;
    until("two snapshots are named", async || scene.current().snapshots.len() == 2).await;
    let snapshots = scene.current().snapshots;
    assert!(snapshots[0].seq > LogSeq(8) && scene.first().await == LogSeq(1));
    let scene = scene.restarted(often(), |_| {}).await;
    let scene = scene.restarted(often(), remove_read_model).await;
    // Without any of them there is still the whole log.
    let all = scene.current().snapshots;
    let scene = scene.restarted(often(), |dir| all.iter().for_each(|taken| damage(&blob(dir, taken.digest)))).await;
    until("a new one is taken", async || scene.current().newest().unwrap().seq > all[1].seq).await;
    scene.restarted(often(), |_| {}).await;
}

#[tokio::test]
async fn a_trimmed_log_loses_nothing_and_a_read_model_comes_back_from_its_copy() {
    let scene = Scene::play(trimming()).await;
    scene.trimmed().await;
    let first = scene.first().await;
    let scene = scene.restarted(trimming(), |_| {}).await;
    let scene = scene.restarted(trimming(), remove_read_model).await;
    // And goes on from there.
    let mut scene = scene;
    for round in 50..56 {
        scene.round(round).await;
    }
    until("more is trimmed", async || scene.first().await > first).await;
    scene.restarted(trimming(), remove_read_model).await;
}

#[tokio::test]
async fn a_damaged_or_missing_newest_snapshot_costs_a_longer_start() {
    let scene = Scene::play(trimming()).await;
    scene.trimmed().await;
    let newest = *scene.current().newest().unwrap();
    let scene = scene.restarted(often(), |dir| damage(&blob(dir, newest.digest))).await;
    let newest = *scene.current().newest().unwrap();
    scene.restarted(often(), |dir| std::fs::remove_file(blob(dir, newest.digest)).unwrap()).await;
}

#[tokio::test]
async fn f23_a_record_after_a_snapshot_that_was_changed_or_is_missing_halts_and_is_named() {
    let scene = Scene::play(often()).await;
    until("a snapshot is named", async || scene.current().newest().is_some()).await;
    let server = scene.server;
    let dir = server.stop().await;
    free(dir.path()).await;
    // The newest that the log names at its end: what follows it is all that a start folds.
    let (driver, handle, fabric) = open(dir.path(), often()).await;
    let last = fabric.log.last_seq().await.unwrap();
    let (stop, reading) = (CancellationToken::new(), handle.shared().standing.subscribe());
    let running = tokio::spawn(driver.run(stop.clone()));
    reading.clone().wait_for(|standing| standing.leading).await.unwrap();
    let newest = handle.shared().directory.read().current.newest().unwrap().seq;
    stop.cancel();
    running.await.unwrap().unwrap();
    drop((handle, fabric));
    free(dir.path()).await;
    assert!(newest < last);

    let sql = |statement: &str, seq: LogSeq| {
        let log = rusqlite::Connection::open(dir.path().join("log.sqlite")).unwrap();
        assert_eq!(log.execute(statement, [seq.0.cast_signed()]).unwrap(), 1);
    };
    let after = newest.next();
    let saved = rusqlite::Connection::open(dir.path().join("log.sqlite"))
        .unwrap()
        .query_row("SELECT bytes FROM record WHERE seq = ?1", [after.0.cast_signed()], |row| row.get::<_, Vec<u8>>(0))
        .unwrap();
    sql("UPDATE record SET bytes = (SELECT bytes FROM record WHERE seq = 1) WHERE seq = ?1", after);
    let error = refused(&dir).await;
    assert!(matches!(error, DriverError::Chain { seq } if seq == after), "{error:?}");
    sql("DELETE FROM record WHERE seq = ?1", after);
    let error = refused(&dir).await.to_string();
    let source = format!("{:?}", refused(&dir).await);
    assert!(source.contains(&format!("LogSeq({})", after.0)), "{error}: {source}");
    let log = rusqlite::Connection::open(dir.path().join("log.sqlite")).unwrap();
    log.execute("INSERT INTO record (seq, bytes) VALUES (?1, ?2)", (after.0.cast_signed(), saved)).unwrap();
    drop(log);
    drop(Server::start_keeping(dir, often(), |_| {}).await);
}

#[tokio::test]
async fn f23_a_trimmed_log_without_any_snapshot_halts_and_names_what_is_missing() {
    let scene = Scene::play(trimming()).await;
    scene.trimmed().await;
    let dir = scene.server.stop().await;
    free(dir.path()).await;
    // Whichever were taken last: all blobs are gone.
    std::fs::remove_dir_all(dir.path().join("blobs")).unwrap();
    let error = refused(&dir).await;
    let text = error.to_string();
    let DriverError::SnapshotUnusable { digest, seq, first, .. } = error else { panic!("{error:?}") };
    assert!(first > LogSeq(1) && seq.next() >= first, "record {first} follows the snapshot of {seq}, or is in it");
    for named in [&digest.to_string(), &first.to_string(), "restore"] {
        assert!(text.contains(named), "{text}");
    }
}

#[tokio::test]
async fn the_sweep_keeps_what_a_start_needs_and_nothing_else() {
    let scene = Scene::play(trimming()).await;
    scene.trimmed().await;
    let blobs = |dir: &Path| -> BTreeSet<PathBuf> {
        let shards = std::fs::read_dir(dir.join("blobs")).unwrap().map(|shard| shard.unwrap());
        let shards = shards.filter(|shard| shard.file_name() != "tmp");
        shards.flat_map(|shard| std::fs::read_dir(shard.path()).unwrap()).map(|blob| blob.unwrap().path()).collect()
    };
    let dir = scene.server.dir.path().to_owned();
    let before = blobs(&dir);
    let retention = Duration::from_secs(3_600);
    let mut sweep = Sweep::new(retention);
    sweep.once(&scene.server.handle, Duration::ZERO).await;
    sweep.once(&scene.server.handle, Duration::from_secs(3_599)).await;
    // A snapshot or a copy that was under way may have come meanwhile, so it is asked what is
    // missing.
    let gone: Vec<PathBuf> = before.difference(&blobs(&dir)).cloned().collect();
    assert!(gone.is_empty(), "the records that refer to them may be on their way: {gone:?}");
    sweep.once(&scene.server.handle, Duration::from_secs(3_600)).await;
    let current = scene.current();
    let kept = current.snapshots.iter().map(|taken| taken.digest).chain(current.read_model.map(|copy| copy.digest));
    for digest in kept {
        assert!(blob(&dir, digest).exists(), "{digest} is needed");
    }
    // A module, the large results of one round after the other, two snapshots and a copy.
    let left = blobs(&dir).len();
    assert!(left < before.len() && left <= 1 + 1 + 3 + 1, "{left} of {} are left", before.len());
    let scene = scene.restarted(often(), remove_read_model).await;
    // A task that is in the copy and past its retention goes again.
    Sweep::new(Duration::ZERO).once(&scene.server.handle, Duration::ZERO).await;
    let listed = scene.server.admin.get("/v1/tasks?state=succeeded").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(0), "{listed}");
}
