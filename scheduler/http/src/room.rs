//! Room for what is stored of a submission: asked for before anything is stored, and given back
//! when it is refused.

use std::sync::Arc;

use wasmill_protocol::command::{Command, ModuleRef, Refusal};
use wasmill_protocol::{Payload, TaskId, TaskSpec, TenantName};

use super::App;
use super::problem::{Code, Fault, Handled};
use super::submit::Draft;
use wasmill_scheduler::read_model::{OverQuota, Reservation, submission_bytes};

/// The bytes that a task on its way has taken of its tenant's quota; nothing when there is none.
/// Kept until the task is durable.
pub(super) type Room = Option<Reservation>;

/// The quota of stored bytes of a tenant.
pub(super) fn quota(app: &App, tenant: &TenantName) -> Option<u64> {
    app.handle.shared().directory.read().tenants.get(tenant).and_then(|(tenant, _)| tenant.quotas.stored_bytes)
}

/// Takes the room of a task whose payload has `large` bytes beside what is in `spec`.
pub(super) fn reserve(app: &App, quota: Option<u64>, spec: &TaskSpec, large: u64) -> Handled<Room> {
    let Some(quota) = quota else { return Ok(None) };
    let bytes = submission_bytes(spec) + large;
    match app.handle.shared().read_model.reserve(&spec.tenant, bytes, quota) {
        Ok(room) => Ok(Some(room)),
        Err(OverQuota { used }) => {
            let detail = format!(
                "the tenant's quota `stored_bytes` of {quota} does not allow this task, which takes {bytes}: {used} are stored or on their way"
            );
            Err(Fault::new(Code::QuotaExceeded, detail).field("stored_bytes").limit(quota))
        }
    }
}

impl Draft {
    /// Takes the room of a task, and makes a payload that is not inline a blob. Before that the
    /// leader is asked, so that nothing is stored for what it refuses.
    pub(super) async fn take_room(&mut self, app: &App) -> Handled<Room> {
        let large = self.large.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let room = reserve(app, quota(app, &self.spec.tenant), &self.spec, large)?;
        if let Some(bytes) = self.large.take() {
            let (module, spec) = (ModuleRef::Digest(self.spec.module), Arc::new(self.spec.clone()));
            app.handle
                .check(Command::Submit { task: TaskId::default(), module, spec, key: None, edges: Vec::new() })
                .await?;
            let stat = app.handle.shared().blobs.put(bytes).await?;
            self.spec.input = Payload::Blob { digest: stat.digest, bytes: stat.bytes };
        }
        Ok(room)
    }
}

/// Nothing will name the payload of a task that was refused; unless nobody knows whether it was.
pub(super) fn refused(app: &App, spec: &TaskSpec, refusal: &Refusal) {
    if !matches!(refusal, Refusal::OutcomeUnknown) {
        app.handle.shared().read_model.note_unneeded(spec.input.blob());
    }
}
