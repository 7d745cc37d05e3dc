//! `wasmill modules`: lists, describes and removes modules.

use wasmill_api::{ModuleDoc, Page};

use crate::client::{Client, Path};
use crate::commands::{PageArgs, tell_next};
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};
use crate::units::{show_age, show_bytes, show_kind, wall_clock};

/// The options of `modules`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ModulesArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List modules (the default)
    Ls(PageArgs),
    /// Print all that is known of a module, as JSON
    Get {
        /// Digest or alias
        module: String,
    },
    /// Write the bytes of a module to stdout
    Content {
        /// Digest or alias
        module: String,
    },
    /// Remove a module that no unfinished task uses
    Rm {
        /// Digest or alias
        module: String,
    },
}

/// Does what the action says.
pub(crate) async fn run(client: &Client, json: bool, args: &ModulesArgs) -> Outcome {
    let modules = Path::new("/v1/modules");
    match &args.action {
        None => list(client, json, &args.page).await?,
        Some(Action::Ls(page)) => list(client, json, page).await?,
        Some(Action::Get { module }) => output::print_json(&client.get(&modules.segment(module)).await?.body)?,
        Some(Action::Content { module }) => {
            output::print_bytes(&client.get(&modules.segment(module).segment("content")).await?.body)?;
        }
        Some(Action::Rm { module }) => {
            client.delete(&modules.segment(module)).await?;
        }
    }
    Ok(Exit::Done)
}

async fn list(client: &Client, json: bool, page: &PageArgs) -> Result<(), crate::failure::Failure> {
    let answer = client.get(&page.apply(Path::new("/v1/modules"))).await?;
    if json {
        return output::print_json(&answer.body);
    }
    let page: Page<ModuleDoc> = answer.json()?;
    let now = wall_clock();
    let mut table = Table::new(["DIGEST", "KIND", "SIZE", "AGE"]);
    for module in &page.items {
        let age = show_age(module.created_at, now);
        table.row([module.digest.to_string(), show_kind(module.kind).to_owned(), show_bytes(module.bytes), age]);
    }
    table.print()?;
    tell_next(page.next.as_deref());
    Ok(())
}
