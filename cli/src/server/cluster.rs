//! Where the cluster is, and who we are for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;
use wasmill_fabric::Reminder;
use wasmill_fabric::cluster::{ClusterConfig, ConnectError, EtcdConfig, NatsAuth, NatsConfig, TlsConfig};

/// The wait before servers that cannot be reached are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How a process finds its cluster. Secrets are better given by environment variables than on the
/// command line.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// NATS servers, like nats://10.0.0.1:4222; several with commas between them
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true, env = "WASMILL_NATS")]
    nats: Vec<String>,
    /// etcd servers, like http://10.0.0.1:2379; several with commas between them
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true, env = "WASMILL_ETCD")]
    etcd: Vec<String>,
    /// Keeps clusters on the same servers apart
    #[arg(long, value_name = "NAME", default_value = "default", env = "WASMILL_CLUSTER")]
    cluster: String,
    /// How long a process that falls silent keeps its place, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 5000)]
    lease_ms: u64,
    /// Credentials for NATS: a file with a JWT and the seed of its key
    #[arg(long, value_name = "FILE", group = "nats_auth")]
    nats_creds: Option<PathBuf>,
    /// Credentials for NATS: a file with the seed of an nkey
    #[arg(long, value_name = "FILE", group = "nats_auth")]
    nats_nkey: Option<PathBuf>,
    /// Credentials for NATS: a user
    #[arg(long, value_name = "NAME", group = "nats_auth", env = "WASMILL_NATS_USER")]
    nats_user: Option<String>,
    /// Credentials for NATS: the user's password
    #[arg(long, value_name = "TEXT", requires = "nats_user", env = "WASMILL_NATS_PASSWORD", hide_env_values = true)]
    nats_password: Option<String>,
    /// Credentials for NATS: a token
    #[arg(long, value_name = "TEXT", group = "nats_auth", env = "WASMILL_NATS_TOKEN", hide_env_values = true)]
    nats_token: Option<String>,
    /// TLS to NATS: who has signed its certificate
    #[arg(long, value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// TLS to NATS: our certificate
    #[arg(long, value_name = "FILE", requires = "nats_key")]
    nats_cert: Option<PathBuf>,
    /// TLS to NATS: the key of our certificate
    #[arg(long, value_name = "FILE", requires = "nats_cert")]
    nats_key: Option<PathBuf>,
    /// Credentials for etcd: a user
    #[arg(long, value_name = "NAME", requires = "etcd_password", env = "WASMILL_ETCD_USER")]
    etcd_user: Option<String>,
    /// Credentials for etcd: the user's password
    #[arg(long, value_name = "TEXT", requires = "etcd_user", env = "WASMILL_ETCD_PASSWORD", hide_env_values = true)]
    etcd_password: Option<String>,
    /// TLS to etcd: who has signed its certificate
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// TLS to etcd: our certificate
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,
    /// TLS to etcd: the key of our certificate
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
}

impl ClusterArgs {
    /// The files of our certificates for NATS and for etcd.
    pub(crate) fn certificates(&self) -> [Option<&Path>; 2] {
        [self.nats_cert.as_deref(), self.etcd_cert.as_deref()]
    }

    /// The configuration of the member that is named so.
    pub(crate) fn config(&self, member: &str) -> anyhow::Result<ClusterConfig> {
        Ok(ClusterConfig {
            cluster: self.cluster.parse().context("`--cluster` cannot be used")?,
            member: member.parse().context("this process cannot be named so")?,
            nats: NatsConfig {
                urls: self.nats.clone(),
                auth: self.nats_auth()?,
                tls: tls(&self.nats_ca, &self.nats_cert, &self.nats_key),
            },
            etcd: EtcdConfig {
                urls: self.etcd.clone(),
                user: self.etcd_user.clone().zip(self.etcd_password.clone()),
                tls: tls(&self.etcd_ca, &self.etcd_cert, &self.etcd_key),
            },
            lease_ms: self.lease_ms,
        })
    }

    fn nats_auth(&self) -> anyhow::Result<NatsAuth> {
        if let Some(file) = &self.nats_creds {
            return Ok(NatsAuth::CredentialsFile(file.clone()));
        }
        if let Some(file) = &self.nats_nkey {
            return Ok(NatsAuth::NkeyFile(file.clone()));
        }
        if let Some(user) = &self.nats_user {
            let password = self.nats_password.clone();
            ensure!(password.is_some(), "`--nats-user` needs a password: give it by WASMILL_NATS_PASSWORD");
            return Ok(NatsAuth::Password { user: user.clone(), password: password.unwrap_or_default() });
        }
        Ok(self.nats_token.clone().map_or(NatsAuth::None, NatsAuth::Token))
    }
}

fn tls(ca: &Option<PathBuf>, certificate: &Option<PathBuf>, key: &Option<PathBuf>) -> TlsConfig {
    TlsConfig { ca_file: ca.clone(), client: certificate.clone().zip(key.clone()) }
}

/// Connects as soon as the servers can be reached; `None` when asked to stop before. Why they
/// cannot is said at first, when that changes, and every minute.
pub(crate) async fn connect<T>(
    stop: &CancellationToken,
    mut connect: impl AsyncFnMut() -> Result<T, ConnectError>,
) -> anyhow::Result<Option<T>> {
    let mut reminder = Reminder::default();
    loop {
        let connected = tokio::select! {
            connected = connect() => connected,
            () = stop.cancelled() => return Ok(None),
        };
        match connected {
            Ok(connected) => return Ok(Some(connected)),
            Err(error @ ConnectError::Unreachable { .. }) => {
                if reminder.is_due(Instant::now(), &error.to_string()) {
                    tracing::warn!(%error, "the cluster cannot be reached yet; trying again until it can");
                } else {
                    tracing::debug!(%error, "the cluster cannot be reached");
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}
