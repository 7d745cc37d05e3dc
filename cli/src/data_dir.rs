//! Where the local server keeps its data, and the files by which client commands find it.

use std::path::{Path, PathBuf};

/// The admin token, mode 0600; one line.
pub(crate) const ADMIN_TOKEN_FILE: &str = "admin.token";
/// The URL of the server that runs on this data directory, like `http://127.0.0.1:7700`; one line.
pub(crate) const SERVER_ADDR_FILE: &str = "server.addr";

/// `$XDG_DATA_HOME/wasmill`, else `~/.local/share/wasmill`; `None` when neither variable is set.
pub(crate) fn default_data_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification says that relative paths in its variables are to be ignored.
    let base = set("XDG_DATA_HOME").filter(|path| path.is_absolute());
    base.or_else(|| set("HOME").map(|home| home.join(".local/share"))).map(|base| base.join("wasmill"))
}

/// The files that the local server leaves in its data directory for its clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LocalServer {
    /// The server's URL.
    pub(crate) url: Option<String>,
    /// The admin token.
    pub(crate) token: Option<String>,
}

impl LocalServer {
    /// Reads what is there; a missing or unreadable file is like none.
    pub(crate) fn read(dir: &Path) -> Self {
        let line = |file: &str| {
            let text = std::fs::read_to_string(dir.join(file)).ok()?;
            let line = text.trim();
            (!line.is_empty()).then(|| line.to_owned())
        };
        Self { url: line(SERVER_ADDR_FILE), token: line(ADMIN_TOKEN_FILE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_server_left() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LocalServer::read(dir.path()), LocalServer::default());
        std::fs::write(dir.path().join(SERVER_ADDR_FILE), "http://127.0.0.1:1\n").unwrap();
        std::fs::write(dir.path().join(ADMIN_TOKEN_FILE), "secret\n").unwrap();
        let found = LocalServer::read(dir.path());
        assert_eq!(found.url.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(found.token.as_deref(), Some("secret"));
    }
}
