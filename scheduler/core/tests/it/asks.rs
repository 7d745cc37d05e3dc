//! Questions to policies outside, as scenarios show and answer them.

use std::collections::BTreeMap;

use wasmill_protocol::TenantName;
use wasmill_protocol::policy::PolicyHook;
use wasmill_scheduler_core::policy::ask::{Ask, AskId, HostNews, News, PolicyQuestion};
use wasmill_scheduler_core::policy::{Choice, Ref};

use crate::names::Names;
use crate::show::time;

/// The questions, and the facts that the policies were told.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    asked: BTreeMap<String, AskId>,
    last: BTreeMap<PolicyHook, AskId>,
    tenants: BTreeMap<u32, TenantName>,
    hosts: BTreeMap<String, Ref>,
}

impl Asks {
    /// The question of a name, or the last one.
    pub(crate) fn id(&self, hook: PolicyHook, name: Option<&str>) -> AskId {
        match name {
            Some(name) => self.asked[&format!("{}-{name}", hook.as_str())],
            None => self.last[&hook],
        }
    }

    /// `1:h2:3`: three tasks of what was wanted in the second place go to `h2`.
    pub(crate) fn choice(&self, text: &str) -> Choice {
        let parts: Vec<&str> = text.split(':').collect();
        let host = self.hosts.get(parts[1]).copied().unwrap_or(Ref { slot: u32::MAX, generation: 0 });
        Choice { wanted: parts[0].parse().unwrap(), host, count: parts[2].parse().unwrap() }
    }

    pub(crate) fn show(&mut self, names: &Names, ask: &Ask) -> String {
        let name = format!("{}-{}.{}", ask.id.hook.as_str(), ask.id.sitting, ask.id.number);
        self.asked.insert(name.clone(), ask.id);
        self.last.insert(ask.id.hook, ask.id);
        let question = match &ask.question {
            PolicyQuestion::Order(question) => {
                let mut parts = self.news(names, &question.news);
                let tenants = question
                    .tenants
                    .iter()
                    .map(|tenant| format!("{} runs {}", self.tenants[&tenant.id], tenant.running));
                parts.extend(tenants);
                parts.extend(
                    question.shapes.iter().map(|shape| format!("shape {} has {}", shape.id.slot, shape.queued)),
                );
                parts
            }
            PolicyQuestion::Place(question) => {
                let mut parts = self.news(names, &question.news);
                parts.extend(question.hosts.iter().map(|host| self.host(names, host)));
                parts.extend(
                    question.wanted.iter().map(|wish| format!("{} of shape {}?", wish.count, wish.shape.id.slot)),
                );
                parts
            }
        };
        format!("{} as {name} until {}: {}", ask.policy.name, time(ask.due), question.join("; "))
    }

    fn news(&mut self, names: &Names, news: &News) -> Vec<String> {
        self.tenants.extend(news.tenants.iter().cloned());
        let gone = news.tenants_gone.iter().map(|tenant| format!("tenant {} is gone", self.tenants[tenant]));
        let tenants = news.tenants.iter().map(|(number, name)| format!("tenant {number} is {name}"));
        let shapes = news.shapes.iter().map(|shape| {
            let (tenant, module) = (&self.tenants[&shape.tenant], names.module_name(&shape.module));
            format!("shape {} is {tenant}, module {module}, {} MiB", shape.id.slot, shape.memory_bytes >> 20)
        });
        gone.chain(tenants).chain(shapes).collect()
    }

    fn host(&mut self, names: &Names, news: &HostNews) -> String {
        if let Some(profile) = &news.profile {
            self.hosts.insert(profile.id.to_string(), news.host);
        }
        let known = self.hosts.iter().find(|(_, host)| **host == news.host).map_or("?", |(name, _)| name);
        let Some(facts) = &news.facts else { return format!("{known} is gone") };
        let warm = news.modules_warm.iter().map(|modules| {
            let modules: Vec<_> = modules.iter().map(|module| names.module_name(module)).collect();
            format!(", warm {}", modules.join(" "))
        });
        let new = if news.profile.is_some() { "new " } else { "" };
        let (mib, held) = (facts.memory_promised >> 20, facts.memory_held >> 20);
        let warm = warm.collect::<String>();
        format!("{new}{known} has {} free, {mib} MiB promised, {held} MiB held{warm}", facts.free + facts.kept)
    }
}
