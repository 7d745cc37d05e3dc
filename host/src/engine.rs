//! The engines: one per [`Profile`], built from one configuration that the compiling child and the
//! host share.
//!
//! An artifact is native code and only fits an engine with the same settings, so [`config`] is the
//! only place that makes them. The two users differ in where instances live
//! ([`Instances`]); that is no part of the code that is generated.

mod features;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use thiserror::Error;
use wasmill_protocol::{Limits, Outcome};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OperatorCost, OptLevel, PoolingAllocationConfig, Strategy,
    WasmBacktraceDetails, WasmFeatures,
};

use crate::compile::{Cutting, Fuel};

pub use features::{
    CORE_INSTANCES_MAX, FEATURES, FIBER_STACK_BYTES, GUEST_STACK_BYTES, INSTANCE_BYTES_MAX, MEMORIES_MAX,
    TABLE_ELEMENTS_MAX, TABLES_MAX,
};

/// Bytes of one linear memory: all that 32-bit WebAssembly can address. `limits.memory_bytes` is
/// the limit that counts.
const MEMORY_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;
/// The bytes of a memory or table that stay mapped after use, when the kernel can tell which pages
/// were touched.
const KEEP_RESIDENT_BYTES: usize = 1024 * 1024;
/// The same when it cannot: all of it is then overwritten after every attempt, which must stay
/// cheap.
const KEEP_RESIDENT_BYTES_BLIND: usize = 64 * 1024;
/// The bytes of a fiber's stack that stay mapped; all of it is overwritten after every attempt.
const STACK_KEEP_RESIDENT_BYTES: usize = 32 * 1024;

/// Fuel for one page of 64 KiB that a memory grows by.
const MEMORY_PAGE_FUEL: u8 = 64;

/// How a module is compiled. The same module has one artifact per profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profile {
    /// Can be stopped at a tick.
    Plain,
    /// Counts fuel too: up to 2.1 times slower on call-heavy code.
    Metered,
    /// [`Profile::Plain`], and every NaN has the same bits.
    PlainDeterministic,
    /// [`Profile::Metered`], and every NaN has the same bits.
    MeteredDeterministic,
}

impl Profile {
    /// Every profile, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Metered, Self::PlainDeterministic, Self::MeteredDeterministic];

    /// The profile that an attempt needs: metered when fuel is limited, deterministic when it has a
    /// seed.
    pub fn of(limits: &Limits, seed: Option<u64>) -> Self {
        match (limits.fuel.is_some(), seed.is_some()) {
            (false, false) => Self::Plain,
            (true, false) => Self::Metered,
            (false, true) => Self::PlainDeterministic,
            (true, true) => Self::MeteredDeterministic,
        }
    }

    /// Whether fuel is counted.
    pub fn is_metered(self) -> bool {
        matches!(self, Self::Metered | Self::MeteredDeterministic)
    }

    /// How long instructions are cut before a module is compiled for it.
    pub fn cutting(self) -> Cutting {
        Cutting::of(if self.is_metered() { Fuel::Counted } else { Fuel::Uncounted })
    }

    /// Whether NaNs are made alike.
    pub fn is_deterministic(self) -> bool {
        matches!(self, Self::PlainDeterministic | Self::MeteredDeterministic)
    }

    /// The stable name: part of file names and of the compiling child's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Metered => "metered",
            Self::PlainDeterministic => "plain-deterministic",
            Self::MeteredDeterministic => "metered-deterministic",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no profile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a profile: `plain`, `metered`, `plain-deterministic` or `metered-deterministic` is expected")]
pub struct ParseProfileError(String);

impl FromStr for Profile {
    type Err = ParseProfileError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|profile| profile.as_str() == text).ok_or_else(|| ParseProfileError(text.to_owned()))
    }
}

/// Where an engine keeps instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// Mapped when needed. For the compiling child, whose address space is limited, and for
    /// machines that cannot reserve the pool.
    OnDemand,
    /// In slots that are reserved once and reused: only address space until touched.
    Pooled {
        /// How many guests run or wait at the same time. More than this wait for a slot.
        guests_max: u32,
    },
}

/// The settings of an engine: the only place that makes them.
pub fn config(profile: Profile, instances: Instances) -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(FEATURES, true)
        .concurrency_support(false)
        .shared_memory(false)
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(profile.is_deterministic())
        .consume_fuel(profile.is_metered())
        .operator_cost(operator_cost())
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        // Stacks are reused across tenants.
        .async_stack_zeroing(true)
        .signals_based_traps(true)
        .memory_init_cow(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(Outcome::BACKTRACE_FRAMES_MAX))
        // Function names come from the name section; source lines would cost memory for every
        // module.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // For other programs' unwinders only, and registering it makes loading many modules slow.
        .native_unwind_info(false)
        .allocation_strategy(match instances {
            Instances::OnDemand => InstanceAllocationStrategy::OnDemand,
            Instances::Pooled { guests_max } => InstanceAllocationStrategy::Pooling(pool(guests_max)),
        });
    config
}

/// wasmtime's own prices, but for growing a memory, which is free there however many pages the
/// kernel then has to clear, and for what modules are charged for by code of ours
/// ([`crate::compile::is_unpriced`]).
fn operator_cost() -> OperatorCost {
    let mut cost = OperatorCost::default();
    cost.variable.memory_grow_per_page = MEMORY_PAGE_FUEL;
    for unpriced in [
        &mut cost.BrTable,
        &mut cost.GlobalGet,
        &mut cost.GlobalSet,
        &mut cost.I32WrapI64,
        &mut cost.I64Add,
        &mut cost.I64ExtendI32U,
        &mut cost.I64GtU,
        &mut cost.I64Rotl,
        &mut cost.If,
        &mut cost.MemoryCopy,
        &mut cost.MemoryFill,
        &mut cost.MemoryInit,
        &mut cost.MemorySize,
        &mut cost.TableCopy,
        &mut cost.TableSize,
    ] {
        *unpriced = 0;
    }
    cost
}

fn pool(guests_max: u32) -> PoolingAllocationConfig {
    let (scan, keep_resident) = if PoolingAllocationConfig::is_pagemap_scan_available() {
        (Enabled::Yes, KEEP_RESIDENT_BYTES)
    } else {
        (Enabled::No, KEEP_RESIDENT_BYTES_BLIND)
    };
    let mut pool = PoolingAllocationConfig::new();
    // Instances are counters only; memories, tables and stacks are reservations. Most guests have
    // one memory and one or two tables. One guest with all it may have must always fit.
    pool.total_stacks(guests_max)
        .total_component_instances(guests_max)
        .total_core_instances(guests_max.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(guests_max.saturating_mul(2).max(MEMORIES_MAX))
        .total_tables(guests_max.saturating_mul(4).max(TABLES_MAX))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_memory_size(MEMORY_BYTES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .pagemap_scan(scan)
        .linear_memory_keep_resident(keep_resident)
        .table_keep_resident(keep_resident)
        .async_stack_keep_resident(STACK_KEEP_RESIDENT_BYTES);
    pool
}

/// Why there is no engine.
#[derive(Debug, Error)]
#[error("cannot build the `{profile}` engine")]
pub struct EngineError {
    profile: Profile,
    source: wasmtime::Error,
}

/// Builds one engine.
///
/// # Errors
///
/// When the settings contradict each other or the pool's address space cannot be reserved.
pub fn build(profile: Profile, instances: Instances) -> Result<Engine, EngineError> {
    Engine::new(&config(profile, instances)).map_err(|source| EngineError { profile, source })
}

/// The engines of a host process, each built when it is first needed: a pool reserves terabytes of
/// address space.
#[derive(Debug)]
pub struct Engines {
    instances: Instances,
    built: [OnceLock<Engine>; Profile::ALL.len()],
}

impl Engines {
    /// Engines that keep their instances as `instances` says.
    pub fn new(instances: Instances) -> Self {
        Self { instances, built: Default::default() }
    }

    /// The engine for a profile; cheap after the first call for it. When the pool cannot be
    /// reserved, instances are mapped on demand: slower, but it runs.
    ///
    /// # Errors
    ///
    /// When no engine can be built on this machine.
    pub fn get(&self, profile: Profile) -> Result<&Engine, EngineError> {
        let slot = &self.built[profile as usize];
        if let Some(engine) = slot.get() {
            return Ok(engine);
        }
        let engine = match build(profile, self.instances) {
            Err(error) if self.instances != Instances::OnDemand => {
                tracing::warn!(%profile, error = &error as &dyn std::error::Error, "no pool for instances: mapping them on demand");
                build(profile, Instances::OnDemand)?
            }
            built => built?,
        };
        Ok(slot.get_or_init(|| engine))
    }

    /// One tick for every engine that exists. Cheap; safe from any thread.
    pub fn tick(&self) {
        self.built.iter().filter_map(OnceLock::get).for_each(Engine::increment_epoch);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{Hash, Hasher};

    use super::*;

    #[test]
    fn profiles_have_names_that_parse() {
        for (index, profile) in Profile::ALL.into_iter().enumerate() {
            assert_eq!(profile as usize, index);
            assert_eq!(profile.as_str().parse(), Ok(profile));
        }
        assert!("fast".parse::<Profile>().is_err());
    }

    /// One module with every operator that can be had in a function without operands of a special
    /// kind, to compare the lists.
    #[test]
    fn what_is_not_charged_is_what_the_rewriting_charges() {
        let text = r#"(module (memory 1) (memory 1) (global $g (mut i64) (i64.const 0)) (table 1 funcref) (data $d "x") (elem $e func $f)
            (func $f (param i32 i64 f64) (result i32)
                (block (br_table 0 0 (i32.const 0))) (block (br 0)) (block (br_if 0 (i32.const 1)))
                (if (i32.eqz (i32.const 1)) (then (nop)) (else (nop)))
                (global.set $g (i64.add (global.get $g) (i64.extend_i32_u (i32.wrap_i64 (local.tee 1 (local.get 1))))))
                (drop (i64.gt_u (i64.rotl (i64.const 1) (i64.const 2)) (i64.sub (i64.const 3) (i64.const 4))))
                (memory.fill (i32.const 0) (i32.const 0) (i32.const 0)) (memory.copy (i32.const 0) (i32.const 0) (i32.const 0))
                (memory.init $d (i32.const 0) (i32.const 0) (i32.const 0)) (data.drop $d)
                (table.fill 0 (i32.const 0) (ref.null func) (i32.const 0)) (elem.drop $e)
                (table.copy (i32.const 0) (i32.const 0) (i32.const 0)) (table.init $e (i32.const 0) (i32.const 0) (i32.const 0))
                (drop (memory.grow (memory.size))) (drop (table.size 0)) (drop (i64.gt_s (i64.rotr (i64.const 1) (i64.const 1)) (i64.const 1)))
                (drop (i32.add (i32.rotl (i32.const 1) (i32.const 1)) (i32.gt_u (i32.const 1) (i32.const 1))))
                (drop (i64.extend_i32_s (i32.load (i32.const 0)))) (local.set 0 (call $f (i32.const 0) (i64.const 0) (f64.const 0)))
                (return (select (i32.const 1) (i32.const 2) (i32.const 3)))))"#;
        let bytes = wat::parse_str(text).unwrap();
        let (ours, theirs) = (operator_cost(), OperatorCost::default());
        let mut unpriced = std::collections::BTreeSet::new();
        for payload in wasmparser::Parser::new(0).parse_all(&bytes) {
            let wasmparser::Payload::CodeSectionEntry(body) = payload.unwrap() else { continue };
            for operator in body.get_operators_reader().unwrap() {
                let operator = operator.unwrap();
                if crate::compile::is_unpriced(&operator) {
                    unpriced.insert(format!("{operator:?}").split(' ').next().unwrap().to_owned());
                    assert_eq!((ours.cost(&operator), theirs.cost(&operator)), (0, 1), "{operator:?}");
                } else {
                    assert_eq!(ours.cost(&operator), theirs.cost(&operator), "{operator:?}");
                }
            }
        }
        assert_eq!(unpriced.len(), 15, "{unpriced:?}");
        // And none besides these.
        let sum = |cost: &OperatorCost| format!("{cost:?}").matches(": 0").count();
        assert_eq!(sum(&ours), sum(&theirs) + 15 - 1, "growing a memory is free in theirs");
    }

    #[test]
    fn a_pool_that_does_not_fit_the_address_space_is_done_without() {
        let engines = Engines::new(Instances::Pooled { guests_max: 100_000_000 });
        assert!(build(Profile::Plain, engines.instances).is_err());
        assert!(engines.get(Profile::Plain).is_ok());
    }

    fn compatibility(profile: Profile, instances: Instances) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        build(profile, instances).unwrap().precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn artifacts_of_the_child_fit_the_host_and_no_other_profile() {
        let module = wat::parse_str(r#"(module (func (export "f")))"#).unwrap();
        for profile in Profile::ALL {
            let artifact = build(profile, Instances::OnDemand).unwrap().precompile_module(&module).unwrap();
            let host = build(profile, Instances::Pooled { guests_max: 1 }).unwrap();
            // SAFETY: the artifact was made by the lines above.
            #[allow(unsafe_code, reason = "loading an artifact is unsafe by nature")]
            let loaded = unsafe { wasmtime::Module::deserialize(&host, &artifact) };
            assert!(loaded.is_ok(), "{profile}: {:?}", loaded.err());
            for other in Profile::ALL {
                let equal = compatibility(profile, Instances::OnDemand)
                    == compatibility(other, Instances::Pooled { guests_max: 1 });
                assert_eq!(equal, profile == other, "{profile} and {other}");
            }
        }
    }

    /// The engine takes what the validator takes and refuses what it refuses, feature by feature.
    #[test]
    fn engine_and_validator_agree() {
        let engine = build(Profile::Plain, Instances::OnDemand).unwrap();
        for (allowed, text) in [
            (true, "(module (memory 1) (memory 1))"),
            (true, "(module (func (result v128) (i8x16.splat (i32.const 1))))"),
            (true, "(module (func $f (return_call $f)))"),
            (true, "(module (table 1 funcref) (table 1 funcref))"),
            (false, "(module (table 1 externref))"),
            (true, "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))"),
            (true, "(component)"),
            (false, "(module (memory 1 1 shared))"),
            (false, "(module (memory i64 1))"),
            (false, "(module (tag))"),
            (false, "(module (type (struct)))"),
            (false, "(module (memory 1 (pagesize 1)))"),
            (false, "(module (func (param v128) (drop (i32x4.relaxed_trunc_f32x4_s (local.get 0)))))"),
            (
                false,
                "(module (func (drop (drop (i64.add128 (i64.const 1) (i64.const 1) (i64.const 1) (i64.const 1))))))",
            ),
            (false, "(component (type (stream u8)))"),
        ] {
            let bytes = wat::parse_str(text).unwrap();
            let validated = wasmparser::Validator::new_with_features(FEATURES).validate_all(&bytes);
            let compiled = if text.starts_with("(component") {
                wasmtime::component::Component::from_binary(&engine, &bytes).map(drop)
            } else {
                wasmtime::Module::from_binary(&engine, &bytes).map(drop)
            };
            assert_eq!(validated.is_ok(), allowed, "{text}: {:?}", validated.err());
            assert_eq!(compiled.is_ok(), allowed, "{text}: {:?}", compiled.err());
        }
    }
}
