//! Look-ups on a node that may not have read as far as its client has been elsewhere. Where that
//! cannot be told, nothing is said to be unknown.

use super::App;
use super::problem::{Code, Fault, Handled};
use wasmill_scheduler::handle::Unreached;

/// Looks; when nothing is found, once more after this node has caught up with the leader.
pub(super) async fn twice<T>(app: &App, look: impl Fn() -> Handled<T>) -> Handled<T> {
    let since = app.handle.position();
    match look() {
        Err(fault) if is_unknown(fault.code()) && app.handle.catch_up(since).await? => look(),
        found => found,
    }
}

/// Whether it may only be too early to find something.
pub(super) fn is_unknown(code: Code) -> bool {
    matches!(
        code,
        Code::TaskUnknown
            | Code::ModuleUnknown
            | Code::AliasUnknown
            | Code::TenantUnknown
            | Code::TokenUnknown
            | Code::Unauthorized
    )
}

impl From<Unreached> for Fault {
    fn from(unreached: Unreached) -> Self {
        match unreached {
            Unreached::LogSilent => Self::new(
                Code::Overloaded,
                "the log does not answer: this node cannot tell whether there is such a thing",
            ),
            Unreached::Behind => Self::new(
                Code::Overloaded,
                "this node has not read to the end of the log yet, and cannot tell whether there is such a thing",
            ),
        }
    }
}
