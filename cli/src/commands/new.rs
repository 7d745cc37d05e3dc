//! `wasmill new`: a guest crate that builds and runs.

#[path = "../../../guest-sdk/template/files.rs"]
mod files;

use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// The longest name of a crate.
const NAME_BYTES_MAX: usize = 64;
/// Names of crates that cargo refuses, or that would hide a crate which the template uses.
const NAMES_TAKEN: &str = "alloc build core deps examples incremental proc_macro serde std test wasmill-guest";
/// Words that are no names in Rust.
const KEYWORDS: &str = "abstract as async await become box break const continue crate do dyn else enum extern false final fn for \
    gen if impl in let loop macro match mod move mut override priv pub ref return self static struct super trait true try type \
    typeof unsafe unsized use virtual where while yield";

/// The options of `new`.
#[derive(Debug, clap::Args)]
pub(crate) struct NewArgs {
    /// Directory to make; its last part names the crate
    #[arg(value_name = "NAME")]
    path: PathBuf,
}

/// Writes the crate and says how to go on.
pub(crate) fn run(args: &NewArgs) -> Outcome {
    let name = crate_name(&args.path)?;
    write(&args.path, name)?;
    let dir = args.path.display();
    output::print_line(&dir.to_string())?;
    output::tell(&format!("wrote `{name}`; go on with:"));
    output::tell(&format!("  cd {dir}"));
    output::tell("  cargo test");
    output::tell("  cargo build --release --target wasm32-wasip2");
    output::tell(&format!(
        "  wasmill run target/wasm32-wasip2/release/{}.wasm --input '{{\"name\": \"Ada\"}}'",
        files::module(name)
    ));
    Ok(Exit::Done)
}

/// The last part of the path, when cargo and rustc take it as the name of a crate.
fn crate_name(path: &Path) -> Result<&str, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_good = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        && ![NAMES_TAKEN, KEYWORDS].iter().any(|taken| taken.split(' ').any(|word| word == name));
    if is_good {
        return Ok(name);
    }
    Err(Failure::usage(format!("`{}` does not end in a name that cargo accepts for a crate", path.display()))
        .hint("take letters, digits, `-` and `_`, beginning with a letter, and no name that Rust has taken"))
}

fn write(dir: &Path, name: &str) -> Result<(), Failure> {
    let is_taken = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if is_taken {
        return Err(Failure::usage(format!("`{}` exists and is not an empty directory", dir.display()))
            .hint("choose another name, or remove it first"));
    }
    for (path, content) in files::files(name) {
        let path = dir.join(path);
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).map_err(|error| Failure::file("make the directory", parent, &error))?;
        std::fs::write(&path, content).map_err(|error| Failure::file("write", &path, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for path in ["a", "my-task", "dir/my_task2", "./x/"] {
            assert!(crate_name(path.as_ref()).is_ok(), "{path}");
        }
        for path in ["", "..", "/", "1st", "-a", "a b", "ä", "a.b", "test", "core", "match", "yield", &"x".repeat(65)]
        {
            assert_eq!(crate_name(path.as_ref()).unwrap_err().exit, Exit::Usage, "{path}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my-task");
        run(&NewArgs { path: path.clone() }).unwrap();
        let manifest = std::fs::read_to_string(path.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"my-task\""), "{manifest}");
        assert!(path.join("vendor/wasmill-guest/wit/task.wit").exists());
        std::fs::write(path.join("Cargo.toml"), "mine").unwrap();
        assert_eq!(run(&NewArgs { path: path.clone() }).unwrap_err().exit, Exit::Usage);
        assert_eq!(std::fs::read_to_string(path.join("Cargo.toml")).unwrap(), "mine");
    }
}
