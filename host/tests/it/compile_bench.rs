//! The common part of the tests of compiling: a compiler in a folder of its own, and modules to
//! give it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use wasm_encoder as wasm;
use wasmill_host::compile::{
    CompileProgram, Compiler, CompilerConfig, InspectError, ModuleCache, ModuleCacheConfig, Payer,
};
use wasmill_host::engine::{Engines, Instances};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::{Digest, TenantName};

use crate::compile_check::digest_of;

pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) compiler: Arc<Compiler>,
    configure: Configure,
}

type Configure = Arc<dyn Fn(&mut CompilerConfig)>;

/// The real child.
pub(crate) fn child() -> CompileProgram {
    CompileProgram { path: env!("CARGO_BIN_EXE_wasmill-compile").into(), args: Vec::new() }
}

/// A child that does what a shell script says; it has read the request already.
pub(crate) fn script(text: &str) -> CompileProgram {
    CompileProgram { path: "/bin/sh".into(), args: vec!["-c".into(), format!("read request; {text}").into()] }
}

pub(crate) fn tenant(name: &str) -> TenantName {
    name.parse().unwrap()
}

pub(crate) fn payer(name: &str) -> Payer {
    Payer::new(tenant(name))
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(configure: impl Fn(&mut CompilerConfig) + 'static) -> Self {
        let configure: Configure = Arc::new(configure);
        let folder = tempfile::tempdir().unwrap();
        let compiler = open(folder.path(), &configure);
        Self { folder, compiler, configure }
    }

    /// The same folder after a restart.
    pub(crate) fn reopened(self) -> Self {
        drop(self.compiler);
        let compiler = open(self.folder.path(), &self.configure);
        Self { folder: self.folder, compiler, configure: self.configure }
    }

    /// The same folder after a restart with another configuration.
    pub(crate) fn reconfigured(self, configure: impl Fn(&mut CompilerConfig) + 'static) -> Self {
        Self { configure: Arc::new(configure), ..self }.reopened()
    }

    pub(crate) fn cache(&self) -> ModuleCache {
        let engines = Arc::new(Engines::new(Instances::Pooled { guests_max: 1 }));
        ModuleCache::new(Arc::clone(&self.compiler), engines, ModuleCacheConfig::default())
    }

    /// Stores a module as an upload would.
    pub(crate) fn store(&self, bytes: &[u8]) -> (PathBuf, Digest) {
        let digest = digest_of(bytes);
        let path = self.folder.path().join(digest.hex());
        fs::write(&path, bytes).unwrap();
        (path, digest)
    }

    pub(crate) async fn push(&self, name: &str, bytes: &[u8]) -> Result<ModuleInfo, InspectError> {
        let (path, digest) = self.store(bytes);
        self.compiler.inspect(&payer(name), &path, digest, bytes.len() as u64).await
    }

    /// All artifacts on disk.
    pub(crate) fn artifacts(&self) -> Vec<PathBuf> {
        let mut found = files(&self.folder.path().join("cache"));
        found.retain(|path| path.extension().is_some_and(|extension| extension == "cwasm"));
        found
    }
}

fn open(folder: &Path, configure: &Configure) -> Arc<Compiler> {
    let mut config = CompilerConfig::new(folder.join("cache"), child());
    configure(&mut config);
    Arc::new(Compiler::open(config).unwrap())
}

/// All files in a folder and the folders in it.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The message of a refusal.
#[track_caller]
pub(crate) fn rejected(result: Result<ModuleInfo, InspectError>) -> String {
    match result {
        Err(InspectError::Rejected(refused)) => {
            assert_eq!(refused.code, "module_invalid");
            refused.message
        }
        other => panic!("it should be refused: {other:?}"),
    }
}

/// A command that does nothing, different for each number.
pub(crate) fn command(number: u32) -> Vec<u8> {
    wat::parse_str(format!(r#"(module (func (export "_start") (drop (i32.const {number}))))"#)).unwrap()
}

/// A command with this many more functions than its entry point: each one costs the compiler
/// memory, however small it is.
pub(crate) fn many_functions(functions_count: usize) -> Vec<u8> {
    wat::parse_str(format!(r#"(module (func (export "_start")) {})"#, "(func)".repeat(functions_count))).unwrap()
}

/// A valid command with this many functions that are laborious to compile.
pub(crate) fn laborious(functions_count: u32) -> Vec<u8> {
    use wasm::ValType::I64;
    let mut types = wasm::TypeSection::new();
    types.ty().function([], []);
    let mut functions = wasm::FunctionSection::new();
    let mut code = wasm::CodeSection::new();
    for _ in 0..functions_count {
        functions.function(0);
        let mut function = wasm::Function::new([(64, I64)]);
        for step in 0..2_000u32 {
            let (a, b, c) = (step * 7 % 64, step * 13 % 64, step * 29 % 64);
            function.instructions().local_get(a).local_get(b).i64_mul().local_get(c).i64_xor().local_set(a);
            if step % 16 == 0 {
                function.instructions().local_get(b).i32_wrap_i64().if_(wasm::BlockType::Empty);
                function.instructions().local_get(c).local_set(b).end();
            }
        }
        function.instructions().end();
        code.function(&function);
    }
    let mut exports = wasm::ExportSection::new();
    exports.export("_start", wasm::ExportKind::Func, 0);
    let mut module = wasm::Module::new();
    module.section(&types).section(&functions).section(&exports).section(&code);
    module.finish()
}
