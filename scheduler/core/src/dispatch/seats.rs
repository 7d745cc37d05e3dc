//! Asking policies, none of which is trusted.

use wasmill_protocol::Timestamp;
use wasmill_protocol::policy::PolicyHook;
use wasmill_record::event::EventBody;

use crate::io::BenchedPolicy;
use crate::leader::Tally;
use crate::policy::{
    self, Choice, Fair, HostChange, Keys, LeastLoaded, Order, Place, PolicyFault, ShapeView, TenantView, Wanted,
};

/// A policy that failed so often in a row is benched.
const FAULTS_IN_A_ROW_MAX: u32 = 5;

/// Bytes of a fault's reason that are kept.
const REASON_BYTES_MAX: usize = 512;

/// How often a policy failed.
#[derive(Debug, Default)]
struct Conduct {
    faults_in_a_row: u32,
    /// That the policy before this one was benched, until it is said.
    news: Option<EventBody>,
}

impl Conduct {
    fn answered(&mut self) {
        self.faults_in_a_row = 0;
    }

    /// A policy did not answer. Whether that was once too often.
    fn failed(&mut self, hook: PolicyHook, name: &str, fault: PolicyFault, tally: &mut Tally) -> bool {
        tally.policy_faults += 1;
        self.faults_in_a_row += 1;
        if self.faults_in_a_row < FAULTS_IN_A_ROW_MAX {
            return false;
        }
        let mut reason = fault.reason;
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        self.news = Some(EventBody::PolicyBenched { hook, policy: name.to_owned(), reason });
        tally.policies_benched += 1;
        self.faults_in_a_row = 0;
        true
    }
}

fn is_benched(name: &str, benched: Option<&BenchedPolicy>) -> bool {
    benched.is_some_and(|benched| benched.policy == name)
}

/// Who orders.
#[derive(Debug)]
pub(super) struct OrderSeat {
    policy: Box<dyn Order>,
    conduct: Conduct,
}

impl OrderSeat {
    /// A seat for the policy of that name, or for the built-in default if that is benched.
    pub(super) fn named(name: &str, benched: Option<&BenchedPolicy>) -> Self {
        Self::new(policy::order_by_name(name).expect("the configuration was checked"), benched)
    }

    /// A seat for `policy`, or for the built-in default if that is the one that was benched.
    pub(super) fn new(policy: Box<dyn Order>, benched: Option<&BenchedPolicy>) -> Self {
        let policy = if is_benched(policy.name(), benched) { Box::new(Fair) } else { policy };
        Self { policy, conduct: Conduct::default() }
    }

    /// Whether the policy is to be asked about shapes.
    pub(super) fn orders_shapes(&self) -> bool {
        self.policy.orders_shapes()
    }

    /// One key for each tenant and each shape; from the built-in default when the policy does not answer.
    pub(super) fn keys(
        &mut self,
        now: Timestamp,
        tenants: &[TenantView],
        shapes: &[ShapeView],
        tally: &mut Tally,
    ) -> Keys {
        let answer = self.policy.keys(now, tenants, shapes).and_then(|keys| {
            let (of_tenants, of_shapes) = (keys.tenants.len(), keys.shapes.len());
            if (of_tenants, of_shapes) == (tenants.len(), shapes.len()) {
                return Ok(keys);
            }
            let (tenants, shapes) = (tenants.len(), shapes.len());
            let reason = format!("{of_tenants} keys for {tenants} tenants, {of_shapes} for {shapes} shapes");
            Err(PolicyFault { reason })
        });
        match answer {
            Ok(keys) => {
                self.conduct.answered();
                keys
            }
            Err(fault) => {
                if self.conduct.failed(PolicyHook::Order, self.policy.name(), fault, tally) {
                    self.policy = Box::new(Fair);
                }
                Fair.keys(now, tenants, shapes).expect("a built-in policy does not fail")
            }
        }
    }

    /// The event of a policy that was benched since the last call.
    pub(super) fn take_news(&mut self) -> Option<EventBody> {
        self.conduct.news.take()
    }
}

/// Who places. The built-in default always knows the hosts: it is the one that decides when the policy does not answer.
#[derive(Debug)]
pub(super) struct PlaceSeat {
    default: LeastLoaded,
    /// `None` when the default is seated.
    policy: Option<Box<dyn Place>>,
    conduct: Conduct,
}

impl PlaceSeat {
    /// A seat for the policy of that name, or for the built-in default if that is benched.
    pub(super) fn named(name: &str, benched: Option<&BenchedPolicy>) -> Self {
        let policy = policy::place_by_name(name).expect("the configuration was checked");
        let is_default = policy.name() == LeastLoaded::default().name();
        let policy = Some(policy).filter(|policy| !is_default && !is_benched(policy.name(), benched));
        Self { default: LeastLoaded::default(), policy, conduct: Conduct::default() }
    }

    /// Seats `policy`, unless it is the one that was benched, and tells it all hosts.
    pub(super) fn seat(&mut self, policy: Box<dyn Place>, benched: Option<&BenchedPolicy>, hosts: &[HostChange]) {
        self.conduct = Conduct::default();
        self.policy = Some(policy).filter(|policy| !is_benched(policy.name(), benched));
        if let Some(policy) = &mut self.policy {
            policy.changed(hosts);
        }
    }

    /// Something about hosts has changed.
    pub(super) fn changed(&mut self, hosts: &[HostChange]) {
        if hosts.is_empty() {
            return;
        }
        self.default.changed(hosts);
        if let Some(policy) = &mut self.policy {
            policy.changed(hosts);
        }
    }

    /// Where to put what is wanted; from the built-in default when the policy does not answer. To be checked.
    pub(super) fn place(&mut self, now: Timestamp, wanted: &[Wanted], tally: &mut Tally) -> Vec<Choice> {
        let Some(policy) = &mut self.policy else { return self.place_by_default(now, wanted) };
        match policy.place(now, wanted) {
            Ok(choices) => {
                self.conduct.answered();
                choices
            }
            Err(fault) => {
                if self.conduct.failed(PolicyHook::Place, policy.name(), fault, tally) {
                    self.policy = None;
                }
                self.place_by_default(now, wanted)
            }
        }
    }

    /// Whether tasks that were left out could have been placed, as the hosts are. The built-in default leaves nothing out that fits.
    pub(super) fn is_declined(&self, wish: &Wanted) -> bool {
        self.policy.is_some() && self.default.has_room(wish)
    }

    /// Where the built-in default puts it.
    pub(super) fn place_by_default(&mut self, now: Timestamp, wanted: &[Wanted]) -> Vec<Choice> {
        self.default.place(now, wanted).expect("a built-in policy does not fail")
    }

    /// The event of a policy that was benched since the last call.
    pub(super) fn take_news(&mut self) -> Option<EventBody> {
        self.conduct.news.take()
    }
}
