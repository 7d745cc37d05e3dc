//! The directory as parts of a snapshot, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_protocol::Timestamp;
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::tenant::Token;
use wasmill_record::snapshot::DirectoryPart;

use super::Contents;

/// Modules in one part: their lists of imports make them large.
const MODULES_PER_PART: usize = 1024;

impl Contents {
    /// A part for each tenant, or more for one with many modules. [`Contents::current`] is in none
    /// of them: the state has it too.
    pub(crate) fn parts(&self) -> impl Iterator<Item = DirectoryPart> + '_ {
        let mut tokens: BTreeMap<_, Vec<(Token, Timestamp)>> = BTreeMap::new();
        // In no order, which the tokens of each tenant get below.
        self.tokens.values().for_each(|(token, created)| {
            tokens.entry(&token.tenant).or_default().push((token.clone(), *created));
        });
        self.tenants.iter().flat_map(move |(name, (tenant, created))| {
            let mut tokens = tokens.remove(name).unwrap_or_default();
            tokens.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
            let aliases = self.aliases.get(name).cloned().unwrap_or_default();
            let modules: Vec<_> = self.modules.get(name).into_iter().flat_map(BTreeMap::values).collect();
            let owned = |modules: &[&(Arc<ModuleInfo>, Timestamp)]| -> Vec<(ModuleInfo, Timestamp)> {
                modules.iter().map(|(module, uploaded)| (ModuleInfo::clone(module), *uploaded)).collect()
            };
            let mut chunks = modules.chunks(MODULES_PER_PART);
            let (tenant, created) = (tenant.clone(), *created);
            let modules = chunks.next().map(owned).unwrap_or_default();
            let mut parts = vec![DirectoryPart { tenant: tenant.clone(), created, tokens, modules, aliases }];
            let more = |modules| DirectoryPart { tenant: tenant.clone(), created, modules, ..DirectoryPart::default() };
            parts.extend(chunks.map(|modules| more(owned(modules))));
            parts
        })
    }

    /// Adds what a part says. Begin with [`Contents::default`].
    pub(crate) fn add(&mut self, part: DirectoryPart) {
        let DirectoryPart { tenant, created, tokens, modules, aliases } = part;
        self.tokens.extend(tokens.into_iter().map(|(token, created)| (token.hash, (token, created))));
        if !modules.is_empty() {
            let modules = modules.into_iter().map(|(module, uploaded)| (module.digest, (Arc::new(module), uploaded)));
            self.modules.entry(tenant.name.clone()).or_default().extend(modules);
        }
        if !aliases.is_empty() {
            self.aliases.entry(tenant.name.clone()).or_default().extend(aliases);
        }
        self.tenants.insert(tenant.name.clone(), (tenant, created));
    }
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::tenant::{Role, Tenant};
    use wasmill_protocol::{Digest, TenantName};
    use wasmill_record::event::{Event, EventBody};

    use super::*;

    fn digest(number: u64) -> Digest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Digest(bytes)
    }

    #[test]
    fn a_directory_comes_back_as_it_was() {
        let name: TenantName = "acme".parse().unwrap();
        let tenant = Tenant { name: name.clone(), weight: 3, class: -2, ..Tenant::default() };
        let mut bodies = vec![EventBody::TenantPut { tenant }];
        for tenant in [name, TenantName::default()] {
            let (id, hash) = (format!("of-{tenant}"), digest(bodies.len() as u64));
            let token = Token { id, hash, tenant: tenant.clone(), role: Role::Submit, ..Token::default() };
            bodies.push(EventBody::TokenAdded { token });
            for number in 0..3_000 {
                let imports = vec![format!("import-{number}")];
                let module = Arc::new(ModuleInfo { digest: digest(number), imports, ..ModuleInfo::default() });
                bodies.push(EventBody::ModuleAdded { tenant: tenant.clone(), module });
            }
            bodies.push(EventBody::AliasSet { tenant, name: "app".to_owned(), digest: digest(2) });
        }
        let mut contents = Contents::of_empty_log();
        for (at, body) in (1..).map(Timestamp).zip(bodies) {
            contents.apply(&Event { at, body });
        }
        let mut read = Contents::default();
        let parts: Vec<_> = contents.parts().collect();
        assert_eq!(parts.len(), 6, "two tenants, three parts each");
        parts.into_iter().for_each(|part| read.add(part));
        assert_eq!(read, contents);
    }

    #[test]
    fn what_is_empty_stays_empty() {
        let mut read = Contents::default();
        Contents::of_empty_log().parts().for_each(|part| read.add(part));
        assert_eq!(read, Contents::of_empty_log());
    }
}
