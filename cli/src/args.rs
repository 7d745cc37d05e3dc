//! The command line, and how it becomes a client.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::{self, Client, Trust};
use crate::commands;
use crate::data_dir::{self, LocalServer};
use crate::failure::{Exit, Failure};

/// Runs WebAssembly tasks for many tenants, in sandboxes with hard limits.
#[derive(Debug, Parser)]
#[command(name = "wasmill", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    /// The command to run.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every client command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GlobalArgs {
    /// URL of the server; else the one that runs on the local data directory [env: WASMILL_SERVER]
    #[arg(long, global = true, value_name = "URL", help_heading = "Server")]
    server: Option<String>,
    /// Token that says who asks; else the admin token in the local data directory
    /// [env: WASMILL_TOKEN]
    #[arg(long, global = true, help_heading = "Server")]
    token: Option<String>,
    /// Authority in PEM that has signed the server's certificate; else those that the system trusts
    /// [env: WASMILL_CA]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Server")]
    ca: Option<PathBuf>,
    /// Tenant for which an admin token acts [env: WASMILL_TENANT]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Server")]
    pub(crate) tenant: Option<String>,
    /// Data directory of the local server [default: ~/.local/share/wasmill] [env: WASMILL_DATA]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Server")]
    pub(crate) data: Option<PathBuf>,
    /// Print what HTTP answers
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,
}

/// The commands, in the order in which a newcomer needs them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: server, scheduler and host
    Up(Box<crate::up::UpArgs>),
    /// Run a control node of a cluster
    Control(Box<crate::control::ControlArgs>),
    /// Run a host of a cluster
    Host(Box<crate::host::HostArgs>),
    /// Write a new guest crate that builds and runs
    New(commands::new::NewArgs),
    /// Upload a module
    Push(commands::push::PushArgs),
    /// List, describe or remove modules
    Modules(commands::modules::ModulesArgs),
    /// Point names at modules
    Alias(commands::alias::AliasArgs),
    /// Run a module or a .wasm file once, and print what it returns
    Run(Box<commands::run::RunArgs>),
    /// Submit tasks without waiting for them
    Submit(Box<commands::submit::SubmitArgs>),
    /// Describe a task
    Get(commands::get::GetArgs),
    /// List tasks, newest first
    Ps(commands::ps::PsArgs),
    /// Wait until tasks are final
    Wait(commands::wait::WaitArgs),
    /// Stop tasks
    Cancel(commands::cancel::CancelArgs),
    /// Print what tasks gave, by a filter
    Results(commands::results::ResultsArgs),
    /// Submit a failed or cancelled task again
    Retry(commands::retry::RetryArgs),
    /// Run an attempt again on this machine, and compare
    ///
    /// Fetches module, payload and checkpoint, runs them in the same sandbox with the same limits,
    /// and prints what a run prints. A deterministic task gets its seed and its clock again. Exit
    /// code 0 when outcome, output and fuel are as recorded, 1 when not.
    Replay(commands::replay::ReplayArgs),
    /// Print what a task wrote to stdout and stderr
    Logs(commands::logs::LogsArgs),
    /// Print what happened to a task
    Events(commands::events::EventsArgs),
    /// List hosts, and drain them
    Hosts(commands::hosts::HostsArgs),
    /// Describe the server
    Status,
    /// Manage tenants
    Tenant(commands::tenant::TenantArgs),
    /// Manage tokens of a tenant
    Token(commands::token::TokenArgs),
    /// Measure a running server, or one started for it
    Bench(crate::bench::BenchArgs),
    /// Compile a module: the child process of a host
    #[command(hide = true)]
    Compile,
}

impl GlobalArgs {
    /// With what the environment says for options that were not given.
    ///
    /// clap could look there by itself, and would then name the options in the usage of every error
    /// as if they had to be given.
    #[must_use]
    pub(crate) fn or_env(mut self, env: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |given: Option<String>, name| given.or_else(|| env(name)?.into_string().ok());
        let path = |given: Option<PathBuf>, name| given.or_else(|| env(name).map(PathBuf::from));
        self.server = text(self.server, "WASMILL_SERVER");
        self.token = text(self.token, "WASMILL_TOKEN");
        self.ca = path(self.ca, "WASMILL_CA");
        self.tenant = text(self.tenant, "WASMILL_TENANT");
        self.data = path(self.data, "WASMILL_DATA");
        self
    }

    /// The data directory that is meant, if there is any.
    pub(crate) fn data_dir(&self) -> Option<PathBuf> {
        let named = self.data.clone().filter(|dir| !dir.as_os_str().is_empty());
        named.or_else(data_dir::default_data_dir)
    }

    /// Whether the user named a server.
    pub(crate) fn names_server(&self) -> bool {
        set(&self.server).is_some()
    }

    /// A client of the server that is meant.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let (server, token) = self.server_and_token()?;
        let ca = self.ca.as_deref().filter(|file| !file.as_os_str().is_empty());
        let trust = match ca {
            Some(file) => Trust::only(file)?,
            None => Trust::System,
        };
        Ok(Client::new(&server, &token, set(&self.tenant), trust)?)
    }

    /// The server that is meant and the token for it: flags and environment first, then the local
    /// data directory.
    pub(crate) fn server_and_token(&self) -> Result<(String, String), Failure> {
        let dir = self.data_dir();
        let local = dir.as_deref().map(LocalServer::read).unwrap_or_default();
        let place = dir.map_or_else(|| "the data directory".to_owned(), |dir| format!("`{}`", dir.display()));
        let server = set(&self.server).or(local.url.as_deref()).ok_or_else(|| {
            Failure::new(Exit::Server, format!("no server is named, and none has run on {place}"))
                .hint("start one with `wasmill up`, or name one with --server or WASMILL_SERVER")
        })?;
        let token = set(&self.token).or_else(|| local_token(&local, server)).ok_or_else(|| {
            Failure::new(Exit::Refused, format!("no token is given, and {place} has none for {server}"))
                .hint("give one with --token or WASMILL_TOKEN, or name the server's data directory with --data")
        })?;
        Ok((server.to_owned(), token.to_owned()))
    }
}

/// An empty variable counts as not set, as in `WASMILL_SERVER= wasmill ps`.
fn set(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// The local admin token, for a server that it belongs to: never sent to another machine that
/// happens to be named.
fn local_token<'a>(local: &'a LocalServer, server: &str) -> Option<&'a str> {
    let same = local.url.as_deref().is_some_and(|url| url.trim_end_matches('/') == server.trim_end_matches('/'));
    let here = || reqwest::Url::parse(server).is_ok_and(|url| client::is_loopback(&url));
    if same || here() { local.token.as_deref() } else { None }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in ["wasmill --json --server http://a ps", "wasmill ps --json --server http://a"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.global.json && cli.global.names_server(), "{line}");
        }
    }

    #[test]
    fn a_bulk_submission_takes_what_all_lines_can_have() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for more in ["", " resize", " --label a=b --cpu-ms 5", " --name n", " --delay 5", " --ok-exit 0,1", " -- a"] {
            assert!(parse(&format!("wasmill --data d --json submit --ndjson -{more}")).is_ok(), "{more}");
        }
        for more in ["--input 1", "--input-text a", "--input-file f", "--key k"] {
            assert!(parse(&format!("wasmill submit --ndjson - {more}")).is_err(), "{more}");
        }
        assert!(parse("wasmill submit").is_err());
    }

    #[test]
    fn the_environment_stands_in_for_options_and_is_no_part_of_the_usage() {
        let env = |name: &str| Some(OsString::from(format!("/{name}")));
        let global = GlobalArgs { server: Some("http://given".into()), ..GlobalArgs::default() }.or_env(env);
        assert_eq!(global.server.as_deref(), Some("http://given"));
        assert_eq!(
            (global.token.as_deref(), global.tenant.as_deref()),
            (Some("/WASMILL_TOKEN"), Some("/WASMILL_TENANT"))
        );
        assert_eq!((global.ca, global.data), (Some("/WASMILL_CA".into()), Some("/WASMILL_DATA".into())));
        // An option of clap's own environment would count as given, and be shown as needed.
        for argument in Cli::command().get_arguments() {
            assert!(argument.get_env().is_none(), "{argument}");
        }
    }

    fn args(server: Option<&str>, token: Option<&str>, data: &std::path::Path) -> GlobalArgs {
        GlobalArgs {
            server: server.map(str::to_owned),
            token: token.map(str::to_owned),
            data: Some(data.to_owned()),
            ..GlobalArgs::default()
        }
    }

    #[test]
    fn server_and_token_come_from_flags_then_from_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = args(None, None, dir.path()).client().unwrap_err();
        assert_eq!(nothing.exit, Exit::Server);
        assert!(nothing.to_string().contains("wasmill up"), "{nothing}");

        std::fs::write(dir.path().join(data_dir::SERVER_ADDR_FILE), "http://127.0.0.1:1\n").unwrap();
        let no_token = args(None, None, dir.path()).client().unwrap_err();
        assert_eq!(no_token.exit, Exit::Refused);

        std::fs::write(dir.path().join(data_dir::ADMIN_TOKEN_FILE), "secret\n").unwrap();
        assert_eq!(args(None, None, dir.path()).client().unwrap().server(), "http://127.0.0.1:1");
        assert_eq!(args(Some("http://h:2"), Some("t"), dir.path()).client().unwrap().server(), "http://h:2");
        assert_eq!(args(Some(""), Some(""), dir.path()).client().unwrap().server(), "http://127.0.0.1:1");
    }

    #[test]
    fn the_local_token_stays_on_this_machine() {
        let local = LocalServer { url: Some("http://10.0.0.1:7700".into()), token: Some("secret".into()) };
        assert_eq!(local_token(&local, "http://10.0.0.1:7700/"), Some("secret"));
        assert_eq!(local_token(&local, "http://localhost:9"), Some("secret"));
        assert_eq!(local_token(&local, "http://10.0.0.2:7700"), None);
    }
}
