//! Modules whose long instructions are cut into pieces do what they did: each is run beside its
//! original, in engines that count fuel and in engines that do not.

use wasmill_host::compile::{Cutting, Fuel, PIECE_BYTES, PIECE_ELEMENTS, cut_long_instructions};
use wasmill_host::engine::{self, Instances, Profile};
use wasmtime::{Engine, Instance, Module, OperatorCost, Store, Trap, Val, WasmBacktrace};

use crate::compile_pieces_modules::{Random, operands, random_module};

/// More than any of these modules uses.
const FUEL: u64 = 1 << 40;

/// Engines for originals and for what is cut.
struct Engines {
    /// With the prices of fuel before anything was cut.
    original: [Engine; 2],
    cut: [Engine; 2],
}

const PROFILES: [Profile; 2] = [Profile::Plain, Profile::Metered];

impl Engines {
    fn new() -> Self {
        let mut prices = OperatorCost::default();
        // The one price that is not wasmtime's own.
        prices.variable.memory_grow_per_page = 64;
        Self {
            original: PROFILES.map(|profile| {
                let mut config = engine::config(profile, Instances::OnDemand);
                Engine::new(config.operator_cost(prices.clone())).unwrap()
            }),
            cut: PROFILES.map(|profile| engine::build(profile, Instances::OnDemand).unwrap()),
        }
    }
}

/// A trap, and the functions that it went through: number and name.
type Trapped = (Trap, Vec<(u32, Option<String>)>);

/// All that can be seen of a run.
#[derive(Debug, PartialEq)]
struct Seen {
    /// Results, or the code of the trap and the functions that it went through.
    result: Result<Vec<String>, Trapped>,
    fuel: Option<u64>,
    /// The values of the exported globals.
    globals: Vec<String>,
    /// The bytes of the exported memories; not printed.
    memories: Vec<Memory>,
    /// Which function each element of the exported tables is, by what it returns.
    tables: Vec<Vec<Option<i32>>>,
}

#[derive(PartialEq)]
struct Memory(Vec<u8>);

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let runs: Vec<_> =
            self.0.chunk_by(|left, right| left == right).map(|run| (run[0], run.len())).take(100).collect();
        write!(f, "{runs:?}")
    }
}

/// Runs `run` of a module with each list of operands, one after the other in the same instance
/// until it traps.
fn see(engine: &Engine, bytes: &[u8], calls: &[[i32; 3]], fuel: u64) -> Vec<Seen> {
    let module = Module::from_binary(engine, bytes).unwrap();
    let metered = Store::new(engine, ()).set_fuel(0).is_ok();
    let mut seen = Vec::new();
    let start = |store: &mut Store<()>| {
        store.set_epoch_deadline(u64::MAX / 2);
        if metered {
            store.set_fuel(fuel).unwrap();
        }
        Instance::new(store, &module, &[])
    };
    let mut store = Store::new(engine, ());
    let Ok(mut instance) = start(&mut store) else { return seen };
    for call in calls {
        if metered {
            store.set_fuel(fuel).unwrap();
        }
        let run = instance.get_func(&mut store, "run").unwrap();
        let mut results = vec![Val::I32(0); run.ty(&store).results().len()];
        let result = run.call(&mut store, &call.map(Val::I32), &mut results);
        let trapped = result.is_err();
        seen.push(look(&mut store, &instance, result.map(|()| results), metered.then_some(fuel)));
        if trapped {
            store = Store::new(engine, ());
            instance = start(&mut store).unwrap();
        }
    }
    seen
}

fn look(store: &mut Store<()>, instance: &Instance, result: wasmtime::Result<Vec<Val>>, fuel: Option<u64>) -> Seen {
    let result = result.map(|values| values.iter().map(|value| format!("{value:?}")).collect()).map_err(|error| {
        let frames = error.downcast_ref::<WasmBacktrace>().unwrap().frames();
        let frames =
            frames.iter().map(|frame| (frame.func_index(), frame.func_name().map(ToOwned::to_owned))).collect();
        (error.downcast::<Trap>().unwrap(), frames)
    });
    let fuel = fuel.map(|fuel| fuel - store.get_fuel().unwrap());
    let (mut globals, mut memories, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    let exports: Vec<_> = instance.exports(&mut *store).map(wasmtime::Export::into_extern).collect();
    for export in exports {
        match export {
            wasmtime::Extern::Global(global) => globals.push(format!("{:?}", global.get(&mut *store))),
            wasmtime::Extern::Memory(memory) => memories.push(Memory(memory.data(&*store).to_vec())),
            wasmtime::Extern::Table(table) => tables.push(elements(store, &table)),
            _ => {}
        }
    }
    Seen { result, fuel, globals, memories, tables }
}

fn elements(store: &mut Store<()>, table: &wasmtime::Table) -> Vec<Option<i32>> {
    store.set_epoch_deadline(u64::MAX / 2);
    let number = |store: &mut Store<()>, index| {
        let function = *table.get(&mut *store, index)?.as_func()??;
        function.typed::<(), i32>(&*store).ok()?.call(&mut *store, ()).ok()
    };
    (0..table.size(&*store)).map(|index| number(store, index)).collect()
}

/// Runs a module beside its original.
fn check(engines: &Engines, text: &str, piece_bytes: u32, calls: &[[i32; 3]]) {
    let original = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    for (profile, (original_engine, cut_engine)) in engines.original.iter().zip(&engines.cut).enumerate() {
        let fuel = if profile == 0 { Fuel::Uncounted } else { Fuel::Counted };
        let cut = cut_long_instructions(
            &original,
            Cutting { fuel, piece_bytes, piece_elements: piece_bytes.min(PIECE_ELEMENTS) },
        )
        .unwrap();
        let expected = see(original_engine, &original, calls, FUEL);
        let found = see(cut_engine, &cut, calls, FUEL);
        assert_eq!(found.len(), expected.len());
        for ((found, expected), call) in found.iter().zip(&expected).zip(calls) {
            assert_eq!(found, expected, "{fuel:?}, pieces of {piece_bytes}, run with {call:?}:\n{text}");
        }
        if fuel == Fuel::Counted {
            check_limits(engines, text, [&original, &cut], calls[0], expected.first());
        }
    }
}

/// A limit on fuel that is just enough is enough for both, and one that is not ends both. Here as
/// in the sandbox one unit more is put in, and an end that has used it too is one for want of fuel.
fn check_limits(engines: &Engines, text: &str, bytes: [&[u8]; 2], call: [i32; 3], full: Option<&Seen>) {
    let Some(Seen { fuel: Some(used), result: Ok(_), .. }) = full else { return };
    for limit in [used + 1, *used, used.saturating_sub(1), used / 2] {
        let run = |engine: &Engine, bytes: &[u8]| {
            let seen = see(engine, bytes, &[call], limit + 1).pop()?;
            let overspent = seen.fuel.is_some_and(|fuel| fuel > limit);
            Some(if overspent { Err(Trap::OutOfFuel) } else { seen.result.map_err(|(trap, _)| trap) })
        };
        let expected = run(&engines.original[1], bytes[0]);
        assert_eq!(run(&engines.cut[1], bytes[1]), expected, "{limit} of {used} with {call:?}:\n{text}");
    }
}

/// Each instruction alone, with every combination of operands near the ends of pieces and memories.
#[test]
fn one_long_instruction_with_operands_at_every_edge() {
    const PIECE: u32 = 1000;
    let engines = Engines::new();
    let calls = operands(PIECE, 65_536, 2_500);
    for (instruction, operands) in [
        ("memory.fill 0", "(local.get 0) (local.get 1) (local.get 2)"),
        ("memory.copy 0 0", "(local.get 0) (local.get 1) (local.get 2)"),
        ("memory.copy 0 1", "(local.get 0) (local.get 1) (local.get 2)"),
        ("memory.copy 1 0", "(local.get 0) (local.get 1) (local.get 2)"),
        ("memory.init 0 $long", "(local.get 0) (local.get 1) (local.get 2)"),
        ("memory.init 0 $short", "(local.get 0) (local.get 1) (local.get 2)"),
        ("memory.init 0 $active", "(local.get 0) (local.get 1) (local.get 2)"),
        ("memory.init 0 $dropped", "(local.get 0) (local.get 1) (local.get 2)"),
    ] {
        let text = format!(
            r#"(module (memory (export "0") 1) (memory (export "1") 2 2)
                (data $long "{long}") (data $short "abc") (data $active (i32.const 0) "{long}") (data $dropped "{long}")
                (func $drop (data.drop $dropped)) (start $drop)
                (func $inner (param i32 i32 i32) (local f64 v128) ({instruction} {operands}))
                (func $run (export "run") (param i32 i32 i32)
                    (local $i i32)
                    (loop $again
                        (i32.store8 0 (local.get $i) (i32.mul (local.get $i) (i32.const 7)))
                        (i32.store8 1 (local.get $i) (i32.mul (local.get $i) (i32.const 11)))
                        (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5000))))
                    (call $inner (local.get 0) (local.get 1) (local.get 2))))"#,
            long = "0123456789".repeat(250),
        );
        check(&engines, &text, PIECE, &calls);
    }
}

#[test]
fn one_copy_of_a_table_with_operands_at_every_edge() {
    const PIECE: u32 = 10;
    let engines = Engines::new();
    let functions: String =
        (0..20).map(|number| format!("(func $f{number} (result i32) (i32.const {number}))")).collect();
    let names: String = (0..20).map(|number| format!("$f{number} ")).collect();
    for (to, from) in [(0, 0), (0, 1), (1, 0)] {
        let text = format!(
            r#"(module (table $a (export "a") 60 funcref) (table $b (export "b") 70 70 funcref)
                (elem (table $a) (i32.const 3) func {names}) (elem (table $a) (i32.const 30) func {names}) (elem (table $b) (i32.const 0) func {names})
                {functions}
                (func $inner (param i32 i32 i32) (table.copy {to} {from} (local.get 0) (local.get 1) (local.get 2)))
                (func $run (export "run") (param i32 i32 i32) (call $inner (local.get 0) (local.get 1) (local.get 2))))"#
        );
        check(&engines, &text, PIECE, &operands(PIECE, 60, 25));
    }
}

/// With the pieces that guests get, once.
#[test]
fn real_pieces() {
    let engines = Engines::new();
    let (piece, size) = (PIECE_BYTES, 5 * PIECE_BYTES);
    for instruction in ["memory.fill", "memory.copy"] {
        let text = format!(
            r#"(module (memory (export "0") {pages}) (data (i32.const 12345) "abcdefghi")
                (func $run (export "run") (param i32 i32 i32) ({instruction} (local.get 0) (local.get 1) (local.get 2))))"#,
            pages = size / 65_536,
        );
        let calls = [
            [0, 1, piece as i32],
            [0, 1, piece as i32 + 1],
            [piece as i32, 1, 3 * piece as i32],
            [1, piece as i32, 3 * piece as i32 - 7],
            [0, 0, size as i32],
            [0, 0, size as i32 + 1],
            [5, 5, -1],
            [-1, 5, -1],
        ];
        check(&engines, &text, piece, &calls);
    }
}

/// Programs of every kind of statement, drawn from a seed.
#[test]
fn random_modules() {
    let engines = Engines::new();
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let piece_bytes = [1, 7, 64, 129, 1000, 4096][random.below(6) as usize];
        let text = random_module(&mut random, piece_bytes);
        let calls: Vec<_> = (0..8).map(|_| [(); 3].map(|()| random.operand(piece_bytes, 65_536))).collect();
        check(&engines, &text, piece_bytes, &calls);
    }
}
