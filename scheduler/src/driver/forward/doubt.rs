//! What became of commands whose answer never came.
//!
//! Records count only before the first one of a later term. So once this node has read where a later term begins, a command that was given to an earlier
//! leader has either been recorded already, and then its effect is there to be seen, or it never will be.

use wasmill_protocol::command::{Command, Done};
use wasmill_protocol::{LogSeq, TaskState, Term};

use crate::directory::Contents;
use crate::handle::Shared;

/// When a command was asked whose answer has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Of the leader that was asked.
    pub(super) term: Term,
    /// What this node had read before: what was recorded of the command comes later.
    pub(super) position: LogSeq,
}

/// What can be seen of a command's effect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It was done.
    Done(Done),
    /// It was not done, or doing it again changes nothing: it can be asked again.
    NotDone,
    /// This node cannot tell.
    Unclear,
}

/// Looks for what a command has done, on a node that has read that a later term `began`.
pub(super) async fn effect(shared: &Shared, doubt: Doubt, began: LogSeq, command: &Command) -> Effect {
    if began <= doubt.position.next() {
        // Nothing at all was recorded in between.
        return Effect::NotDone;
    }
    match command {
        Command::Submit { task, spec, .. } => match shared.read_model.task(&spec.tenant, *task).await {
            Ok(Some(_)) => Effect::Done(Done::Accepted { task: *task }),
            Ok(None) => Effect::NotDone,
            Err(_) => Effect::Unclear,
        },
        Command::Cancel { tenant, task, .. } => match shared.read_model.task(tenant, *task).await {
            Ok(Some(found)) if found.state == TaskState::Cancelled => Effect::Done(Done::Cancelled),
            Ok(_) => Effect::NotDone,
            Err(_) => Effect::Unclear,
        },
        other => in_directory(&shared.directory.read(), other),
    }
}

fn in_directory(directory: &Contents, command: &Command) -> Effect {
    match command {
        Command::AddToken { token } | Command::AddFirstToken { token } => match directory.tokens.get(&token.hash) {
            Some((known, _)) if known.id == token.id => Effect::Done(Done::Created),
            _ => Effect::NotDone,
        },
        Command::RemoveTenant { name } => gone(!directory.tenants.contains_key(name)),
        Command::RemoveToken { tenant, id } => {
            let is_it = |token: &wasmill_protocol::tenant::Token| token.tenant == *tenant && token.id == *id;
            gone(!directory.tokens.values().any(|(token, _)| is_it(token)))
        }
        Command::RemoveModule { tenant, digest } => gone(directory.module(tenant, *digest).is_none()),
        Command::RemoveAlias { tenant, name } => gone(directory.alias(tenant, name).is_none()),
        Command::CreateTenant { name, .. } if !directory.tenants.contains_key(name) => Effect::NotDone,
        Command::AddModule { tenant, module, alias }
            if alias.is_none() || directory.module(tenant, module.digest).is_none() =>
        {
            Effect::NotDone
        }
        // It may be ours or another's; and what another has set since must not be undone.
        _ => Effect::Unclear,
    }
}

fn gone(is_gone: bool) -> Effect {
    if is_gone { Effect::Done(Done::Removed) } else { Effect::NotDone }
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::event::{Event, EventBody};
    use wasmill_protocol::tenant::{Quotas, Tenant, Token};
    use wasmill_protocol::{Digest, TenantName, Timestamp};

    use super::*;
    use crate::directory::Directory;

    #[test]
    fn what_was_done_to_tenants_and_tokens_shows() {
        let directory = Directory::new();
        let name = || "acme".parse::<TenantName>().unwrap();
        let token = |id: &str| Token { id: id.to_owned(), hash: Digest([7; 32]), ..Token::default() };
        let create = Command::CreateTenant { name: name(), weight: 2, class: 0, quotas: Quotas::default() };
        let change = Command::ChangeTenant { name: name(), weight: Some(3), class: None, quotas: None };
        let remove = Command::RemoveTenant { name: name() };
        let add = |id| Command::AddToken { token: token(id) };
        let look = |command: &Command| in_directory(&directory.read(), command);

        assert_eq!((look(&create), look(&add("t"))), (Effect::NotDone, Effect::NotDone));
        assert_eq!(look(&remove), Effect::Done(Done::Removed));
        let tenant = Tenant { name: name(), weight: 2, ..Tenant::default() };
        let bodies = [EventBody::TenantPut { tenant }, EventBody::TokenAdded { token: token("t") }];
        directory.apply(&bodies.map(|body| Event { at: Timestamp(1), body }));

        assert_eq!((look(&create), look(&change)), (Effect::Unclear, Effect::Unclear), "others may have done it");
        assert_eq!((look(&add("t")), look(&add("u"))), (Effect::Done(Done::Created), Effect::NotDone));
        assert_eq!(look(&remove), Effect::NotDone);
    }
}
