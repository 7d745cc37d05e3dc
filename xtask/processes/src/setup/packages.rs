//! Packages of Debian and Ubuntu.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::shell::{self, program};

/// Installs packages for the whole system.
///
/// # Errors
///
/// We are not root, or apt fails; the command that installs them is named.
pub fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install --yes --no-install-recommends {}", packages.join(" "));
    let apt_get = |arguments: &[&str]| {
        let mut command = program("apt-get");
        shell::run(command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments)).is_ok()
    };
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    let is_installed = is_root() && apt_get(&["update", "--quiet"]) && apt_get(&install);
    ensure!(is_installed, "{} missing; run as root: {by_hand}", packages.join(" and "));
    Ok(())
}

/// Downloads a package and unpacks it into `dir`, which is created. Nothing is installed: no
/// service starts, and any user may.
pub fn unpack(package: &str, dir: &Path) -> Result<()> {
    // Package lists of our own: those of the system may be missing, and only root may fetch them.
    let state = dir.join("apt");
    for directory in ["lists/partial", "cache/archives/partial", "download"] {
        shell::create_dir(&state.join(directory))?;
    }
    let apt_get = |arguments: &[&str]| {
        let mut command = program("apt-get");
        command.current_dir(state.join("download")).arg("--quiet");
        command.args(["-o", "APT::Sandbox::User=root"]);
        command.arg("-o").arg(option("Dir::State::lists", &state.join("lists")));
        command.arg("-o").arg(option("Dir::Cache", &state.join("cache")));
        shell::run(command.args(arguments))
    };
    apt_get(&["update"])?;
    apt_get(&["download", package])?;
    let downloaded = only_file(&state.join("download"))?;
    shell::run(program("dpkg-deb").arg("--extract").arg(downloaded).arg(dir))
}

/// Whether this user may do anything on this machine.
pub fn is_root() -> bool {
    shell::capture(program("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(format!("{name}="));
    option.push(path);
    option
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let entry = entries.next().with_context(|| format!("{} is empty", dir.display()))?;
    Ok(entry.with_context(|| format!("cannot list {}", dir.display()))?.path())
}
