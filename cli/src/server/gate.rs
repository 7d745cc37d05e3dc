//! Lets the compiler decide on uploads.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use wasmill_host::compile::{Compiler, InspectError, Payer};
use wasmill_protocol::TenantName;
use wasmill_protocol::module::ModuleInfo;
use wasmill_scheduler_http::{GateError, ModuleGate, Upload, UploadBytes};

/// Every upload is compiled once, in a child process, before it is stored.
pub(crate) struct CompilerGate(pub(crate) Arc<Compiler>);

impl ModuleGate for CompilerGate {
    fn inspect<'a>(
        &'a self,
        tenant: &'a TenantName,
        upload: Upload<'a>,
    ) -> BoxFuture<'a, Result<ModuleInfo, GateError>> {
        async move {
            let inspected = match &upload.bytes {
                UploadBytes::File(path) => {
                    let payer = Payer { tenant: tenant.clone(), ms_per_s: upload.compile_ms_per_s };
                    self.0.inspect(&payer, path, upload.digest, upload.byte_count).await
                }
                UploadBytes::Memory(_) => {
                    return Err(GateError::Fault("uploads are expected as files on this node".to_owned()));
                }
            };
            inspected.map_err(|error| match error {
                InspectError::Rejected(rejection) => GateError::Rejected(rejection),
                InspectError::Busy { retry_ms } => GateError::Busy { retry_ms },
                InspectError::OverBudget { retry_ms, ms_per_s } => GateError::OverBudget { retry_ms, ms_per_s },
                InspectError::Fault(fault) => GateError::Fault(fault.to_string()),
            })
        }
        .boxed()
    }
}
