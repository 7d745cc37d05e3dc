//! The leader, and the hosts that live.

use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use thiserror::Error;
use tokio::sync::watch;
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Incarnation, Term};

/// Elects a leader and knows the hosts.
pub trait Membership: Send + Sync {
    /// Waits until this node is elected.
    ///
    /// To be elected is only the permission to try: the log decides who leads.
    fn campaign(&self, node: &str) -> BoxFuture<'_, Result<Leadership, MembershipError>>;

    /// Makes a host known until the registration is dropped or its lease ends. It takes the id from
    /// another process that has it, in a later life than that one has.
    ///
    /// # Errors
    ///
    /// [`MembershipError::Taken`] when another process has the id in the same life or a later one.
    fn register(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>>;

    /// As [`Membership::register`], but leaves the id to another process that has it, whatever life
    /// that is in.
    ///
    /// # Errors
    ///
    /// [`MembershipError::Taken`] when another process has the id.
    fn register_if_free(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>> {
        self.register(host)
    }

    /// The hosts that live now, each as [`HostEvent::Joined`], and then every change, for ever.
    fn hosts(&self) -> BoxStream<'static, HostEvent>;
}

/// A won election; dropping it resigns, without waiting until others know.
pub struct Leadership {
    /// Greater than the term of every leader before.
    pub term: Term,
    /// Becomes `true` when the lease is lost: stop leading at once. Never goes back.
    pub lost: watch::Receiver<bool>,
    /// The seat itself.
    pub lease: Box<dyn Lease>,
}

/// A host's registration; dropping it deregisters, without waiting until others know.
pub struct HostRegistration {
    /// Becomes `true` when the lease has ended without our doing: the host stops its attempts.
    pub lost: watch::Receiver<bool>,
    /// The host that has the id now: known before `lost` becomes true, when that is why.
    pub replaced_by: ReplacedBy,
    /// The registration itself.
    pub lease: Box<dyn Lease>,
}

/// The life of a host that has taken the place of another one, if one has.
pub type ReplacedBy = Arc<OnceLock<HostInfo>>;

/// A leadership or a registration, held until it is released, dropped, or lost.
pub trait Lease: Send + Sync {
    /// Gives it back, and waits until others can know, for a bounded time. A process that leaves
    /// politely calls this: others need not wait for the lease to end by itself.
    fn release(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// A change among the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// A host lives, or has started anew with a higher incarnation.
    Joined(HostInfo),
    /// The lease of this life of a host has ended.
    Left(HostId, Incarnation),
}

/// The election or the registration failed.
#[derive(Debug, Clone, Error)]
pub enum MembershipError {
    /// Could not be done; trying again may help.
    #[error("cannot {action}: {reason}")]
    Unreachable {
        /// The action that was attempted.
        action: &'static str,
        /// Why.
        reason: String,
    },
    /// Another process has the id of the host.
    #[error("another process is host `{}`, life {} at `{}`", by.id, by.incarnation, by.address)]
    Taken {
        /// The facts that it is registered with.
        by: Box<HostInfo>,
    },
}
