//! A gate that knows a module by its first bytes.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use wasmill_protocol::TenantName;
use wasmill_protocol::module::{ModuleInfo, ModuleKind, ModuleRejection};
use wasmill_scheduler_http::{GateError, ModuleGate, Upload, UploadBytes};

/// A module that is a command.
pub(crate) const COMMAND: &[u8] = b"\0asm command";
/// A command whose exports have more than a megabyte of names.
pub(crate) const SPRAWLING: &[u8] = b"\0asm command with exports";
/// A module that is a task component.
pub(crate) const TASK: &[u8] = b"\0asm task";

/// A task component of its own.
pub(crate) fn module(name: &str) -> Vec<u8> {
    [TASK, name.as_bytes()].concat()
}

/// Counts how often it was asked.
#[derive(Default)]
pub(crate) struct FakeGate {
    pub(crate) asked: AtomicUsize,
}

impl ModuleGate for FakeGate {
    fn inspect<'a>(&'a self, _: &'a TenantName, upload: Upload<'a>) -> BoxFuture<'a, Result<ModuleInfo, GateError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let bytes = match upload.bytes {
            UploadBytes::File(path) => std::fs::read(path).unwrap(),
            UploadBytes::Memory(bytes) => bytes.to_vec(),
        };
        assert_eq!(bytes.len() as u64, upload.byte_count);
        let rejected = |message: &str| {
            GateError::Rejected(ModuleRejection { code: "module_invalid".to_owned(), message: message.to_owned() })
        };
        let info = |kind| ModuleInfo { kind, exports: vec!["run".to_owned()], ..ModuleInfo::default() };
        let answer = match &bytes[..] {
            bytes if bytes.starts_with(SPRAWLING) => {
                let exports = (0..20).map(|number| format!("{number}{}", "x".repeat(60_000))).collect();
                Ok(ModuleInfo { exports, ..info(ModuleKind::Command) })
            }
            bytes if bytes.starts_with(COMMAND) => Ok(info(ModuleKind::Command)),
            bytes if bytes.starts_with(TASK) => Ok(info(ModuleKind::Task)),
            b"busy" => Err(GateError::Busy { retry_ms: 3_000 }),
            b"laborious" => {
                Err(GateError::OverBudget { retry_ms: 7_000, ms_per_s: upload.compile_ms_per_s.unwrap_or(100) })
            }
            b"fault" => Err(GateError::Fault("the compiler is not to be found in /secret/path".to_owned())),
            b"panic" => panic!("a bug of ours with a secret"),
            _ => Err(rejected("found nothing that can be run")),
        };
        std::future::ready(answer).boxed()
    }
}
