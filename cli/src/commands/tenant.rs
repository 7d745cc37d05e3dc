//! `wasmill tenant`: who may have what.

use reqwest::Method;
use serde_json::{Map, Value, json};
use wasmill_protocol::tenant::Quotas;

use crate::client::wire::{Page, Tenant};
use crate::client::{Answer, Client, Path};
use crate::commands::{PageArgs, tell_next};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Table};
use crate::units::{parse_bytes, show_bytes};

/// The options of `tenant`.
#[derive(Debug, clap::Args)]
pub(crate) struct TenantArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a tenant
    Create(Settings),
    /// List tenants
    Ls(PageArgs),
    /// Change a tenant; what is not named stays
    Set(Settings),
    /// Delete a tenant with all that it has; its running tasks are cancelled
    Rm {
        /// The tenant
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Settings {
    /// The tenant
    name: String,
    /// Share against other tenants, 1 to 1000
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    #[command(flatten)]
    quotas: QuotaArgs,
}

#[derive(Debug, clap::Args)]
struct QuotaArgs {
    /// Most tasks that wait or are queued; `none` lifts the bound
    #[arg(long, value_name = "N|none", value_parser = parse_count, help_heading = "Quotas")]
    tasks_queued: Option<Bound>,
    /// Most tasks that run at once
    #[arg(long, value_name = "N|none", value_parser = parse_count, help_heading = "Quotas")]
    tasks_running: Option<Bound>,
    /// Most memory of running tasks, like 4GiB
    #[arg(long, value_name = "SIZE|none", value_parser = parse_size, help_heading = "Quotas")]
    memory: Option<Bound>,
    /// Most modules
    #[arg(long, value_name = "N|none", value_parser = parse_count, help_heading = "Quotas")]
    modules: Option<Bound>,
    /// Most bytes of all modules, like 1GiB
    #[arg(long, value_name = "SIZE|none", value_parser = parse_size, help_heading = "Quotas")]
    module_bytes: Option<Bound>,
}

/// A quota, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound(Option<u64>);

fn parse_count(text: &str) -> Result<Bound, String> {
    match text {
        "none" => Ok(Bound(None)),
        _ => {
            text.parse().map(|count| Bound(Some(count))).map_err(|_| "a whole number or `none` is expected".to_owned())
        }
    }
}

fn parse_size(text: &str) -> Result<Bound, String> {
    if text == "none" { Ok(Bound(None)) } else { parse_bytes(text).map(|bytes| Bound(Some(bytes))) }
}

impl QuotaArgs {
    /// The quotas after the change, or `None` when none was named.
    fn over(&self, mut quotas: Quotas) -> Option<Quotas> {
        let mut is_changed = false;
        for (bound, quota) in [
            (self.tasks_queued, &mut quotas.tasks_queued),
            (self.tasks_running, &mut quotas.tasks_running),
            (self.memory, &mut quotas.memory_bytes),
            (self.modules, &mut quotas.modules),
            (self.module_bytes, &mut quotas.module_bytes),
        ] {
            if let Some(bound) = bound {
                is_changed = true;
                *quota = bound.0;
            }
        }
        is_changed.then_some(quotas)
    }
}

/// Does what the action says.
pub(crate) async fn run(client: &Client, json: bool, args: &TenantArgs) -> Outcome {
    let tenants = Path::new("/v1/tenants");
    match &args.action {
        Action::Create(settings) => {
            let mut body = changes(settings, Quotas::default())?;
            body.insert("name".into(), json!(settings.name));
            let answer = client.send_json(Method::POST, &tenants, &body).await?;
            show(json, &answer)?;
        }
        Action::Set(settings) => {
            let path = tenants.segment(&settings.name);
            // The quotas are replaced as one; those that are not named must stay.
            let before: Tenant = client.get(&path).await?.json()?;
            let answer = client.send_json(Method::PATCH, &path, &changes(settings, before.quotas)?).await?;
            show(json, &answer)?;
        }
        Action::Rm { name } => {
            client.delete(&tenants.segment(name)).await?;
        }
        Action::Ls(page) => {
            let answer = client.get(&page.apply(tenants)).await?;
            if json {
                output::print_json(&answer.body)?;
                return Ok(Exit::Done);
            }
            let page: Page<Tenant> = answer.json()?;
            print_table(&page.items)?;
            tell_next(page.next.as_deref());
        }
    }
    Ok(Exit::Done)
}

fn changes(settings: &Settings, before: Quotas) -> Result<Map<String, Value>, Failure> {
    let mut body = Map::new();
    if let Some(weight) = settings.weight {
        body.insert("weight".into(), json!(weight));
    }
    if let Some(quotas) = settings.quotas.over(before) {
        body.insert("quotas".into(), json!(quotas));
    }
    Ok(body)
}

fn show(json: bool, answer: &Answer) -> Result<(), Failure> {
    if json { output::print_json(&answer.body) } else { print_table(&[answer.json()?]) }
}

fn print_table(tenants: &[Tenant]) -> Result<(), Failure> {
    let count = |bound: Option<u64>| bound.map_or_else(|| "-".to_owned(), |bound| bound.to_string());
    let size = |bound: Option<u64>| bound.map_or_else(|| "-".to_owned(), show_bytes);
    let mut table = Table::new(["NAME", "WEIGHT", "QUEUED", "RUNNING", "MEMORY", "MODULES", "MODULE SIZE"]);
    for tenant in tenants {
        table.row([
            tenant.name.clone(),
            tenant.weight.to_string(),
            count(tenant.quotas.tasks_queued),
            count(tenant.quotas.tasks_running),
            size(tenant.quotas.memory_bytes),
            count(tenant.quotas.modules),
            size(tenant.quotas.module_bytes),
        ]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_that_are_not_named_stay() {
        let named = QuotaArgs {
            tasks_queued: Some(Bound(None)),
            tasks_running: None,
            memory: Some(Bound(Some(5))),
            modules: None,
            module_bytes: None,
        };
        let before = Quotas { tasks_queued: Some(1), modules: Some(2), ..Quotas::default() };
        let after = Quotas { tasks_queued: None, modules: Some(2), memory_bytes: Some(5), ..Quotas::default() };
        assert_eq!(named.over(before), Some(after));
        let nothing =
            QuotaArgs { tasks_queued: None, tasks_running: None, memory: None, modules: None, module_bytes: None };
        assert_eq!(nothing.over(before), None);
    }
}
