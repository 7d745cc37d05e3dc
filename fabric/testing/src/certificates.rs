//! An authority of its own for every test, and what it signs.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Signs certificates for servers and clients of the loopback.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate in a directory.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The authority that has signed it.
    pub ca: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// One that nobody has trusted before.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "tests of Wasmill");
        let key = KeyPair::generate().expect("the system has randomness");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("the parameters make sense") }
    }

    /// Writes `ca.pem`, `NAME.pem` and `NAME.key` into a directory, for a server and client at
    /// 127.0.0.1.
    pub fn issue(&self, dir: &Path, name: &str) -> CertificateFiles {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("these are names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("the system has randomness");
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters make sense");
        let files = CertificateFiles {
            ca: dir.join("ca.pem"),
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        fs::create_dir_all(dir).expect("the directory is ours");
        for (path, text) in
            [(&files.ca, self.issuer.pem()), (&files.certificate, certificate.pem()), (&files.key, key.serialize_pem())]
        {
            fs::write(path, text).expect("the directory is ours");
        }
        files
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
