//! `wasmill tenant`: who may have what.

use reqwest::Method;
use wasmill_api::{ChangeTenant, CreateTenant, Page, QuotasChange, TenantDoc};

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
    /// Share against other tenants of its class, 1 to 1000
    #[arg(long, value_name = "N")]
    weight: Option<u64>,
    /// -100 to 100: tenants of a higher class are served strictly first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    class: Option<i64>,
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
    /// Most CPU time for compiling its modules, in milliseconds for each second; `none` is the
    /// default
    #[arg(long, value_name = "N|none", value_parser = parse_count, help_heading = "Quotas")]
    compile_ms_per_s: Option<Bound>,
    /// Most bytes of payloads, results, logs and checkpoints, like 10GiB
    #[arg(long, value_name = "SIZE|none", value_parser = parse_size, help_heading = "Quotas")]
    stored_bytes: Option<Bound>,
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
    /// The quotas that were named; the others stay.
    fn change(&self) -> Option<QuotasChange> {
        let bound = |named: Option<Bound>| named.map(|bound| bound.0);
        let change = QuotasChange {
            tasks_queued: bound(self.tasks_queued),
            tasks_running: bound(self.tasks_running),
            memory_bytes: bound(self.memory),
            modules: bound(self.modules),
            module_bytes: bound(self.module_bytes),
            compile_ms_per_s: bound(self.compile_ms_per_s),
            stored_bytes: bound(self.stored_bytes),
        };
        Some(change).filter(|change| *change != QuotasChange::default())
    }
}

/// Does what the action says.
pub(crate) async fn run(client: &Client, json: bool, args: &TenantArgs) -> Outcome {
    let tenants = Path::new("/v1/tenants");
    match &args.action {
        Action::Create(Settings { name, weight, class, quotas }) => {
            let body = CreateTenant { name: name.clone(), weight: *weight, class: *class, quotas: quotas.change() };
            show(json, &client.send_json(Method::POST, &tenants, &body).await?)?;
        }
        Action::Set(Settings { name, weight, class, quotas }) => {
            let body = ChangeTenant { weight: *weight, class: *class, quotas: quotas.change() };
            show(json, &client.send_json(Method::PATCH, &tenants.segment(name), &body).await?)?;
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
            let page: Page<TenantDoc> = answer.json()?;
            print_table(&page.items)?;
            tell_next(page.next.as_deref());
        }
    }
    Ok(Exit::Done)
}

fn show(json: bool, answer: &Answer) -> Result<(), Failure> {
    if json { output::print_json(&answer.body) } else { print_table(&[answer.json()?]) }
}

fn print_table(tenants: &[TenantDoc]) -> Result<(), Failure> {
    let count = |bound: Option<u64>| bound.map_or_else(|| "-".to_owned(), |bound| bound.to_string());
    let size = |bound: Option<u64>| bound.map_or_else(|| "-".to_owned(), show_bytes);
    let mut table = Table::new([
        "NAME",
        "WEIGHT",
        "CLASS",
        "QUEUED",
        "RUNNING",
        "MEMORY",
        "MODULES",
        "MODULE SIZE",
        "COMPILE MS/S",
        "STORED",
        "STORED MAX",
    ]);
    for tenant in tenants {
        table.row([
            tenant.name.to_string(),
            tenant.weight.to_string(),
            tenant.class.to_string(),
            count(tenant.quotas.tasks_queued),
            count(tenant.quotas.tasks_running),
            size(tenant.quotas.memory_bytes),
            count(tenant.quotas.modules),
            size(tenant.quotas.module_bytes),
            count(tenant.quotas.compile_ms_per_s),
            show_bytes(tenant.usage.stored_bytes),
            size(tenant.quotas.stored_bytes),
        ]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        quotas: QuotaArgs,
    }

    #[test]
    fn only_quotas_that_are_named_change() {
        let change = |line: &[&str]| Line::try_parse_from([&["x"], line].concat()).unwrap().quotas.change();
        assert_eq!(change(&[]), None);
        assert_eq!(
            change(&["--tasks-queued", "none", "--memory", "4GiB"]),
            Some(QuotasChange {
                tasks_queued: Some(None),
                memory_bytes: Some(Some(4 << 30)),
                ..QuotasChange::default()
            })
        );
        assert!(Line::try_parse_from(["x", "--modules", "few"]).is_err());
    }
}
