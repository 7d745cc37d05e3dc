//! The settings of `wasmill up`, parsed once into a checked type.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Deserializer};
use wasmill_host::agent::ResultCacheBounds;
use wasmill_protocol::limits::Caps;
use wasmill_scheduler::driver::SnapshotConfig;

use super::front::{TlsFile, TlsFiles};
use crate::telemetry::{TelemetryConfig, TelemetryFile};

/// The commented defaults: the reference of every setting.
pub(crate) const DEFAULT_TOML: &str = include_str!("default.toml");

/// The settings of one process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    /// Where metrics and health are served without a token.
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) connections_per_address: Option<usize>,
    pub(crate) retention_s: u64,
    pub(crate) snapshots: SnapshotConfig,
    pub(crate) drain_ms: u64,
    pub(crate) shutdown_grace_ms: u64,
    pub(crate) slots: u32,
    pub(crate) cores: u32,
    pub(crate) host_memory_bytes: u64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) cache_disk_bytes: u64,
    pub(crate) cache_memory_bytes: u64,
    pub(crate) known_results: ResultCacheBounds,
    pub(crate) compile_cpu_s: u64,
    pub(crate) compile_memory_bytes: u64,
    pub(crate) compile_slots: u32,
    pub(crate) caps: Caps,
    pub(crate) telemetry: TelemetryConfig,
}

/// The machine's own resources, where a setting says 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    pub(crate) cores: u32,
    pub(crate) memory_bytes: u64,
}

/// Guests that run at the same time on one core, when nothing else is said: most guests wait for
/// something or are short.
const SLOTS_PER_CORE: u32 = 16;
/// More slots than this would reserve more address space than a process has.
const SLOTS_MAX: u32 = 4096;
/// With less, not even one guest of the smallest useful limit would fit.
const HOST_MEMORY_BYTES_MIN: u64 = 16 << 20;

impl Config {
    /// The defaults, overridden by the file if there is one.
    ///
    /// # Errors
    ///
    /// When the file is not readable, names an unknown setting, or two settings contradict each
    /// other.
    pub(crate) fn load(file: Option<&Path>, machine: Machine) -> anyhow::Result<Self> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the settings `{}`", path.display()))?,
            None => String::new(),
        };
        Self::parse(&text, machine).with_context(|| match file {
            Some(path) => format!("cannot use the settings `{}`", path.display()),
            None => "cannot use the default settings".to_owned(),
        })
    }

    fn parse(text: &str, machine: Machine) -> anyhow::Result<Self> {
        let mut table: toml::Table = DEFAULT_TOML.parse().context("the embedded defaults are not TOML")?;
        override_with(&mut table, text.parse().context("not TOML")?);
        let file: File = table.try_into()?;
        Self::resolve(file, machine)
    }

    /// Whether the values make sense; asked again after the command line has overridden some.
    ///
    /// # Errors
    ///
    /// The first one that does not, by its name.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let slots = self.slots;
        ensure!((1..=SLOTS_MAX).contains(&slots), "`host.slots` is {slots}, 1 to {SLOTS_MAX} are possible");
        self.snapshots.check()?;
        ensure!(
            self.host_memory_bytes >= HOST_MEMORY_BYTES_MIN,
            "`host.memory_bytes` is {}, at least {HOST_MEMORY_BYTES_MIN} are needed",
            self.host_memory_bytes
        );
        Ok(())
    }

    fn resolve(file: File, machine: Machine) -> anyhow::Result<Self> {
        let cores = if file.host.cores == 0 { machine.cores } else { file.host.cores };
        let slots = if file.host.slots == 0 { cores.saturating_mul(SLOTS_PER_CORE) } else { file.host.slots };
        let asked = file.host.memory_bytes.0;
        let host_memory_bytes = if asked == 0 { machine.memory_bytes / 4 * 3 } else { asked };
        if asked > machine.memory_bytes {
            bail!("`host.memory_bytes` is {asked}, the machine has {} bytes", machine.memory_bytes);
        }
        let caps = file.caps.into();
        let config = Self {
            listen: file.listen,
            metrics_listen: file.metrics.listen()?,
            tls: file.tls.resolve()?,
            connections_per_address: Some(file.connections_per_address as usize).filter(|connections| *connections > 0),
            retention_s: file.retention_s,
            snapshots: file.snapshot.into(),
            drain_ms: file.drain_ms,
            shutdown_grace_ms: file.shutdown_grace_ms,
            slots,
            cores,
            host_memory_bytes,
            labels: file.host.labels,
            cache_disk_bytes: file.cache.disk_bytes.0,
            cache_memory_bytes: file.cache.memory_bytes.0,
            known_results: ResultCacheBounds { results_max: file.cache.results, bytes_max: file.cache.results_bytes.0 },
            compile_cpu_s: file.compile.cpu_s,
            compile_memory_bytes: file.compile.memory_bytes.0,
            compile_slots: if file.compile.slots == 0 { machine.cores } else { file.compile.slots },
            caps,
            telemetry: file.telemetry.check()?,
        };
        config.check()?;
        Ok(config)
    }
}

/// Replaces values, table by table.
fn override_with(base: &mut toml::Table, with: toml::Table) {
    for (name, value) in with {
        match (base.get_mut(&name), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(with)) => override_with(base, with),
            (_, value) => drop(base.insert(name, value)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: SocketAddr,
    connections_per_address: u32,
    retention_s: u64,
    drain_ms: u64,
    shutdown_grace_ms: u64,
    tls: TlsFile,
    metrics: MetricsFile,
    host: HostFile,
    cache: CacheFile,
    compile: CompileFile,
    snapshot: SnapshotFile,
    caps: CapsFile,
    telemetry: TelemetryFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricsFile {
    listen: String,
}

impl MetricsFile {
    /// An empty text is nowhere.
    fn listen(&self) -> anyhow::Result<Option<SocketAddr>> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let address = self.listen.parse();
        address.map(Some).with_context(|| {
            format!("`metrics.listen` is `{}`, an address and a port like `127.0.0.1:9700` are expected", self.listen)
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostFile {
    slots: u32,
    cores: u32,
    memory_bytes: Size,
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheFile {
    disk_bytes: Size,
    memory_bytes: Size,
    results: usize,
    results_bytes: Size,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompileFile {
    cpu_s: u64,
    memory_bytes: Size,
    slots: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotFile {
    records: u64,
    log_bytes: Size,
    keep_records: u64,
    copy_log_bytes: Size,
    copy_percent: u64,
}

impl From<SnapshotFile> for SnapshotConfig {
    fn from(file: SnapshotFile) -> Self {
        Self {
            records: file.records,
            log_bytes: file.log_bytes.0,
            keep_records: file.keep_records,
            copy_log_bytes: file.copy_log_bytes.0,
            copy_percent: file.copy_percent,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CapsFile {
    module_bytes: Size,
    payload_bytes: Size,
    cpu_ms: u64,
    memory_bytes: Size,
    wall_ms: u64,
    output_bytes: Size,
    captured_bytes: Size,
    attempts: u32,
    backoff_ms: u64,
    checkpoint_bytes: Size,
}

impl From<CapsFile> for Caps {
    fn from(file: CapsFile) -> Self {
        Self {
            module_bytes: file.module_bytes.0,
            payload_bytes: file.payload_bytes.0,
            cpu_ms: file.cpu_ms,
            memory_bytes: file.memory_bytes.0,
            wall_ms: file.wall_ms,
            output_bytes: file.output_bytes.0,
            captured_bytes: file.captured_bytes.0,
            attempts: file.attempts,
            backoff_ms: file.backoff_ms,
            checkpoint_bytes: file.checkpoint_bytes.0,
        }
    }
}

/// Bytes, written as a number or as text with a unit.
#[derive(Clone, Copy)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes as a number, or text like \"64MiB\"")
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom("a size is not negative"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                crate::units::parse_bytes(text).map(Size).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { cores: 2, memory_bytes: 24 << 30 };

    #[test]
    fn the_defaults_are_those_that_the_code_documents() {
        let config = Config::parse("", MACHINE).unwrap();
        assert_eq!(config.caps, Caps::default());
        assert_eq!(config.snapshots, SnapshotConfig::default());
        assert_eq!(config.known_results, ResultCacheBounds::default());
        assert_eq!((config.slots, config.cores, config.host_memory_bytes), (32, 2, 18 << 30));
    }

    #[test]
    fn a_file_names_only_what_differs() {
        let config = Config::parse("[host]\nslots = 3\nlabels = { gpu = \"1\" }\n[caps]\ncpu_ms = 5", MACHINE).unwrap();
        assert_eq!((config.slots, config.caps.cpu_ms), (3, 5));
        assert_eq!(config.labels["gpu"], "1");
        assert_eq!(config.caps.wall_ms, Caps::default().wall_ms);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("listen = 5", "listen"),
            ("[host]\nslot = 5", "slot"),
            ("[host]\nslots = 100000", "4096"),
            ("[host]\nmemory_bytes = \"48GiB\"", "host.memory_bytes"),
            ("[cache]\ndisk_bytes = -1", "negative"),
            ("[tls]\ncert = \"c.pem\"", "tls.key"),
            ("[tls]\nkey = \"k.pem\"", "tls.cert"),
            ("[snapshot]\nrecords = 1", "snapshot.records"),
            ("[snapshot]\ncopy_log_bytes = 1", "snapshot.copy_log_bytes"),
            ("[metrics]\nlisten = \"9700\"", "metrics.listen"),
            ("[telemetry]\nsample_ratio = 2.0", "telemetry.sample_ratio"),
            ("nonsense", "not TOML"),
        ] {
            let error = format!("{:#}", Config::parse(text, MACHINE).unwrap_err());
            assert!(error.contains(named), "`{text}` gives: {error}");
        }
    }
}
