//! Questions to policies that live outside the core, and what they answer: plain data that can
//! travel to another thread or process.
//!
//! The core hands out a question, goes on, and takes the answer as an input. At most one question
//! of each hook is under way. Tenants, shapes and hosts go by numbers; what does not change of
//! them, and what is long, is told once, when something appears. A slot is used again with another
//! generation: what was known of its earlier use is gone then.

use std::sync::Arc;

use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::{Digest, HostId, TenantName, Term, Timestamp};

use super::{Choice, HostStatus, Keys, PolicyFault, Ref};
use crate::state::Labels;

/// A policy that lives outside the core.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outside {
    /// Its name.
    pub name: String,
    /// Its digest: benched it stays so under it, whatever it is called.
    pub digest: Digest,
    /// Its own configuration.
    pub config: String,
    /// Whether it tells the shapes of a tenant apart. If not it is not asked about them.
    pub orders_shapes: bool,
}

/// Names a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId {
    /// The term of the leadership that asks.
    pub term: Term,
    /// The hook that the policy decides.
    pub hook: PolicyHook,
    /// Grows whenever a policy is seated and after each fault: the first question of a sitting
    /// tells everything anew.
    pub sitting: u64,
    /// Grows with every question of a sitting.
    pub number: u64,
}

/// A question to one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Which question.
    pub id: AskId,
    /// Which policy.
    pub policy: Arc<Outside>,
    /// When it is asked.
    pub at: Timestamp,
    /// An answer that comes later is dropped.
    pub due: Timestamp,
    /// The request.
    pub question: PolicyQuestion,
}

/// The request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyQuestion {
    /// Keys for what has changed. Answered with [`PolicyAnswer::Keys`], in the same order.
    Order(OrderQuestion),
    /// Where to put what is wanted. Answered with [`PolicyAnswer::Choices`].
    Place(PlaceQuestion),
}

/// The answer of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyAnswer {
    /// To [`PolicyQuestion::Order`]: see [`Order::keys`](super::Order::keys).
    Keys(Keys),
    /// To [`PolicyQuestion::Place`]: see [`Place::place`](super::Place::place).
    Choices(Vec<Choice>),
    /// It trapped, or was stopped.
    Fault(PolicyFault),
}

/// The changes of the order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OrderQuestion {
    /// Tenants and shapes that have appeared, or are gone.
    pub news: News,
    /// Tenants with something in the queue.
    pub tenants: Vec<TenantFacts>,
    /// Shapes with something in the queue.
    pub shapes: Vec<ShapeFacts>,
}

/// The tasks to place, and the changes of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlaceQuestion {
    /// Tenants and shapes that have appeared, or are gone.
    pub news: News,
    /// Hosts that have appeared, changed or gone since the last question.
    pub hosts: Vec<HostNews>,
    /// The tasks to place.
    pub wanted: Vec<WantedFacts>,
}

/// News that is told once, before anything names it by its number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Tenants and their names.
    pub tenants: Vec<(u32, TenantName)>,
    /// Tenants that are gone. Their numbers are never used again.
    pub tenants_gone: Vec<u32>,
    /// Shapes.
    pub shapes: Vec<ShapeNews>,
}

/// The facts of a shape that never change: see [`ShapeView`](super::ShapeView).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeNews {
    /// Which.
    pub id: Ref,
    /// Whose.
    pub tenant: u32,
    /// -100 to 100, higher is more urgent among the tasks of its tenant.
    pub priority: i8,
    /// The module.
    pub module: Digest,
    /// The memory limit of each task.
    pub memory_bytes: u64,
    /// Labels that a host must carry.
    pub require: Arc<Labels>,
}

/// The facts of a tenant that change: see [`TenantView`](super::TenantView).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantFacts {
    /// Which.
    pub id: u32,
    /// Its weight.
    pub weight: u32,
    /// Its class.
    pub class: i8,
    /// Its tasks that run.
    pub running: u64,
    /// Its virtual time.
    pub time: u64,
    /// By how much that grows when a task starts.
    pub charge: u64,
}

/// The facts of a shape that change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeFacts {
    /// Which.
    pub id: Ref,
    /// Tasks in the queue.
    pub queued: u32,
    /// Since when the one of them that waits longest has been in the queue.
    pub oldest: Timestamp,
}

/// Tasks that are to be placed: see [`Wanted`](super::Wanted).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFacts {
    /// Of which shape.
    pub shape: ShapeFacts,
    /// How many.
    pub count: u32,
    /// Whether they may take places that are kept.
    pub kept: bool,
    /// Kinds of hosts that can have what they need.
    pub kinds: Arc<[u32]>,
}

/// The change of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNews {
    /// Which.
    pub host: Ref,
    /// When it has appeared, or its labels have changed.
    pub profile: Option<HostProfile>,
    /// Modules that are ready to run there, when those have changed.
    pub modules_warm: Option<Arc<[Digest]>>,
    /// `None` when it is gone for good.
    pub facts: Option<HostFacts>,
}

/// The facts of a host that hardly ever change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProfile {
    /// Its name.
    pub id: HostId,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// CPU cores for guests.
    pub cores: u32,
}

/// The facts of a host that change: see [`HostRoom`](super::HostRoom).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Hosts of one kind can serve the same shapes.
    pub kind: u32,
    /// Whether it takes new attempts.
    pub status: HostStatus,
    /// Attempts that it can take now.
    pub free: u32,
    /// Attempts that it can take beyond those, of tenants that run nothing or little.
    pub kept: u32,
    /// Attempts that it has.
    pub attempts: u32,
    /// Guests that can run at the same time.
    pub slots: u32,
    /// Bytes of memory for guests.
    pub memory_bytes: u64,
    /// Memory that is promised.
    pub memory_promised: u64,
    /// Memory that it promises at most.
    pub memory_most: u64,
    /// Memory that is in use, as the host says.
    pub memory_held: u64,
    /// Tenants that it takes no more attempts of for now.
    pub sated: Vec<u32>,
    /// CPU in use by guests, thousandths of one core.
    pub load_millicores: u32,
    /// Compiled modules that are ready to run.
    pub modules_cached: u32,
}
