//! `wasmill token`: who may ask.

use reqwest::Method;
use serde_json::json;

use crate::client::wire::{NewToken, Page, Token};
use crate::client::{Client, Path};
use crate::commands::{PageArgs, tell_next};
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};

/// The options of `token`; the tenant is `--tenant`, else `default`.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token for the tenant named by --tenant; its text is shown this once
    Create {
        /// What it is for
        name: String,
        /// admin, tenant_admin, submit or read
        #[arg(long, default_value = "submit")]
        role: String,
    },
    /// List tokens
    Ls(PageArgs),
    /// Make a token invalid
    Rm {
        /// The token's id, as `ls` shows it
        id: String,
    },
}

/// Does what the action says.
pub(crate) async fn run(client: &Client, json: bool, tenant: Option<&str>, args: &TokenArgs) -> Outcome {
    let tokens = Path::new("/v1/tenants").segment(tenant.unwrap_or("default")).segment("tokens");
    match &args.action {
        Action::Create { name, role } => {
            let answer = client.send_json(Method::POST, &tokens, &json!({ "name": name, "role": role })).await?;
            if json {
                output::print_json(&answer.body)?;
            } else {
                output::print_line(&answer.json::<NewToken>()?.token)?;
                eprintln!("keep it: it is not shown again");
            }
        }
        Action::Rm { id } => {
            client.delete(&tokens.segment(id)).await?;
        }
        Action::Ls(page) => {
            let answer = client.get(&page.apply(tokens)).await?;
            if json {
                output::print_json(&answer.body)?;
                return Ok(Exit::Done);
            }
            let page: Page<Token> = answer.json()?;
            let mut table = Table::new(["ID", "NAME", "ROLE", "CREATED"]);
            for token in page.items {
                table.row([token.id, token.name, token.role, token.created_at.unwrap_or_else(|| "-".into())]);
            }
            table.print()?;
            tell_next(page.next.as_deref());
        }
    }
    Ok(Exit::Done)
}
