//! One file for each command.

pub(crate) mod alias;
mod bounded;
pub(crate) mod cancel;
mod describe;
pub(crate) mod events;
mod filter;
pub(crate) mod get;
pub(crate) mod hosts;
pub(crate) mod logs;
pub(crate) mod modules;
pub(crate) mod new;
pub(crate) mod ps;
pub(crate) mod push;
pub(crate) mod replay;
pub(crate) mod results;
pub(crate) mod retry;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod submit;
mod task_args;
pub(crate) mod tenant;
pub(crate) mod token;
pub(crate) mod wait;

use std::future::Future;
use std::process::ExitCode;

use crate::args::{Cli, Command, GlobalArgs};
use crate::client::Path;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::interruptible;
use crate::{bench, control, host, output, up};

/// Does what the command line says.
pub(crate) fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    let global = global.or_env(|name| std::env::var_os(name));
    match command {
        Command::Up(args) => up::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Control(args) => control::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Host(args) => host::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Compile => Ok(wasmill_host::compile::child_main()),
        Command::New(args) => new::run(&args).map(ExitCode::from),
        Command::Bench(args) => bench::run(&global, &args).map(ExitCode::from),
        client_command => block_on(client(&global, client_command))?.map(ExitCode::from),
    }
}

/// Client commands do one thing at a time: one thread is enough, and starts fastest.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Exit::Server, "cannot start the I/O runtime").because(&error))?;
    Ok(runtime.block_on(future))
}

async fn client(global: &GlobalArgs, command: Command) -> Outcome {
    let outcome = client_command(global, command).await;
    if let (true, Err(failure)) = (global.json, &outcome)
        && let Some(problem) = failure.answer()
    {
        // The failure is told on stderr too, and by the exit code.
        let _ = output::print_json(problem);
    }
    outcome
}

async fn client_command(global: &GlobalArgs, command: Command) -> Outcome {
    let client = global.client()?;
    let json = global.json;
    // `run` cancels its task when it is interrupted; whoever waits for a task can be told to stop
    // waiting.
    if let Command::Run(args) = command {
        return run::run(&client, json, *args).await;
    }
    interruptible(async {
        match command {
            Command::Push(args) => push::run(&client, json, &args).await,
            Command::Modules(args) => modules::run(&client, json, &args).await,
            Command::Alias(args) => alias::run(&client, json, &args).await,
            Command::Submit(args) => submit::run(&client, json, *args).await,
            Command::Get(args) => get::run(&client, json, &args).await,
            Command::Ps(args) => ps::run(&client, json, &args).await,
            Command::Wait(args) => wait::run(&client, json, &args).await,
            Command::Cancel(args) => cancel::run(&client, json, &args).await,
            Command::Results(args) => results::run(&client, json, &args).await,
            Command::Retry(args) => retry::run(&client, json, &args).await,
            Command::Replay(args) => replay::run(&client, json, &args).await,
            Command::Logs(args) => logs::run(&client, &args).await,
            Command::Events(args) => events::run(&client, json, &args).await,
            Command::Hosts(args) => hosts::run(&client, json, &args).await,
            Command::Status => status::run(&client, json).await,
            Command::Tenant(args) => tenant::run(&client, json, &args).await,
            Command::Token(args) => token::run(&client, json, global.tenant.as_deref(), &args).await,
            Command::Up(_)
            | Command::Control(_)
            | Command::Host(_)
            | Command::New(_)
            | Command::Run(_)
            | Command::Bench(_)
            | Command::Compile => {
                unreachable!("commands that are no client commands are dispatched before")
            }
        }
    })
    .await
}

/// Which part of a listing is wanted.
#[derive(Debug, clap::Args)]
pub(crate) struct PageArgs {
    /// At most so many, 1 to 1000
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Where to go on, as an earlier call printed it
    #[arg(long)]
    cursor: Option<String>,
}

impl PageArgs {
    fn apply(&self, path: Path) -> Path {
        path.query_if("limit", self.limit).query_if("cursor", self.cursor.as_deref())
    }
}

/// Tells, on stderr, how to see the next page.
fn tell_next(next: Option<&str>) {
    if let Some(cursor) = next {
        output::tell(&format!("more with --cursor {}", output::printable(cursor)));
    }
}

/// The path of one task.
fn task_path(id: &str) -> Path {
    Path::new("/v1/tasks").segment(id)
}

#[cfg(test)]
mod tests;
