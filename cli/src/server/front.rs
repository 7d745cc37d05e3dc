//! Where HTTP is served, and with which certificate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::net::TcpListener;
use wasmill_scheduler_http::{self as http, Tls};

use super::config::Config;

/// Where a process serves HTTP.
#[derive(Debug, clap::Args)]
pub(crate) struct FrontArgs {
    /// Where HTTP is served; port 0 takes a free one [default: 127.0.0.1:7700]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Certificate in PEM, with those that lead to its authority: serves HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Connections of one address at the same time [default: half of all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections_per_address: Option<u32>,
    /// How long everything is still served after SIGTERM, while /readyz says that it ends
    /// [default: 2000]
    #[arg(long, value_name = "MS")]
    drain_ms: Option<u64>,
}

impl FrontArgs {
    /// Overrides the settings by what was said on the command line.
    pub(crate) fn override_settings(&self, config: &mut Config) {
        config.listen = self.listen.unwrap_or(config.listen);
        config.drain_ms = self.drain_ms.unwrap_or(config.drain_ms);
        config.connections_per_address =
            self.connections_per_address.map(|connections| connections as usize).or(config.connections_per_address);
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            config.tls = Some(TlsFiles { cert: cert.clone(), key: key.clone() });
        }
    }
}

/// Where the server's certificate and its key are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TlsFiles {
    cert: PathBuf,
    key: PathBuf,
}

impl TlsFiles {
    /// The file of the certificate.
    pub(crate) fn cert(&self) -> &Path {
        &self.cert
    }
}

/// `[tls]` in the settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsFile {
    cert: PathBuf,
    key: PathBuf,
}

impl TlsFile {
    /// Both or none.
    pub(super) fn resolve(self) -> anyhow::Result<Option<TlsFiles>> {
        let Self { cert, key } = self;
        match (cert.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some(TlsFiles { cert, key })),
            (false, true) => bail!("`tls.cert` is set without `tls.key`"),
            (true, false) => bail!("`tls.key` is set without `tls.cert`"),
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Front {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<Tls>,
    /// Where it is, for clients.
    pub(crate) url: String,
}

impl Front {
    /// Reads the certificate, if there is one, and listens.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let tls = config.tls.as_ref().map(|files| Tls::load(&files.cert, &files.key)).transpose()?;
        let listener = http::listen(config.listen).with_context(|| format!("cannot listen on {}", config.listen))?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr()?);
        Ok(Self { listener, tls, url })
    }
}
