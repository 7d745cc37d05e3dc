//! Whose events are, found out by remembering everything.

use std::collections::BTreeMap;

use wasmill_protocol::{TaskId, TenantName};
use wasmill_record::event::{Event, EventBody};
use wasmill_scheduler_core::state::{Owner, TenantNumber};

/// All tenants and all tasks that there have ever been.
#[derive(Debug)]
pub(crate) struct OwnersModel {
    numbers: BTreeMap<TenantName, TenantNumber>,
    next: TenantNumber,
    tasks: BTreeMap<TaskId, TenantNumber>,
}

impl Default for OwnersModel {
    fn default() -> Self {
        Self { numbers: BTreeMap::from([(TenantName::default_tenant(), 0)]), next: 1, tasks: BTreeMap::new() }
    }
}

impl OwnersModel {
    /// Each event belongs to whom it should.
    pub(crate) fn check(&mut self, events: &[Event], owners: &[Owner]) {
        assert_eq!(events.len(), owners.len());
        for (event, owner) in events.iter().zip(owners) {
            assert_eq!(self.owner(&event.body), *owner, "{event:?}");
        }
    }

    fn owner(&mut self, body: &EventBody) -> Owner {
        match body {
            EventBody::TenantPut { tenant } => {
                let number = *self.numbers.entry(tenant.name.clone()).or_insert(self.next);
                self.next = self.next.max(number + 1);
                Some(number)
            }
            EventBody::TenantRemoved { tenant } => self.numbers.remove(tenant),
            EventBody::TokenAdded { token } => Some(self.numbers[&token.tenant]),
            EventBody::TokenRemoved { tenant, .. }
            | EventBody::ModuleAdded { tenant, .. }
            | EventBody::ModuleRemoved { tenant, .. }
            | EventBody::AliasSet { tenant, .. }
            | EventBody::AliasRemoved { tenant, .. } => Some(self.numbers[tenant]),
            EventBody::TaskSubmitted { task, spec, .. } => {
                let number = self.numbers[&spec.tenant];
                self.tasks.insert(*task, number);
                Some(number)
            }
            other => other.task().map(|task| self.tasks[&task]),
        }
    }
}
