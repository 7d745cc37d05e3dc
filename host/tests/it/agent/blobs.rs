//! Bytes that are too large for a message travel as a blob, both ways.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use futures::stream::BoxStream;
use wasmill_fabric::blobs::BlobReader;
use wasmill_fabric::{BlobError, BlobStat, BlobWriter, Blobs};
use wasmill_protocol::limits::INLINE_BYTES_MAX;
use wasmill_protocol::message::{Assignment, Report};
use wasmill_protocol::{Digest, OutcomeKind, Payload, TaskSpec};

use super::world::{Heard, Setup, World, id};

/// Blobs of another machine: nothing is a file here.
struct Remote {
    blobs: Arc<dyn Blobs>,
    /// To read this one never ends.
    stuck: Option<Digest>,
    /// To store this many bytes never ends.
    stuck_bytes: Option<usize>,
    /// There is no space for results, which are all sevens, until this is set to `false`.
    full: Arc<AtomicBool>,
}

impl Blobs for Remote {
    fn create(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>, BlobError>> {
        self.blobs.create()
    }

    fn put(&self, bytes: Bytes) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        if self.stuck_bytes == Some(bytes.len()) {
            return pending().boxed();
        }
        if self.full.load(Ordering::Relaxed) && bytes.starts_with(&[7]) {
            let refused = BlobError::NoSpace { action: "store a blob".into() };
            return async { Err(refused) }.boxed();
        }
        self.blobs.put(bytes)
    }

    fn read(&self, digest: Digest, bytes_max: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        if self.stuck == Some(digest) { pending().boxed() } else { self.blobs.read(digest, bytes_max) }
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        self.blobs.open(digest)
    }

    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        self.blobs.stat(digest)
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        self.blobs.delete(digest)
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>> {
        self.blobs.list()
    }

    fn local_path(&self, _digest: Digest) -> Option<PathBuf> {
        None
    }
}

fn remote(stuck: Option<Digest>) -> Setup {
    let mut setup = Setup::new();
    setup.blobs = Arc::new(Remote { blobs: Arc::clone(&setup.blobs), stuck, stuck_bytes: None, full: Arc::default() });
    setup
}

/// An attempt whose payload is a blob.
fn with_input(world: &World, number: u64, input: Payload) -> Assignment {
    let spec = TaskSpec { module: world.module, input, ..TaskSpec::default() };
    Assignment { id: id(number), spec: Arc::new(spec), ..Assignment::default() }
}

fn output(heard: &Heard, number: u64) -> &Payload {
    let Some(Report::Ended { output, .. }) = heard.end(number) else { panic!("{number} has no result: {heard:?}") };
    output
}

fn fault(heard: &Heard, number: u64) -> String {
    let Some(Report::Ended { outcome, .. }) = heard.end(number) else { panic!("{number} has not ended: {heard:?}") };
    assert_eq!(outcome.kind, OutcomeKind::HostFault);
    outcome.message.clone()
}

#[tokio::test]
async fn results_over_the_inline_size_become_blobs() {
    let world = Setup::new().start().await;
    let sizes = [INLINE_BYTES_MAX - 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1];
    let assign = sizes.iter().zip(1..).map(|(size, number)| world.assignment(number, &format!("bytes {size}")));
    world.assign(assign.collect()).await;
    world.assign(vec![world.assignment(4, &format!("capture {}", INLINE_BYTES_MAX + 1))]).await;
    let heard = world.until("all ends", |heard| heard.reports.len() == 4).await;
    for (number, size) in [1, 2].into_iter().zip(sizes) {
        assert_eq!(output(&heard, number), &Payload::Inline(vec![7; size as usize].into()));
    }
    let Payload::Blob { digest, bytes } = output(&heard, 3) else { panic!("{heard:?}") };
    assert_eq!(*bytes, INLINE_BYTES_MAX + 1);
    assert_eq!(world.setup.blobs.read(*digest, *bytes).await.unwrap(), vec![7; *bytes as usize]);
    let Some(Report::Ended { captured, output: Payload::Empty, .. }) = heard.end(4) else { panic!("{heard:?}") };
    assert_eq!(captured, output(&heard, 3));
    world.shut_down().await;
}

#[tokio::test]
async fn payloads_and_checkpoints_are_fetched() {
    let world = remote(None).start().await;
    let text = format!("echo {}", "long ".repeat(20_000));
    let stat = world.setup.blobs.put(Bytes::from(text.clone())).await.unwrap();
    let input = Payload::Blob { digest: stat.digest, bytes: stat.bytes };
    let mut resumed = world.assignment(2, "checkpoint");
    resumed.checkpoint = input.clone();
    let mut small = world.assignment(3, "checkpoint");
    small.checkpoint = Payload::inline(Bytes::from_static(b"state"));
    world.assign(vec![with_input(&world, 1, input), resumed, small]).await;
    let heard = world.until("all ends", |heard| heard.reports.len() == 3).await;
    let blob = |text: &str| Payload::Blob { digest: Digest::default(), bytes: text.len() as u64 };
    assert_eq!(output(&heard, 1).byte_count(), blob(&text["echo ".len()..]).byte_count());
    assert_eq!(output(&heard, 2).blob(), Some(stat.digest));
    assert_eq!(output(&heard, 3), &Payload::Inline(Bytes::from_static(b"state")));
    world.shut_down().await;
}

#[tokio::test]
async fn a_missing_or_damaged_blob_is_our_fault() {
    let world = remote(None).start().await;
    let missing = Digest([9; 32]);
    let no_input = with_input(&world, 1, Payload::Blob { digest: missing, bytes: 100 });
    let mut no_checkpoint = world.assignment(2, "checkpoint");
    no_checkpoint.checkpoint = Payload::Blob { digest: missing, bytes: 100 };
    let spec = TaskSpec { module: missing, ..TaskSpec::default() };
    let no_module = Assignment { id: id(3), spec: Arc::new(spec), ..Assignment::default() };
    // More bytes than its task says: whoever told us that, it is not what was submitted.
    let wrong_size = with_input(&world, 4, Payload::Blob { digest: world.module, bytes: 3 });
    world.assign(vec![no_input, no_checkpoint, no_module, wrong_size]).await;
    let heard = world.until("all ends", |heard| heard.reports.len() == 4).await;
    assert_eq!(fault(&heard, 1), format!("cannot fetch the payload: there is no blob {missing}"));
    assert_eq!(fault(&heard, 2), format!("cannot fetch the checkpoint: there is no blob {missing}"));
    assert_eq!(fault(&heard, 3), format!("cannot fetch module {missing}: there is no blob {missing}"));
    assert!(fault(&heard, 4).ends_with("has 8 bytes, over the limit of 3"), "{}", fault(&heard, 4));
    assert_eq!(heard.started, []);
    world.shut_down().await;
}

/// F26 of the hostile inputs, seen from a host.
#[tokio::test]
async fn f26_results_wait_for_space_and_what_needs_none_goes_on() {
    let mut setup = Setup { slots: 4, ..Setup::new() };
    let full = Arc::new(AtomicBool::new(true));
    let blobs = Arc::clone(&setup.blobs);
    setup.blobs = Arc::new(Remote { blobs, stuck: None, stuck_bytes: None, full: Arc::clone(&full) });
    let world = setup.start().await;
    let large = INLINE_BYTES_MAX + 1;
    let tasks = [format!("bytes {large}"), format!("capture {large}"), format!("save {large}"), "echo x".to_owned()];
    world.assign(tasks.iter().zip(1..).map(|(task, number)| world.assignment(number, task)).collect()).await;
    let heard = world.until("the ends of 3 and 4", |heard| heard.end(3).is_some() && heard.end(4).is_some()).await;
    assert!(heard.end(1).is_none() && heard.end(2).is_none(), "they have nothing to end with");
    full.store(false, Ordering::Relaxed);
    let heard = world.until("all ends", |heard| (1..=4).all(|number| heard.end(number).is_some())).await;
    assert_eq!([1, 2, 4].map(|number| heard.kind(number)), [Some(OutcomeKind::Succeeded); 3]);
    // A checkpoint that cannot be stored is none; the attempt itself goes on.
    assert_eq!(heard.kind(3), Some(OutcomeKind::Succeeded));
    let checkpoints = heard.reports.iter().filter(|report| matches!(report, Report::Checkpoint { .. }));
    assert!(checkpoints.eq([&Report::Checkpoint {
        id: id(3),
        number: 2,
        data: Payload::Inline(Bytes::from_static(b"second")),
    }]));
    world.shut_down().await;
}

/// B38: what one tenant has to store keeps nobody else waiting, neither what is small nor what is
/// to be stored too.
#[tokio::test]
async fn stores_of_one_tenant_leave_room_for_others() {
    let mut setup = Setup { slots: 32, ..Setup::new() };
    let blobs = Arc::clone(&setup.blobs);
    setup.blobs = Arc::new(Remote { blobs, stuck: None, stuck_bytes: Some(40_000), full: Arc::default() });
    let world = setup.start().await;
    let greedy = |number: u64, what: &str| {
        let assignment = world.assignment(number, what);
        let spec = TaskSpec { tenant: "greedy".parse().unwrap(), ..TaskSpec::clone(&assignment.spec) };
        Assignment { spec: Arc::new(spec), ..assignment }
    };
    world.assign((1..=20).map(|number| greedy(number, "bytes 40000")).collect()).await;
    world.until("all have run", |heard| heard.started.len() == 20).await;
    world.assign(vec![world.assignment(21, "echo x"), world.assignment(22, "bytes 50000")]).await;
    let heard = world.until("both end", |heard| heard.end(21).is_some() && heard.end(22).is_some()).await;
    assert_eq!((output(&heard, 22).byte_count(), heard.reports.len()), (50_000, 2));
}

#[tokio::test]
async fn a_guest_hears_that_its_large_checkpoint_is_taken() {
    let world = Setup::new().start().await;
    world.assign(vec![world.assignment(1, "save 40000"), world.assignment(2, "save 4000")]).await;
    let heard = world.until("both end", |heard| heard.end(1).is_some() && heard.end(2).is_some()).await;
    assert_eq!(heard.taken, [id(1)]);
    world.shut_down().await;
}

#[tokio::test]
async fn a_module_is_copied_once_and_found_again_by_the_next_life() {
    let world = remote(None).start().await;
    world.assign((1..=20).map(|number| world.assignment(number, "where")).collect()).await;
    let heard = world.until("all ends", |heard| heard.reports.len() == 20).await;
    let copy = world.setup.dir.path().join("host/modules").join(world.module.hex()).with_extension("wasm");
    for number in 1..=20 {
        let said = format!("where at {}", copy.display());
        assert_eq!(output(&heard, number), &Payload::Inline(said.into()));
    }
    assert_eq!(std::fs::read(&copy).unwrap(), b"a module");
    let module = world.module;
    let mut setup = world.shut_down().await;
    // The next life cannot fetch it, and need not.
    setup.blobs = Arc::new(Remote {
        blobs: Arc::clone(&setup.blobs),
        stuck: Some(module),
        stuck_bytes: None,
        full: Arc::default(),
    });
    let world = setup.start().await;
    world.assign(vec![world.assignment(1, "where")]).await;
    world.until("the end of 1", |heard| heard.kind(1) == Some(OutcomeKind::Succeeded)).await;
    world.shut_down().await;
}

#[tokio::test]
async fn an_attempt_whose_payload_is_on_its_way_can_be_cancelled() {
    let stuck = Digest([8; 32]);
    let world = Setup { slots: 1, ..remote(Some(stuck)) }.start().await;
    world.assign(vec![with_input(&world, 1, Payload::Blob { digest: stuck, bytes: 1 })]).await;
    world.cancel(1).await;
    let heard = world.until("the end of 1", |heard| heard.end(1).is_some()).await;
    assert_eq!((heard.kind(1), heard.started.len()), (Some(OutcomeKind::Cancelled), 0));
    world.assign(vec![world.assignment(2, "echo x")]).await;
    world.until("the end of 2", |heard| heard.end(2).is_some()).await;
    world.shut_down().await;
}

#[tokio::test]
async fn checkpoints_keep_their_order_though_large_ones_take_longer() {
    let world = Setup::new().start().await;
    world.assign(vec![world.assignment(1, "save 1000000")]).await;
    let heard = world.until("the end of 1", |heard| heard.end(1).is_some()).await;
    let told: Vec<_> = heard
        .reports
        .iter()
        .map(|report| match report {
            Report::Checkpoint { number, data, .. } => (*number, data.byte_count()),
            _ => (0, 0),
        })
        .collect();
    // Whether the first was sent before the second took its place is up to timing, the order is
    // not.
    assert!(told.ends_with(&[(2, 6), (0, 0)]), "{told:?}");
    assert!(told.len() == 2 || told == [(1, 1_000_000), (2, 6), (0, 0)], "{told:?}");
    world.shut_down().await;
}
