//! Our own program once more, as the first process of namespaces of its own.
//!
//! When it ends, however it does, the kernel ends every process in them and removes every mount and
//! every network device.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::setup;
use crate::shell::{self, program};

/// The private part of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Private {
    /// Processes, mounts and the network. No root is needed where users may make namespaces.
    Network,
    /// Processes and mounts; the root in there is the real one, who may mount anything.
    Mounts,
}

impl Private {
    /// The program that enters. `unshare` takes its child along when it is killed, and is killed
    /// itself when we are.
    fn command(self) -> Command {
        let mut command = program("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        if self == Self::Network {
            command.arg("--net");
            if !setup::packages::is_root() {
                command.args(["--user", "--map-root-user"]);
            }
        }
        command
    }

    /// Whether this can be had here. It cannot in most containers.
    ///
    /// # Errors
    ///
    /// The tools that it takes are not installed, and cannot be.
    pub fn is_possible(self) -> Result<bool> {
        setup::namespace_tools()?;
        Ok((self == Self::Network || setup::packages::is_root()) && shell::works(self.command().arg("true")))
    }
}

/// Runs `xtask ARGUMENTS` in there, to its end.
pub fn enter(private: Private, arguments: &[String]) -> Result<()> {
    let hint = match private {
        Private::Network => {
            "; or allow users to make namespaces: sysctl kernel.unprivileged_userns_clone=1 or \
             kernel.apparmor_restrict_unprivileged_userns=0"
        }
        Private::Mounts => "",
    };
    ensure!(
        private.is_possible()?,
        "cannot make namespaces: run `sudo env \"PATH=$PATH\" cargo xtask {}`, in a container with --privileged{hint}",
        arguments.join(" ").replace(" --inside", ""),
    );
    shell::run(private.command().arg(shell::xtask().get_program()).args(arguments))
}
