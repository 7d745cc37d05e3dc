//! Refusals of the leader, the blobs and the read model, as problems.

use wasmill_fabric::BlobError;
use wasmill_protocol::command::{QuotaKind, Refusal};

use super::problem::{Code, Fault};

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TaskUnknown => Self::plain(Code::TaskUnknown),
            Refusal::ModuleUnknown => Self::plain(Code::ModuleUnknown),
            Refusal::ModuleInUse { task } => {
                Self::new(Code::ModuleInUse, format!("task {task} uses the module and is not final")).task(task)
            }
            Refusal::AliasUnknown => Self::plain(Code::AliasUnknown),
            Refusal::TenantUnknown => Self::plain(Code::TenantUnknown),
            Refusal::TenantExists => Self::plain(Code::TenantExists).field("name"),
            Refusal::TenantPermanent => Self::plain(Code::TenantPermanent),
            Refusal::TokenUnknown => Self::plain(Code::TokenUnknown),
            Refusal::TokenExists | Refusal::AdminExists => Self::plain(Code::TokenExists),
            Refusal::HostUnknown => Self::plain(Code::HostUnknown),
            Refusal::Quota { quota, limit } => quota_used_up(quota, limit),
            Refusal::KeyConflict { task } => key_conflict(task),
            Refusal::KeyCheckStale => Self::new(Code::Overloaded, "the idempotency key could not be looked up in time"),
            Refusal::Overloaded { what, retry_ms } => {
                let code = if what.is_of_callers() { Code::QueueFull } else { Code::Overloaded };
                Self::new(code, what.to_string()).retry_ms(retry_ms)
            }
            Refusal::TooMany { what, limit } => {
                Self::new(Code::LimitExceeded, format!("there are {limit} {} already", what.as_str())).limit(limit)
            }
            Refusal::TooLarge { bytes, bytes_max } => {
                let detail = format!("{bytes} bytes would go to the log, over the limit of {bytes_max} at once");
                Self::new(Code::BodyTooLarge, detail).limit(bytes_max)
            }
            Refusal::NoSpace => Self::plain(Code::NoSpace),
            Refusal::NotLeader => Self::plain(Code::NotLeader),
            Refusal::OutcomeUnknown => Self::new(
                Code::NotLeader,
                "the leader's answer has not come: this may have been done or not, look before asking again",
            ),
        }
    }
}

/// The key is taken by another submission.
pub(super) fn key_conflict(task: wasmill_protocol::TaskId) -> Fault {
    Fault::new(Code::IdempotencyConflict, format!("the key belongs to task {task}, whose submission was different"))
        .field("idempotency_key")
        .task(task)
}

fn quota_used_up(quota: QuotaKind, limit: u64) -> Fault {
    let name = quota.as_str();
    let code = match quota {
        // This one empties by itself; modules stay until somebody deletes them.
        QuotaKind::TasksQueued => Code::QuotaExceeded,
        QuotaKind::Modules | QuotaKind::ModuleBytes => Code::ModuleQuota,
    };
    Fault::new(code, format!("the tenant's quota `{name}` of {limit} is used up")).field(name).limit(limit)
}

impl From<BlobError> for Fault {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NoSpace { .. } => Self::plain(Code::NoSpace),
            error => Self::internal("read or write stored bytes", &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::command::{Counted, Overload};

    use super::*;

    #[test]
    fn overload_tells_what_callers_sent_from_what_is_ours() {
        let overloaded = |what| Fault::from(Refusal::Overloaded { what, retry_ms: 500 }).code().as_str();
        for what in [Overload::Commands, Overload::Tasks, Overload::TenantShapes, Overload::Shapes] {
            assert_eq!(overloaded(what), "queue_full", "{what}");
        }
        assert_eq!(overloaded(Overload::ReadModel), "overloaded");
    }

    #[test]
    fn what_does_not_pass_by_waiting_is_no_overload() {
        let fault = Fault::from(Refusal::TooMany { what: Counted::Aliases, limit: 10_000 });
        assert_eq!((fault.code().status(), fault.document().limit), (422, Some(10_000)));
    }
}
