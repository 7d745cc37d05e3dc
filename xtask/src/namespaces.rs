//! Our own program once more, as the first process of namespaces of its own.
//!
//! When it ends, however it does, the kernel ends every process in them and removes every mount and every network device.

use anyhow::{Context, Result, ensure};

use crate::setup;
use crate::shell::{self, program};

/// What is private.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Private {
    /// Processes, mounts and the network. No root is needed where users may make namespaces.
    Network,
    /// Processes and mounts; the root in there is the real one, who may mount anything.
    Mounts,
}

/// Runs `xtask ARGUMENTS` in there, to its end.
pub(crate) fn enter(private: Private, arguments: &[String]) -> Result<()> {
    setup::namespace_tools()?;
    // `unshare` takes its child along when it is killed, and is killed itself when we are.
    let mut command = program("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let hint = match private {
        Private::Network => {
            command.arg("--net");
            if !setup::packages::is_root() {
                command.args(["--user", "--map-root-user"]);
            }
            "allow users to make namespaces: sysctl kernel.unprivileged_userns_clone=1 or \
             kernel.apparmor_restrict_unprivileged_userns=0"
        }
        Private::Mounts => "",
    };
    let mut probe = program(command.get_program());
    probe.args(command.get_args()).arg("true");
    ensure!(
        shell::works(&mut probe),
        "cannot make namespaces: run `sudo env \"PATH=$PATH\" cargo xtask {}`, in a container with --privileged{}{hint}",
        arguments.join(" ").replace(" --inside", ""),
        if hint.is_empty() { "" } else { "; or " }
    );
    let ours = std::env::current_exe().context("a running program has a path")?;
    shell::run(command.arg(ours).args(arguments))
}
