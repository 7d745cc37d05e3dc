//! Compiled modules on disk and in memory, and how they are loaded.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use wasmill_host::agent::{Readiness, Wanted};
use wasmill_host::compile::{CompileBudget, InspectError, ModuleCache, ModuleCacheConfig, Payer};
use wasmill_host::engine::{Engines, Instances, Profile};
use wasmill_host::sandbox::{Artifacts, LoadError, LoadedModule};
use wasmill_protocol::Digest;

use crate::compile_bench::{Bench, command, files, payer, rejected, script};
use crate::compile_check::TASK;

async fn load(
    bench: &Bench,
    cache: &ModuleCache,
    bytes: &[u8],
    profile: Profile,
) -> Result<Arc<LoadedModule>, LoadError> {
    let (path, digest) = bench.store(bytes);
    cache.load(digest, &path, profile).await
}

#[tokio::test]
async fn an_upload_is_loaded_without_compiling_again() {
    let bench = Bench::new();
    let cache = bench.cache();
    let module = wat::parse_str(TASK).unwrap();
    let (path, digest) = bench.store(&module);
    assert!(cache.cached(digest, Profile::Plain).is_none());
    let info = cache.inspect(&payer("a"), &path, digest, module.len() as u64).await.unwrap();
    assert_eq!(info.digest, digest);
    assert!(cache.cached(digest, Profile::Plain).is_some());
    assert_eq!(cache.modules(), [digest]);
    // Another process finds it on disk; the module itself is not needed.
    let bench = bench.reopened();
    let cache = bench.cache();
    cache.load(digest, Path::new("/nowhere"), Profile::Plain).await.unwrap();
    assert_eq!(bench.compiler.stats().compiles, 0);
}

#[tokio::test]
async fn every_profile_is_compiled_when_it_is_needed() {
    let bench = Bench::new();
    let cache = bench.cache();
    let module = wat::parse_str(TASK).unwrap();
    for (compiles, profile) in (1..).zip(Profile::ALL) {
        let loaded = load(&bench, &cache, &module, profile).await.unwrap();
        assert_eq!(bench.compiler.stats().compiles, compiles);
        let again = load(&bench, &cache, &module, profile).await.unwrap();
        assert!(Arc::ptr_eq(&loaded, &again));
    }
    assert_eq!(bench.compiler.stats().compiles, 4);
    assert_eq!((cache.modules().len(), bench.artifacts().len()), (1, 4));
}

fn wanted(name: &str, path: &Path, module: Digest) -> Wanted {
    Wanted { module, profile: Profile::Metered, path: path.to_owned(), payer: payer(name) }
}

/// B38, D03: attempts wait until their tenant's budget allows to compile for them, and for no other
/// tenant's.
#[tokio::test]
async fn compiling_for_attempts_is_paid_by_their_tenant() {
    let bench = Bench::with(|config| config.budget = CompileBudget { burst: Duration::ZERO, ms_per_s: 0 });
    let cache = bench.cache();
    let (path, digest) = bench.store(&command(1));
    let free =
        |name: &str| Wanted { payer: Payer { ms_per_s: Some(1_000), ..payer(name) }, ..wanted(name, &path, digest) };
    let mut greedy = cache.make_ready(wanted("greedy", &path, digest));
    assert!(futures::poll!(&mut greedy).is_pending());
    let made = cache.make_ready(free("other")).await;
    assert!(made.result.is_ok() && made.compile_us > 0, "{made:?}");
    assert!(cache.is_ready(digest, Profile::Metered) && !cache.is_ready(digest, Profile::Plain));
    let usage = bench.compiler.usage();
    assert_eq!((usage.len(), usage[0].0.as_str(), usage[0].1.cpu_us), (1, "other", made.compile_us));
    // Now it is there for everybody who has the module, at no cost.
    let made = greedy.await;
    assert!(made.result.is_ok() && made.compile_us == 0, "{made:?}");
    assert_eq!(bench.compiler.stats().compiles, 1);
}

/// A compilation for several attempts at once is told of the first.
#[tokio::test]
async fn a_compilation_is_counted_once() {
    let bench = Bench::new();
    let cache = bench.cache();
    let (path, digest) = bench.store(&command(1));
    let made = join_all((0..5).map(|_| cache.make_ready(wanted("a", &path, digest)))).await;
    let spent: Vec<bool> = made.iter().map(|made| made.compile_us > 0).collect();
    assert_eq!((spent, bench.compiler.stats().compiles), (vec![true, false, false, false, false], 1));
    assert_eq!(bench.compiler.usage()[0].1.cpu_us, made[0].compile_us);
}

#[tokio::test]
async fn many_that_want_the_same_share_one_compile_and_one_mapping() {
    let bench = Bench::new();
    let cache = bench.cache();
    let module = command(1);
    let loaded = join_all((0..50).map(|_| load(&bench, &cache, &module, Profile::Metered))).await;
    let first = loaded[0].as_ref().unwrap();
    assert!(loaded.iter().all(|module| Arc::ptr_eq(module.as_ref().unwrap(), first)));
    assert_eq!(bench.compiler.stats().compiles, 1);
}

#[tokio::test]
async fn what_does_not_load_is_the_modules_fault_or_ours() {
    let bench = Bench::new();
    let cache = bench.cache();
    match load(&bench, &cache, &wat::parse_str("(module)").unwrap(), Profile::Plain).await {
        Err(LoadError::Invalid(message)) => assert!(message.contains("no entry point"), "{message}"),
        other => panic!("{other:?}"),
    }
    let (_, digest) = bench.store(&command(1));
    match cache.load(digest, Path::new("/nowhere"), Profile::Plain).await {
        Err(LoadError::Fault(message)) => assert!(message.contains("/nowhere"), "{message}"),
        other => panic!("{other:?}"),
    }
}

/// More instances of an engine's things than a slot of the pool has: found at upload, remembered,
/// and not kept.
#[tokio::test]
async fn a_module_that_does_not_fit_the_pool_is_refused_at_upload() {
    const EACH: usize = 95_000;
    let import = r#"(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))"#;
    let (imports, globals) = (import.repeat(EACH), "(global i32 (i32.const 0))".repeat(EACH));
    let module = wat::parse_str(format!(r#"(module {imports} {globals} (func (export "_start")))"#)).unwrap();
    let bench = Bench::new();
    let cache = bench.cache();
    let (path, digest) = bench.store(&module);
    let message = rejected(cache.inspect(&payer("a"), &path, digest, module.len() as u64).await);
    assert!(message.contains("does not fit into the sandbox"), "{message}");
    assert!(bench.artifacts().is_empty());
    assert_eq!(rejected(bench.push("b", &module).await), message);
    assert_eq!(bench.compiler.stats().compiles, 1);
}

/// A waiting host tries again instead of failing the attempt.
#[tokio::test]
async fn a_full_line_only_delays_the_host() {
    let bench = Bench::with(|config| {
        config.slots.running = 1;
        config.slots.waiting = 0;
    });
    let cache = bench.cache();
    let modules: Vec<Vec<u8>> = (0..4).map(command).collect();
    let loaded = join_all(modules.iter().map(|module| load(&bench, &cache, module, Profile::Plain))).await;
    assert!(loaded.iter().all(Result::is_ok), "{loaded:?}");
    assert_eq!(bench.compiler.stats().compiles, 4);
}

#[tokio::test]
async fn the_disk_bound_removes_what_was_used_least() {
    let bench = Bench::new();
    for number in 0..3 {
        bench.push("a", &command(number)).await.unwrap();
    }
    let each = bench.compiler.stats().artifact_bytes / 3;
    let bench = bench.reconfigured(move |config| config.disk_bytes_max = 3 * each);
    assert_eq!(bench.compiler.stats().artifacts, 3);
    // The first is used again, so the second goes.
    let cache = bench.cache();
    let used = load(&bench, &cache, &command(0), Profile::Plain).await.unwrap();
    bench.push("a", &command(3)).await.unwrap();
    let stats = bench.compiler.stats();
    assert_eq!((stats.artifacts, bench.artifacts().len()), (3, 3));
    assert!(stats.artifact_bytes <= 3 * each);
    let names: Vec<String> = bench.artifacts().iter().map(|path| path.display().to_string()).collect();
    let is_kept = |number| names.iter().any(|name| name.contains(&bench.store(&command(number)).1.hex()));
    assert_eq!([is_kept(0), is_kept(1), is_kept(2), is_kept(3)], [true, false, true, true]);
    // One whose file is gone stays usable as long as it is loaded.
    for number in 4..7 {
        bench.push("a", &command(number)).await.unwrap();
    }
    let digest = bench.store(&command(0)).1;
    assert!(cache.cached(digest, Profile::Plain).is_some_and(|module| Arc::ptr_eq(&module, &used)));
    assert!(files(&bench.folder.path().join("cache")).iter().all(|path| !path.ends_with(".part")));
}

#[tokio::test]
async fn the_memory_bound_forgets_what_was_used_least() {
    let bench = Bench::new();
    let engines = Arc::new(Engines::new(Instances::OnDemand));
    let config = ModuleCacheConfig { modules_max: 2, ..ModuleCacheConfig::default() };
    let cache = ModuleCache::new(Arc::clone(&bench.compiler), engines, config);
    for number in [0, 1, 0, 2] {
        load(&bench, &cache, &command(number), Profile::Plain).await.unwrap();
    }
    let is_loaded = |number| cache.cached(bench.store(&command(number)).1, Profile::Plain).is_some();
    assert_eq!([is_loaded(0), is_loaded(1), is_loaded(2)], [true, false, true]);
    // A forgotten module comes back from the disk.
    load(&bench, &cache, &command(1), Profile::Plain).await.unwrap();
    assert_eq!(bench.compiler.stats().compiles, 3);
}

/// Damage of a disk or a power cut to an artifact is noticed before it is loaded.
#[tokio::test]
async fn damaged_artifacts_are_compiled_again() {
    let damages: [fn(&Path); 5] = [
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        |path| fs::write(path, b"").unwrap(),
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path.with_extension("json"), b"{").unwrap(),
        |path| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap(),
    ];
    let mut bench = Bench::new();
    bench.push("a", &command(1)).await.unwrap();
    for damage in damages {
        let [artifact] = bench.artifacts().try_into().unwrap();
        damage(&artifact);
        bench = bench.reopened();
        load(&bench, &bench.cache(), &command(1), Profile::Plain).await.unwrap();
        assert_eq!(bench.compiler.stats().compiles, 1);
    }
    bench = bench.reopened();
    load(&bench, &bench.cache(), &command(1), Profile::Plain).await.unwrap();
    assert_eq!(bench.compiler.stats().compiles, 0);
}

#[tokio::test]
async fn the_cache_is_private_and_cleans_up() {
    let bench = Bench::new();
    bench.push("a", &command(1)).await.unwrap();
    let folder = bench.folder.path().join("cache");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let [artifact] = bench.artifacts().try_into().unwrap();
    assert_eq!(fs::metadata(&artifact).unwrap().permissions().mode() & 0o777, 0o600);
    // Files that another version and an interrupted compile left behind.
    let other = folder.join("0123456789abcdef0123456789abcdef");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("old.cwasm"), b"old").unwrap();
    let unfinished = artifact.with_extension("1-1.part");
    fs::write(&unfinished, b"half").unwrap();
    let bench = bench.reopened();
    assert!(!other.exists() && !unfinished.exists() && artifact.exists());
    assert_eq!(bench.compiler.stats().artifacts, 1);
}

/// A child that claims to have written an artifact and has not is caught.
#[tokio::test]
async fn an_artifact_that_was_never_written_is_a_fault() {
    let reply = r#"{"cpu_us": 1, "result": {"compiled": {"info": {}, "form": "core_module",
        "artifact": {"bytes": 10, "sha256": "sha256:0000000000000000000000000000000000000000000000000000000000000000"}}}}"#;
    let program = script(&format!("echo '{}'", reply.replace('\n', "")));
    let bench = Bench::with(move |config| config.program = program.clone());
    match bench.push("a", &command(1)).await {
        Err(InspectError::Fault(fault)) => assert!(fault.to_string().contains("cannot keep the artifact"), "{fault}"),
        other => panic!("{other:?}"),
    }
}
