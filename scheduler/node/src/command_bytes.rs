//! What a command takes in a message and in a record, without encoding it.

use std::collections::BTreeMap;

use wasmill_protocol::command::{Command, ModuleRef};
use wasmill_protocol::{Payload, TaskSpec};

/// What a call has around its commands.
pub const CALL_BYTES: usize = 1024;
/// Names of fields, and everything of a known size.
const AROUND_BYTES: usize = 2 * 1024;
/// The mark in front of a text.
const MARK_BYTES: usize = 5;
/// An edge, with the names of its fields.
const EDGE_BYTES: usize = 64;

/// No encoding of this command takes more.
pub fn at_most(command: &Command) -> usize {
    let varying = match command {
        Command::Submit { module, spec, key, edges, .. } => {
            let alias = if let ModuleRef::Alias(alias) = module { alias.len() } else { 0 };
            alias + key.as_ref().map_or(0, |key| key.key.len()) + of_task(spec) + edges.len() * EDGE_BYTES
        }
        Command::AddModule { module, alias, .. } => {
            texts(module.imports.iter().chain(&module.exports).chain(alias).chain(&module.name).chain(&module.hints))
        }
        Command::Cancel { reason, .. } => texts(reason),
        Command::AddToken { token } | Command::AddFirstToken { token } => token.name.len(),
        Command::LiftPolicy { policy, .. } => policy.len(),
        // Names, whose length is checked.
        _ => 0,
    };
    varying + AROUND_BYTES
}

fn of_task(spec: &TaskSpec) -> usize {
    let input = if let Payload::Inline(bytes) = &spec.input { bytes.len() } else { 0 };
    let alone = spec.name.iter().chain(&spec.description).chain(&spec.idempotency_key).chain(&spec.program);
    input
        + spec.ok_exit.len() * 2
        + texts(alone.chain(&spec.args))
        + pairs(&spec.labels)
        + pairs(&spec.env)
        + pairs(&spec.require)
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> usize {
    texts.into_iter().map(|text| text.len() + MARK_BYTES).sum()
}

fn pairs(map: &BTreeMap<String, String>) -> usize {
    texts(map.keys()) + texts(map.values())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmill_protocol::command::KeyCheck;
    use wasmill_protocol::module::ModuleInfo;
    use wasmill_protocol::{Digest, LogSeq, TaskId, TenantName};

    use super::*;

    #[test]
    fn nothing_is_larger_than_it_is_said_to_be() {
        let text = |letters: usize| "x".repeat(letters);
        let map = |count: usize| (0..count).map(|number| (format!("{number}{}", text(40)), text(250))).collect();
        let spec = TaskSpec {
            input: Payload::Inline(vec![7; 32 * 1024].into()),
            name: Some(text(256)),
            description: Some(text(4096)),
            labels: map(64),
            args: vec![text(100); 256],
            program: Some("€".repeat(256)),
            ok_exit: (0..=255).collect(),
            env: map(256),
            idempotency_key: Some(text(128)),
            require: map(32),
            ..TaskSpec::default()
        };
        let key = KeyCheck { key: text(128), fingerprint: Digest([255; 32]), checked_to: LogSeq(u64::MAX) };
        let names = vec![text(70_000); 9];
        let module = ModuleInfo { imports: names.clone(), exports: names, ..ModuleInfo::default() };
        let (tenant, task) = (TenantName::default_tenant, TaskId::default());
        let commands = [
            Command::Submit {
                task,
                module: ModuleRef::Alias(text(64)),
                spec: Arc::new(spec),
                key: Some(key),
                edges: Vec::new(),
            },
            Command::Submit {
                task,
                module: ModuleRef::Digest(Digest::default()),
                spec: Arc::default(),
                key: None,
                edges: Vec::new(),
            },
            Command::AddModule { tenant: tenant(), module: Arc::new(module), alias: Some(text(64)) },
            Command::Cancel { tenant: tenant(), task, reason: Some(text(4096)) },
        ];
        for command in commands {
            let (bytes, said) = (rmp_serde::to_vec_named(&command).unwrap().len(), at_most(&command));
            assert!((bytes..bytes + 4 * AROUND_BYTES).contains(&said), "{said} for {bytes}");
        }
    }
}
