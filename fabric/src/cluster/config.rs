//! How a process finds its cluster, and proves who it is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// The longest name of a cluster, of a control node, or of a host.
const NAME_BYTES_MAX: usize = 63;
/// The shortest lease, in milliseconds: etcd grants whole seconds, and a keepalive must get through
/// a few times in it.
const LEASE_MS_MIN: u64 = 1_000;

/// The settings of a process that is part of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Keeps clusters on the same servers apart.
    pub cluster: Name,
    /// The control node, or the host. No two processes at a time may have the same.
    pub member: Name,
    /// Where NATS is.
    pub nats: NatsConfig,
    /// Where etcd is.
    pub etcd: EtcdConfig,
    /// How long a process that falls silent keeps its place, in milliseconds; etcd rounds up to
    /// whole seconds.
    pub lease_ms: u64,
}

/// The further settings of a control node.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Copies of blobs are kept in this directory. It belongs to one process, and is emptied at its
    /// start.
    pub cache_dir: PathBuf,
    /// How many bytes of them, about.
    pub cache_bytes_max: u64,
    /// How many servers keep each record and each blob; unless said, 3 where there are as many,
    /// else 1.
    pub replicas: Option<usize>,
    /// How many bytes the log may take; unless said, what the servers allow.
    pub log_bytes_max: Option<u64>,
    /// Monitoring ports of the NATS servers, as `host:port`: where they are, it is checked that
    /// they sync before they answer.
    pub nats_monitors: Vec<String>,
}

impl ControlConfig {
    /// The usual bounds.
    pub fn new(cache_dir: PathBuf) -> Self {
        Self {
            cache_dir,
            cache_bytes_max: 4 * 1024 * 1024 * 1024,
            replicas: None,
            log_bytes_max: None,
            nats_monitors: Vec::new(),
        }
    }
}

/// Where NATS is, and who we are for it.
#[derive(Debug, Clone, Default)]
pub struct NatsConfig {
    /// As `nats://host:port`, or `tls://host:port`; any of a cluster will do, more are better.
    pub urls: Vec<String>,
    /// The identity of this process.
    pub auth: NatsAuth,
    /// How the wire is protected.
    pub tls: TlsConfig,
}

/// How a process proves to NATS who it is.
#[derive(Clone, Default)]
pub enum NatsAuth {
    /// It does not.
    #[default]
    None,
    /// With a file of credentials: a JWT and the seed of its key.
    CredentialsFile(PathBuf),
    /// With the seed of a key in a file.
    NkeyFile(PathBuf),
    /// With a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// With a token.
    Token(String),
}

/// Where etcd is, and who we are for it.
#[derive(Clone, Default)]
pub struct EtcdConfig {
    /// As `http://host:port` or `https://host:port`.
    pub urls: Vec<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// How the wire is protected.
    pub tls: TlsConfig,
}

/// Certificates, as files in PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsConfig {
    /// The authority that has signed the server's certificate; without it, any that the system
    /// trusts.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl TlsConfig {
    /// Whether a connection without TLS is refused.
    pub(super) fn is_wanted(&self) -> bool {
        self.ca_file.is_some() || self.client.is_some()
    }
}

impl ClusterConfig {
    /// Looks at what the types cannot say.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.nats.urls.is_empty() {
            return Err(ConfigError::NoServers("NATS"));
        }
        if self.etcd.urls.is_empty() {
            return Err(ConfigError::NoServers("etcd"));
        }
        if self.lease_ms < LEASE_MS_MIN {
            return Err(ConfigError::Lease { lease_ms: self.lease_ms });
        }
        Ok(())
    }
}

/// Settings that no cluster can be reached with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Not a name.
    #[error(
        "`{0}` is not a name: 1 to {NAME_BYTES_MAX} characters of a-z, A-Z, 0-9, `-` and `_` that begin with a letter or digit are expected"
    )]
    Name(String),
    /// Nowhere to connect to.
    #[error("no server of {0} is named")]
    NoServers(&'static str),
    /// Too short a lease.
    #[error("a lease of {lease_ms} ms is too short: at least {LEASE_MS_MIN} ms are needed")]
    Lease {
        /// How short.
        lease_ms: u64,
    },
}

/// Names a cluster, a control node or a host. It is part of subjects, of names of streams and of
/// keys, so it has none of their separators.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Name {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut bytes = text.bytes();
        let is_name = text.len() <= NAME_BYTES_MAX
            && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if is_name { Ok(Self(text.to_owned())) } else { Err(ConfigError::Name(text.chars().take(80).collect())) }
    }
}

// Secrets do not belong into logs, so these two say less than they know.

impl fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::CredentialsFile(path) => f.debug_tuple("CredentialsFile").field(path).finish(),
            Self::NkeyFile(path) => f.debug_tuple("NkeyFile").field(path).finish(),
            Self::Password { user, .. } => f.debug_struct("Password").field("user", user).finish_non_exhaustive(),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("urls", &self.urls)
            .field("user", &self.user.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_separators() {
        for name in ["a", "default", "host-00ff", "A_1", &"x".repeat(NAME_BYTES_MAX)] {
            assert!(name.parse::<Name>().is_ok(), "{name}");
        }
        for name in ["", "-a", "a.b", "a/b", "a*", ">", "a b", "ä", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(name.parse::<Name>().is_err(), "{name}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = "hunter2".to_owned();
        let password = NatsAuth::Password { user: "u".to_owned(), password: secret.clone() };
        let etcd = EtcdConfig { user: Some(("u".to_owned(), secret.clone())), ..EtcdConfig::default() };
        let shown = format!("{password:?} {:?} {etcd:?}", NatsAuth::Token(secret.clone()));
        assert!(!shown.contains(&secret) && shown.contains("\"u\""), "{shown}");
    }
}
