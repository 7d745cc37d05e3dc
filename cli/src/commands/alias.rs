//! `wasmill alias`: names that point at modules.

use reqwest::Method;
use wasmill_api::{AliasDoc, Page, PutAlias};

use crate::client::{Client, Path};
use crate::commands::{PageArgs, tell_next};
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};

/// The options of `alias`.
#[derive(Debug, clap::Args)]
pub(crate) struct AliasArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Point a name at a module; tasks that were submitted before keep theirs
    Set {
        /// The name, like `resize` or `resize:v3`
        name: String,
        /// The module: its digest, `sha256:…`, or another name of it
        target: String,
    },
    /// Remove a name
    Rm {
        /// The name
        name: String,
    },
    /// List names
    Ls(PageArgs),
}

/// Does what the action says.
pub(crate) async fn run(client: &Client, json: bool, args: &AliasArgs) -> Outcome {
    let aliases = Path::new("/v1/aliases");
    match &args.action {
        Action::Set { name, target } => {
            let digest = match target.parse() {
                Ok(digest) => digest,
                // A name points at a module and not at another name: it stays there when the other
                // one moves.
                Err(_) => client.get(&aliases.clone().segment(target)).await?.json::<AliasDoc>()?.digest,
            };
            let answer = client.send_json(Method::PUT, &aliases.segment(name), &PutAlias { digest }).await?;
            if json && !answer.body.is_empty() {
                output::print_json(&answer.body)?;
            }
        }
        Action::Rm { name } => {
            client.delete(&aliases.segment(name)).await?;
        }
        Action::Ls(page) => {
            let answer = client.get(&page.apply(aliases)).await?;
            if json {
                output::print_json(&answer.body)?;
                return Ok(Exit::Done);
            }
            let page: Page<AliasDoc> = answer.json()?;
            let mut table = Table::new(["NAME", "DIGEST"]);
            for alias in page.items {
                table.row([alias.name, alias.digest.to_string()]);
            }
            table.print()?;
            tell_next(page.next.as_deref());
        }
    }
    Ok(Exit::Done)
}
