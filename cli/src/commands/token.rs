//! `wasmill token`: who may ask.

use reqwest::Method;
use wasmill_api::{CreateToken, Page, TokenCreated, TokenDoc};
use wasmill_protocol::tenant::Role;

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
        /// Its purpose
        name: String,
        /// Its role
        #[arg(long, value_enum, default_value = "submit")]
        role: RoleName,
    },
    /// List tokens
    Ls(PageArgs),
    /// Make a token invalid
    Rm {
        /// The token's id, as `ls` shows it
        id: String,
    },
}

/// A role as the interface spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum RoleName {
    /// Everything, for every tenant
    Admin,
    /// Everything within one tenant
    TenantAdmin,
    /// Modules and tasks of one tenant
    Submit,
    /// Looking at one tenant
    Read,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Admin => Self::Admin,
            RoleName::TenantAdmin => Self::TenantAdmin,
            RoleName::Submit => Self::Submit,
            RoleName::Read => Self::Read,
        }
    }
}

fn show_role(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::TenantAdmin => "tenant_admin",
        Role::Submit => "submit",
        Role::Read => "read",
    }
}

/// Does what the action says.
pub(crate) async fn run(client: &Client, json: bool, tenant: Option<&str>, args: &TokenArgs) -> Outcome {
    let tokens = Path::new("/v1/tenants").segment(tenant.unwrap_or("default")).segment("tokens");
    match &args.action {
        Action::Create { name, role } => {
            let answer = client
                .send_json(Method::POST, &tokens, &CreateToken { name: name.clone(), role: (*role).into() })
                .await?;
            if json {
                output::print_json(&answer.body)?;
            } else {
                output::print_line(&answer.json::<TokenCreated>()?.token)?;
                output::tell("keep it: it is not shown again");
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
            let page: Page<TokenDoc> = answer.json()?;
            let mut table = Table::new(["ID", "NAME", "ROLE", "CREATED"]);
            for token in page.items {
                table.row([token.id, token.name, show_role(token.role).to_owned(), token.created_at.to_string()]);
            }
            table.print()?;
            tell_next(page.next.as_deref());
        }
    }
    Ok(Exit::Done)
}
