//! Results that are known already: what a deterministic computation gave is given again to whoever
//! of the same tenant asks the same.
//!
//! The question is everything that the guest can see of the world: module, payload, its own name,
//! arguments, environment, limits, seed, and the bounds of what it may write. That is checked and
//! not believed: the sandbox says of each result whether its guest has learnt anything beyond that
//! ([`Ended::repeatable`]), and only those are kept. The engine is not part of the question because
//! it is this process's own, like what is kept here.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use wasmill_protocol::limits::Caps;
use wasmill_protocol::message::Assignment;
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::{AttemptId, Digest, Limits, Outcome, Payload, TaskSpec, TenantName, Timestamp, Usage};

use crate::channel::Ended;
use crate::lru::{Lru, LruBounds};

/// The memory of an entry beside its bytes.
const ENTRY_BYTES: u64 = 512;
/// A result is not kept when it alone would take more than this part of the whole.
const ENTRIES_MIN: u64 = 8;

/// How much is kept of results; nothing when either is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultCacheBounds {
    /// Results.
    pub results_max: usize,
    /// Bytes of all of them.
    pub bytes_max: u64,
}

impl Default for ResultCacheBounds {
    fn default() -> Self {
        Self { results_max: 10_000, bytes_max: 64 * 1024 * 1024 }
    }
}

/// The results that are known.
#[derive(Debug)]
pub(super) struct ResultCache {
    bounds: ResultCacheBounds,
    captured_bytes_max: u64,
    checkpoint_bytes_max: u64,
    results: Lru<ResultKey, CachedResult>,
    /// Attempts that run and whose result may be kept: at most one for each slot.
    asking: BTreeMap<AttemptId, ResultKey>,
}

/// SHA-256 over all that a result can depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ResultKey(Digest);

/// The fields that [`ResultKey`] is the hash of.
#[derive(Serialize)]
struct ResultKeyFields<'a> {
    tenant: &'a TenantName,
    tenant_since: Timestamp,
    module: Digest,
    kind: ModuleKind,
    input: Digest,
    program: &'a str,
    args: &'a [String],
    env: &'a BTreeMap<String, String>,
    ok_exit: &'a [u8],
    limits: Limits,
    seed: u64,
    captured_bytes_max: u64,
    checkpoint_bytes_max: u64,
}

#[derive(Debug)]
struct CachedResult {
    outcome: Outcome,
    usage: Usage,
    output: Bytes,
    captured: Bytes,
}

impl ResultCache {
    pub(super) fn new(bounds: ResultCacheBounds, caps: &Caps) -> Self {
        let lru = LruBounds { entries: bounds.results_max, bytes: bounds.bytes_max };
        Self {
            bounds,
            captured_bytes_max: caps.captured_bytes,
            checkpoint_bytes_max: caps.checkpoint_bytes,
            results: Lru::new(lru),
            asking: BTreeMap::new(),
        }
    }

    /// The end of an attempt whose result is known; else it is to be run, and its result may be
    /// kept.
    pub(super) fn ask(&mut self, assignment: &Assignment) -> Option<Ended> {
        let question = self.question(assignment)?;
        let Some(kept) = self.results.get(question) else {
            self.asking.insert(assignment.id, question);
            return None;
        };
        Some(Ended {
            id: assignment.id,
            tenant: assignment.spec.tenant.clone(),
            outcome: kept.outcome.clone(),
            usage: Usage { cached: true, ..kept.usage },
            output: kept.output.clone(),
            captured: kept.captured.clone(),
            repeatable: true,
        })
    }

    /// An attempt has ended; its result is kept if it can be given to another.
    pub(super) fn learn(&mut self, ended: &Ended) {
        let Some(question) = self.asking.remove(&ended.id) else { return };
        if !ended.repeatable {
            return;
        }
        let bytes = ENTRY_BYTES + (ended.output.len() + ended.captured.len() + ended.outcome.message.len()) as u64;
        if bytes > self.bounds.bytes_max / ENTRIES_MIN {
            return;
        }
        // Copied, because a guest's buffer can be larger than what is in it.
        let kept = CachedResult {
            outcome: ended.outcome.clone(),
            usage: ended.usage,
            output: Bytes::copy_from_slice(&ended.output),
            captured: Bytes::copy_from_slice(&ended.captured),
        };
        self.results.insert(question, bytes, kept);
    }

    /// An attempt has ended without having run.
    pub(super) fn forget(&mut self, id: AttemptId) {
        self.asking.remove(&id);
    }

    /// The key of an assignment, if its result can be known. A seed that is drawn from the task's
    /// id is the task's own, and so is what follows from it; and what an attempt does with a
    /// checkpoint is the continuation of something else.
    fn question(&self, assignment: &Assignment) -> Option<ResultKey> {
        let spec: &TaskSpec = &assignment.spec;
        let seed = spec.seed.filter(|_| spec.deterministic)?;
        if assignment.checkpoint != Payload::Empty || self.bounds.results_max == 0 || self.bounds.bytes_max == 0 {
            return None;
        }
        let input = match &spec.input {
            Payload::Empty => Digest(Sha256::digest([]).into()),
            Payload::Inline(bytes) => Digest(Sha256::digest(bytes).into()),
            Payload::Blob { digest, .. } => *digest,
        };
        let asked = ResultKeyFields {
            tenant: &spec.tenant,
            tenant_since: assignment.tenant_since,
            module: spec.module,
            kind: spec.kind,
            input,
            program: spec.program(),
            args: &spec.args,
            env: &spec.env,
            ok_exit: spec.ok_exit(),
            limits: spec.limits,
            seed,
            captured_bytes_max: self.captured_bytes_max,
            checkpoint_bytes_max: self.checkpoint_bytes_max,
        };
        // Every value says where it ends, so that no two questions have the same bytes.
        let bytes = match rmp_serde::to_vec(&asked) {
            Ok(bytes) => bytes,
            Err(error) => unreachable!("a question is always encodable: {error}"),
        };
        Some(ResultKey(Digest(Sha256::digest(&bytes).into())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmill_protocol::message::Progress;
    use wasmill_protocol::{Nonce, OutcomeKind};

    use super::*;

    fn known() -> ResultCache {
        ResultCache::new(ResultCacheBounds::default(), &Caps::default())
    }

    fn spec() -> TaskSpec {
        TaskSpec {
            tenant: "a".parse().unwrap(),
            input: Payload::Inline(Bytes::from_static(b"payload")),
            deterministic: true,
            seed: Some(7),
            ..TaskSpec::default()
        }
    }

    fn assignment(nonce: u64, spec: TaskSpec) -> Assignment {
        let id = AttemptId { nonce: Nonce(nonce), ..AttemptId::default() };
        Assignment { id, spec: Arc::new(spec), ..Assignment::default() }
    }

    fn ended(nonce: u64, output: &[u8]) -> Ended {
        let progress = Some(Progress { done: 1, total: 1, message: "done".into() });
        Ended {
            id: assignment(nonce, spec()).id,
            tenant: TenantName::default(),
            outcome: Outcome { progress, ..Outcome::new(OutcomeKind::Succeeded, "") },
            usage: Usage { fuel: Some(5), cpu_us: 6, run_us: 7, ..Usage::default() },
            output: Bytes::copy_from_slice(output),
            captured: Bytes::from_static(b"log"),
            repeatable: true,
        }
    }

    /// A cache that knows the result of `spec`.
    fn taught() -> ResultCache {
        let mut known = known();
        assert!(known.ask(&assignment(1, spec())).is_none());
        known.learn(&ended(1, b"result"));
        known
    }

    #[test]
    fn the_same_question_has_the_same_answer_with_the_usage_of_the_first_time() {
        let mut known = taught();
        for nonce in [2, 3] {
            let again = known.ask(&assignment(nonce, spec())).unwrap();
            assert_eq!(again.id.nonce, Nonce(nonce));
            assert_eq!((&again.output[..], &again.captured[..]), (&b"result"[..], &b"log"[..]));
            assert_eq!(again.outcome, ended(1, b"").outcome);
            assert_eq!(again.usage, Usage { cached: true, ..ended(1, b"").usage });
        }
        assert!(known.asking.is_empty());
    }

    #[test]
    fn whether_a_payload_is_inline_or_a_blob_makes_no_difference() {
        let digest = Digest(Sha256::digest(b"payload").into());
        let blob = TaskSpec { input: Payload::Blob { digest, bytes: 7 }, ..spec() };
        assert!(taught().ask(&assignment(2, blob)).is_some());
        let names = TaskSpec { name: Some("n".into()), priority: 5, idempotency_key: Some("k".into()), ..spec() };
        assert!(taught().ask(&assignment(2, names)).is_some(), "what only people and the scheduler see");
    }

    #[test]
    fn whatever_a_guest_can_see_makes_another_question() {
        let limits = spec().limits;
        let others = [
            ("tenant", TaskSpec { tenant: "b".parse().unwrap(), ..spec() }),
            ("module", TaskSpec { module: Digest([1; 32]), ..spec() }),
            ("kind", TaskSpec { kind: ModuleKind::Task, ..spec() }),
            ("payload", TaskSpec { input: Payload::Inline(Bytes::from_static(b"payloads")), ..spec() }),
            ("no payload", TaskSpec { input: Payload::Empty, ..spec() }),
            ("argument", TaskSpec { args: vec!["ab".into()], ..spec() }),
            ("program", TaskSpec { program: Some("wc".into()), ..spec() }),
            ("exit codes", TaskSpec { ok_exit: vec![0, 1], ..spec() }),
            ("two arguments", TaskSpec { args: vec!["a".into(), "b".into()], ..spec() }),
            ("environment", TaskSpec { env: BTreeMap::from([("ab".into(), String::new())]), ..spec() }),
            ("variable", TaskSpec { env: BTreeMap::from([("a".into(), "b".into())]), ..spec() }),
            ("cpu", TaskSpec { limits: Limits { cpu_ms: limits.cpu_ms + 1, ..limits }, ..spec() }),
            ("fuel", TaskSpec { limits: Limits { fuel: Some(1), ..limits }, ..spec() }),
            ("memory", TaskSpec { limits: Limits { memory_bytes: limits.memory_bytes - 1, ..limits }, ..spec() }),
            ("wall", TaskSpec { limits: Limits { wall_ms: limits.wall_ms + 1, ..limits }, ..spec() }),
            ("output", TaskSpec { limits: Limits { output_bytes: limits.output_bytes - 1, ..limits }, ..spec() }),
            ("seed", TaskSpec { seed: Some(8), ..spec() }),
        ];
        let mut known = taught();
        for (number, (what, other)) in (2..).zip(others) {
            assert!(known.ask(&assignment(number, other)).is_none(), "{what}");
            // And none of them is the question of another one of them.
            known.learn(&ended(number, what.as_bytes()));
        }
        assert_eq!(known.ask(&assignment(100, spec())).unwrap().output, "result");

        let later = Assignment { tenant_since: Timestamp(1), ..assignment(101, spec()) };
        assert!(known.ask(&later).is_none(), "a new tenant of an old name");
        for caps in [Caps { captured_bytes: 1, ..Caps::default() }, Caps { checkpoint_bytes: 1, ..Caps::default() }] {
            let other = ResultCache::new(ResultCacheBounds::default(), &caps);
            assert_ne!(other.question(&assignment(1, spec())), known.question(&assignment(1, spec())), "{caps:?}");
        }
    }

    #[test]
    fn what_may_differ_is_no_question_at_all() {
        let checkpoint = Payload::Inline(Bytes::from_static(b"state"));
        for assignment in [
            assignment(1, TaskSpec { deterministic: false, ..spec() }),
            assignment(1, TaskSpec { seed: None, ..spec() }),
            Assignment { checkpoint, ..assignment(1, spec()) },
        ] {
            let mut known = known();
            assert!(known.ask(&assignment).is_none());
            known.learn(&ended(1, b"result"));
            assert!(known.ask(&assignment).is_none());
            assert!(known.asking.is_empty());
        }
        let mut known = taught();
        let resumed = Assignment { checkpoint: Payload::Inline(Bytes::from_static(b"s")), ..assignment(2, spec()) };
        assert!(known.ask(&resumed).is_none(), "neither is it answered by what began at the beginning");
    }

    #[test]
    fn a_result_that_the_sandbox_does_not_vouch_for_is_not_kept() {
        let mut known = known();
        assert!(known.ask(&assignment(1, spec())).is_none());
        known.learn(&Ended { repeatable: false, ..ended(1, b"result") });
        assert!(known.ask(&assignment(2, spec())).is_none());
        known.forget(assignment(2, spec()).id);
        known.learn(&ended(2, b"result"));
        assert!(known.ask(&assignment(3, spec())).is_none(), "nobody had asked any more");
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        let of_seed = |seed| TaskSpec { seed: Some(seed), ..spec() };
        let fill = |bounds, bytes: usize| {
            let mut known = ResultCache::new(bounds, &Caps::default());
            for seed in 0..20 {
                assert!(known.ask(&assignment(seed, of_seed(seed))).is_none());
                known.learn(&ended(seed, &vec![0; bytes]));
                assert!(known.results.bytes() <= bounds.bytes_max);
            }
            (0..20).filter(|seed| known.ask(&assignment(100, of_seed(*seed))).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(fill(ResultCacheBounds { results_max: 3, bytes_max: 1 << 20 }, 10), [17, 18, 19]);
        assert_eq!(fill(ResultCacheBounds { results_max: 99, bytes_max: 16_384 }, 1024), (10..20).collect::<Vec<_>>());
        assert_eq!(
            fill(ResultCacheBounds { results_max: 99, bytes_max: 8192 }, 1024),
            Vec::<u64>::new(),
            "each is too large"
        );
        assert_eq!(fill(ResultCacheBounds { results_max: 0, bytes_max: 1 << 20 }, 10), Vec::<u64>::new());
        assert_eq!(fill(ResultCacheBounds { results_max: 99, bytes_max: 0 }, 10), Vec::<u64>::new());
    }
}
