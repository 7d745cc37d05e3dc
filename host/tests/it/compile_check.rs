//! The upload check alone: bytes in, a description or a refusal out. Rows A01, A02, A03, A07, A09,
//! A14 to A17.

use sha2::Digest as _;
use wasm_encoder as wasm;
use wasmill_host::compile::{ModuleCaps, check};
use wasmill_protocol::Digest;
use wasmill_protocol::module::{ModuleInfo, ModuleKind, ModuleRejection};

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

fn checked(bytes: &[u8]) -> Result<ModuleInfo, ModuleRejection> {
    check(bytes, digest_of(bytes), &ModuleCaps::default())
}

#[track_caller]
fn accepted(text: &str) -> ModuleInfo {
    let bytes = wat::parse_str(text).unwrap();
    checked(&bytes).unwrap_or_else(|refused| panic!("{}\n{text}", refused.message))
}

/// Asserts that the bytes are refused with a message that has all of `words` in it.
#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let refusal = checked(bytes).expect_err("it should be refused");
    assert_eq!(refusal.code, "module_invalid");
    for word in words {
        assert!(refusal.message.contains(word), "no `{word}` in: {}", refusal.message);
    }
}

#[track_caller]
fn refused_text(text: &str, words: &[&str]) {
    refused(&wat::parse_str(text).unwrap(), words);
}

pub(crate) const COMMAND: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") (call $exit (i32.const 0))))"#;

/// A component of the task world that returns what it is given, written by hand.
pub(crate) const TASK: &str = r#"(component
    (type $failure' (variant (case "reject" string) (case "retry" string)))
    (import "failure" (type $failure (eq $failure')))
    (core module $m
        (memory (export "memory") 1)
        (global $free (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $free)
            (global.set $free (i32.add (global.get $free) (local.get 3))))
        (func (export "run") (param $at i32) (param $bytes i32) (result i32)
            (i32.store8 (i32.const 0) (i32.const 0))
            (i32.store (i32.const 4) (local.get $at))
            (i32.store (i32.const 8) (local.get $bytes))
            (i32.const 0)))
    (core instance $i (instantiate $m))
    (func (export "run") (param "input" (list u8)) (result (result (list u8) (error $failure)))
        (canon lift (core func $i "run") (memory (core memory $i "memory"))
            (realloc (core func $i "realloc")))))"#;

const RUN: &str = r#"
    (core module $m (func (export "run") (result i32) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $exports (export "run" (func $run)))"#;

#[test]
fn commands_and_tasks_are_recognised() {
    let command = accepted(COMMAND);
    assert_eq!(command.kind, ModuleKind::Command);
    assert_eq!(command.imports, ["wasi_snapshot_preview1.proc_exit"]);
    assert_eq!(command.exports, ["_start", "memory"]);
    assert_eq!(command.bytes, wat::parse_str(COMMAND).unwrap().len() as u64);

    let task = accepted(TASK);
    assert_eq!((task.kind, task.imports.len()), (ModuleKind::Task, 0));
    assert_eq!(task.exports, ["run"]);

    for version in ["0.2.0", "0.2.3", "0.2.12"] {
        let text = format!(r#"(component {RUN} (export "wasi:cli/run@{version}" (instance $exports)))"#);
        let command = accepted(&text);
        assert_eq!(command.kind, ModuleKind::Command);
        assert_eq!(command.exports, [format!("wasi:cli/run@{version}")]);
    }
}

/// A01
#[test]
fn what_is_no_module_is_named() {
    refused(b"", &["empty", "needed is"]);
    refused(b"\0as", &["3 bytes", "header"]);
    refused(b"\0asm\x01\0", &["6 bytes", "header"]);
    refused(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", &["ELF", "wasm32-wasip1"]);
    refused(b"\0asm\x02\0\0\0", &["version 2"]);
    refused(b"\0asm\x0d\0\x02\0", &["version 13 and layer 2"]);
    refused(b"{\"hello\": 1}", &["begins with the text `{\"hello\"`"]);
    refused(&[0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5, 6], &["de ad be ef 01 02 03 04"]);
    refused(b"PK\x03\x04....", &["zip"]);
    refused(b"\x1f\x8b\x08..", &["gzip"]);
    let whole = wat::parse_str(COMMAND).unwrap();
    refused(&whole[..whole.len() - 3], &["truncated"]);
    let mut garbage = whole.clone();
    garbage.truncate(8);
    garbage.extend([0x99; 100]);
    refused(&garbage, &["not a valid WebAssembly module"]);
    // Well-formed, but the code does not type-check.
    refused_text(
        "(module (func (export \"_start\") i32.add drop))",
        &["not a valid WebAssembly module", "type mismatch"],
    );
}

/// A02
#[test]
fn text_is_refused() {
    for text in ["(module)", "  (component)", ";; a comment\n(module)", "(; a comment ;) (module)", "(func)"] {
        refused(text.as_bytes(), &["text", "wasm-tools parse"]);
    }
}

/// A03
#[test]
fn native_code_is_refused() {
    let engine = wasmtime::Engine::default();
    let artifact = engine.precompile_module(&wat::parse_str("(module)").unwrap()).unwrap();
    refused(&artifact, &["precompiled", "native code"]);
}

/// A07
#[test]
fn a_million_of_anything_is_refused() {
    const MANY: u32 = 1_000_000;
    let with = |section: &dyn Fn(&mut wasm::Module)| {
        let mut module = wasm::Module::new();
        section(&mut module);
        module.finish()
    };
    let types = with(&|module| {
        let mut types = wasm::TypeSection::new();
        for _ in 0..MANY {
            types.ty().function([], []);
        }
        module.section(&types);
    });
    refused(&types, &["1000000 types", "limit"]);
    let functions = with(&|module| {
        let mut functions = wasm::FunctionSection::new();
        for _ in 0..MANY {
            functions.function(0);
        }
        module.section(&functions);
    });
    refused(&functions, &["1000000 functions", "limit"]);
    let imports = with(&|module| {
        let mut imports = wasm::ImportSection::new();
        for _ in 0..MANY {
            imports.import("m", "n", wasm::EntityType::Function(0));
        }
        module.section(&imports);
    });
    refused(&imports, &["1000000 imports", "limit"]);
    let globals = with(&|module| {
        let mut globals = wasm::GlobalSection::new();
        let ty = wasm::GlobalType { val_type: wasm::ValType::I32, mutable: false, shared: false };
        for _ in 0..MANY {
            globals.global(ty, &wasm::ConstExpr::i32_const(0));
        }
        module.section(&globals);
    });
    refused(&globals, &["1000000 globals", "limit"]);
    let modules = with(&|module| {
        for _ in 0..30_000 {
            module.section(&wasm::CustomSection { name: "x".into(), data: [][..].into() });
        }
    });
    refused(&modules, &["custom sections", "limit"]);
}

/// A07: bounds hold for the sum over nested modules, and so does the depth.
#[test]
fn nesting_hides_nothing() {
    let mut component = String::from("(component");
    for _ in 0..300 {
        component.push_str("(core module)");
    }
    refused_text(&(component + ")"), &["257 core modules", "limit of 256"]);
    let deep = format!("{}{}", "(component ".repeat(20), ")".repeat(20));
    refused_text(&deep, &["levels of nested components", "limit of 10"]);
    // A claimed count is refused before anything is reserved for it.
    let lying = b"\0asm\x01\0\0\0\x01\x05\xff\xff\xff\xff\x0f";
    refused(lying, &["4294967295 types"]);
}

/// B37: what is done whenever a guest starts, before any of it can be interrupted.
#[test]
fn guests_that_take_long_to_start_are_refused() {
    const SLOW: &[&str] = &["to start, over the limit of 200 ms"];
    // Of each kind, what takes less and what takes more.
    let data = |places: &[&str], bytes: usize| {
        let data = "x".repeat(bytes);
        let segments: String = places.iter().map(|place| format!("(data {place} \"{data}\")")).collect();
        format!("(module (import \"a\" \"g\" (global $g i32)) (memory 2000) {segments})")
    };
    let elements = |segment: &str, number: usize| {
        let functions = "$f ".repeat(number);
        format!("(module (import \"a\" \"g\" (global $g i32)) (table 1 funcref) (func $f) ({segment} {functions}))")
    };
    let globals = "(global i32 (i32.const 0))".repeat(1_000);
    let instances = |number: usize| {
        format!("(component (core module $m {globals}) {})", "(core instance (instantiate $m))".repeat(number))
    };
    let nested = |number: usize| {
        let inner = "(core instance (instantiate $m))".repeat(number);
        let outer = "(instance (instantiate $c))".repeat(number);
        format!(
            "(component (core module $m {globals}) (component $c (alias outer 1 0 (core module $m)) {inner}) {outer})"
        )
    };
    for (text, is_slow) in [
        (data(&["(global.get $g)"], 60 << 20), false),
        (data(&["(global.get $g)", "(global.get $g)"], 42 << 20), true),
        (data(&["(i32.const 0)", "(i32.const 42000000)"], 42 << 20), false),
        (elements("elem func", 600_000), false),
        (elements("elem func", 700_000), true),
        (elements("elem (i32.const 0) func", 700_000), false),
        (elements("elem declare func", 700_000), false),
        (elements("elem (global.get $g) func", 700_000), true),
        (instances(500), false),
        (nested(40), false),
        (nested(60), true),
    ] {
        let found = check(
            &wat::parse_str(&text).unwrap(),
            Digest::default(),
            &ModuleCaps { module_bytes: 1 << 30, ..ModuleCaps::default() },
        )
        .unwrap_err();
        assert_eq!(found.message.contains(SLOW[0]), is_slow, "{}", found.message);
    }
}

fn with_function(params: usize, function: &wasm::Function) -> Vec<u8> {
    let mut module = wasm::Module::new();
    let mut types = wasm::TypeSection::new();
    types.ty().function(vec![wasm::ValType::I32; params], []);
    let mut functions = wasm::FunctionSection::new();
    functions.function(0);
    let mut code = wasm::CodeSection::new();
    code.function(function);
    module.section(&types).section(&functions).section(&code);
    module.finish()
}

/// A09
#[test]
fn monstrous_functions_are_refused() {
    let mut large = wasm::Function::new([]);
    for _ in 0..2_100_000 / 3 {
        large.instructions().i32_const(1000).drop();
    }
    large.instructions().end();
    refused(&with_function(0, &large), &["function 0", "bytes", "limit of 2097152"]);

    let mut locals = wasm::Function::new([(49_999, wasm::ValType::I64)]);
    locals.instructions().end();
    refused(&with_function(1, &locals), &["50000 locals", "limit of 20000"]);

    let mut params = wasm::Function::new([]);
    params.instructions().end();
    refused(&with_function(1000, &params), &["1000 parameters", "limit of 256"]);

    let mut branches = wasm::Function::new([]);
    branches.instructions().i32_const(0).br_table(vec![0; 1_000_000], 0).end();
    refused(&with_function(0, &branches), &["1000000 targets of one `br_table`", "limit of 65536"]);
}

/// A14: each feature by its name; all of it decided by the constant that the engine is built from.
#[test]
fn features_that_are_off_are_named() {
    for (text, name) in [
        ("(module (memory 1 1 shared))", "threads"),
        ("(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))", "threads"),
        ("(module (memory i64 1))", "memory64"),
        ("(module (table i64 1 funcref))", "memory64"),
        ("(module (type (struct)))", "GC"),
        ("(module (type (array i8)))", "GC"),
        ("(module (func (param anyref)))", "GC"),
        ("(module (func (result i31ref) unreachable))", "GC"),
        ("(module (tag))", "exceptions"),
        ("(module (func (block $l (try_table (catch_all $l)))))", "exceptions"),
        ("(module (func (param exnref)))", "exceptions"),
        ("(module (func try end))", "exceptions (the legacy encoding)"),
        ("(module (type $t (func)) (func (param (ref null $t))))", "typed function references"),
        ("(module (func (param v128) (drop (i32x4.relaxed_trunc_f32x4_s (local.get 0)))))", "relaxed SIMD"),
        ("(module (memory 1 (pagesize 1)))", "custom page sizes"),
        (
            "(module (func (i64.add128 (i64.const 1) (i64.const 1) (i64.const 1) (i64.const 1)) drop drop))",
            "wide arithmetic",
        ),
        ("(module (type $f (func)) (type (cont $f)))", "stack switching"),
        ("(component (type (stream u8)))", "component-model async"),
        ("(component (type (future)))", "component-model async"),
        (r#"(component (import "f" (func async)))"#, "component-model async"),
        ("(component (core func (canon task.return)))", "component-model async"),
        ("(component (core module (memory i64 1)))", "memory64"),
        ("(component (type (list u8 4)))", "component-model fixed-length lists"),
    ] {
        let bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let refusal = checked(&bytes).expect_err(text);
        let begins = format!("the module uses {name}");
        assert!(refusal.message.starts_with(&begins), "{text}: {}", refusal.message);
        assert!(refusal.message.contains("does not enable"), "{}", refusal.message);
    }
}

/// A14, the other way round: what is on passes.
#[test]
fn features_that_are_on_pass() {
    for body in [
        "(memory 1) (memory 1)",
        "(func (result v128) (i8x16.splat (i32.const 1)))",
        "(func $f (return_call $f))",
        "(func (result i32 i64) (i32.const 1) (i64.const 2))",
        "(memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 8)))",
        "(table 1 funcref) (func (drop (table.get (i32.const 0))))",
        "(global i32 (i32.add (i32.const 1) (i32.const 2)))",
        "(func (result i32) (i32.extend8_s (i32.trunc_sat_f32_s (f32.const 1))))",
    ] {
        accepted(&format!(r#"(module {body} (func (export "_start")))"#));
    }
}

/// A15
#[test]
fn unknown_imports_are_all_listed() {
    let start = r#"(func (export "_start"))"#;
    refused_text(
        &format!(r#"(module (import "env" "printf" (func)) (import "wasi_unstable" "fd_write" (func)) {start})"#),
        &["`env.printf`", "`wasi_unstable.fd_write`", "offered are", "WASI from before 0.1"],
    );
    refused_text(
        &format!(r#"(module (import "wasi_snapshot_preview1" "thread_spawn" (func)) {start})"#),
        &["`wasi_snapshot_preview1.thread_spawn`"],
    );
    refused_text(
        &format!(r#"(module (import "wasi_snapshot_preview1" "memory" (memory 1)) {start})"#),
        &["`wasi_snapshot_preview1.memory`"],
    );
    refused_text(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance (export "get" (func))))
            (import "wasi:cli/stdin@0.3.0" (instance (export "get" (func))))
            (import "helper" (func)))"#,
        &["`wasi:http/types@0.2.0`", "`wasi:cli/stdin@0.3.0`", "`helper`", "WASI 0.3"],
    );
    // The first ones are listed and the rest is counted.
    let many: String = (0..100).map(|number| format!(r#"(import "env" "f{number:03}" (func))"#)).collect();
    refused_text(&format!("(module {many} {start})"), &["`env.f019`", "and 80 more"]);
}

/// A15: interfaces that only name types ask for nothing; resources do.
#[test]
fn types_are_no_imports() {
    let task = TASK.replacen(
        "(component",
        r#"(component
            (import "my:own/types@1.0.0" (instance (type $t u32) (export "t" (type (eq $t)))))"#,
        1,
    );
    assert_eq!(accepted(&task).imports, ["my:own/types@1.0.0"]);
    refused_text(
        r#"(component (import "my:own/types@1.0.0" (instance (export "r" (type (sub resource))))))"#,
        &["`my:own/types@1.0.0`"],
    );
    refused_text(r#"(component (import "r" (type (sub resource))))"#, &["`r`"]);
}

/// A16
#[test]
fn the_entry_point_must_be_one_and_fit() {
    const NEEDED: &str = "needed is one of";
    refused_text(
        r#"(module (func (export "main")) (memory (export "memory") 1))"#,
        &["no entry point", "`main`, `memory`", NEEDED, "`_start`", "wasi:cli/run@0.2"],
    );
    refused_text("(module)", &["found were the exports nothing", NEEDED]);
    refused_text(r#"(module (func (export "_initialize")))"#, &["library (reactor)", NEEDED]);
    refused_text(
        r#"(module (func (export "_start") (param i32) (result i64) (i64.const 0)))"#,
        &["`_start` has the type (i32) -> (i64)", NEEDED],
    );
    refused_text(r#"(module (memory (export "_start") 1))"#, &["`_start` is no function"]);
    refused_text("(component)", &["no entry point", NEEDED]);
    refused_text(
        &format!(r#"(component {RUN} (export "wasi:cli/run@0.3.0" (instance $exports)))"#),
        &["another version of WASI", NEEDED],
    );
    refused_text(
        &TASK.replace(r#"(export "run") (param "input" (list u8))"#, r#"(export "run") (param "input" string)"#),
        &["`run` does not have the type", "result<list<u8>, failure>"],
    );
    refused_text(&TASK.replace("retry", "again"), &["`run` does not have the type"]);
    let task_and_command = TASK.strip_suffix(')').unwrap().to_owned()
        + &RUN.replace("$m", "$m2").replace("$i", "$i2")
        + r#"(export "wasi:cli/run@0.2.0" (instance $exports)))"#;
    refused_text(&task_and_command, &["2 entry points", "`run` and `wasi:cli/run@0.2.0`"]);
    refused_text(
        r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32))) (func (export "_start")))"#,
        &["no memory named `memory`"],
    );
}

/// A17
#[test]
fn minimum_sizes_are_bounded() {
    let start = r#"(func (export "_start"))"#;
    refused_text(&format!("(module (memory 65536) {start})"), &["4096 MiB", "1024 MiB"]);
    refused_text(&format!("(module (memory 10000) (memory 10000) {start})"), &["1250 MiB", "1024 MiB"]);
    refused_text(&format!("(module (table 10000000 funcref) {start})"), &["10000000 elements", "131072"]);
    accepted(&format!("(module (memory 16384) {start})"));
    let bytes = wat::parse_str(format!("(module (memory 2049) {start})")).unwrap();
    let caps = ModuleCaps { memory_bytes: 128 << 20, ..ModuleCaps::default() };
    let refusal = check(&bytes, digest_of(&bytes), &caps).unwrap_err();
    assert!(refusal.message.contains("the cap `memory_bytes` of 128 MiB"), "{}", refusal.message);
    let caps = ModuleCaps { module_bytes: bytes.len() as u64 - 1, ..caps };
    let refusal = check(&bytes, digest_of(&bytes), &caps).unwrap_err();
    assert!(refusal.message.contains("the cap `module_bytes`"), "{}", refusal.message);
}

/// Names come from strangers and end up in answers and logs.
#[test]
fn descriptions_are_bounded() {
    let exports: String = (0..2_000).map(|number| format!(r#"(export "e{number:04}" (func $f))"#)).collect();
    let long = "x".repeat(5_000);
    let text = format!(r#"(module (func $f (export "_start")) (func (export "{long}")) {exports})"#);
    let info = accepted(&text);
    assert_eq!(info.exports.len(), 1_000);
    let info = accepted(&format!(r#"(module (func (export "_start")) (func (export "a\1b[2J{long}")))"#));
    assert!(info.exports.iter().all(|name| name.len() < 210 && !name.contains('\u{1b}')), "{:?}", info.exports);
}
