//! HTTPS without a proxy: the server's certificate, and the handshake within its time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The protocols of both sides, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate with its key, ready to accept connections. Cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A certificate or key that cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file is missing, or is not what it should be.
    #[error("cannot read {what} from `{}`", path.display())]
    File {
        /// The file that was to be read.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// They are not of each other, or of a kind that is not supported.
    #[error("cannot use the certificate in `{}` with the key in `{}`", cert.display(), key.display())]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

impl Tls {
    /// Reads a certificate, with those that lead to its authority after it, and its private key,
    /// each from a PEM file.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::File { what, path, source }
        };
        let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
        let chain = chain.map_err(failed("a certificate", cert))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(failed("a private key", key))?;
        let mismatched = |source| TlsError::Pair { cert: cert.to_owned(), key: key.to_owned(), source };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(mismatched)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(mismatched)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands with a client, all in all within `deadline`: one that says nothing, or a byte
    /// now and then, does not hold its place.
    pub(super) async fn accept<S>(&self, stream: S, deadline: Duration) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        tokio::time::timeout(deadline, self.0.accept(stream)).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said() {
        assert!(Tls::load(&file("cert.pem"), &file("key.pem")).is_ok());
        for (cert, key, named) in [
            ("missing.pem", "key.pem", "missing.pem"),
            ("cert.pem", "missing.pem", "missing.pem"),
            ("key.pem", "key.pem", "a certificate from"),
            ("cert.pem", "cert.pem", "a private key from"),
            ("README.md", "key.pem", "a certificate from"),
            ("ca.pem", "key.pem", "with the key"),
        ] {
            let error = Tls::load(&file(cert), &file(key)).unwrap_err().to_string();
            assert!(error.contains(named), "{cert} and {key}: {error}");
        }
    }
}
