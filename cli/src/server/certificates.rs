//! When the certificates of this process end.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use wasmill_metrics::{Registry, gauges};
use x509_parser::parse_x509_certificate;

/// Tells when each of these ends: what it is for, and its file. They were read before, so one that
/// cannot be read here is left out.
pub(crate) fn watch(registry: &Registry, certificates: &[(&str, Option<&Path>)]) {
    let help = "When the certificate that was read at the start ends, in seconds since 1970.";
    let ends = gauges(registry, "wasmill_certificate_expires_timestamp_seconds", help, &["use"]);
    for (what, file) in certificates {
        if let Some(end) = file.and_then(end) {
            ends.with_label_values(&[what]).set(end);
        }
    }
}

/// When the first certificate of a file ends.
fn end(file: &Path) -> Option<i64> {
    let certificate = CertificateDer::from_pem_file(file).ok()?;
    let (_, certificate) = parse_x509_certificate(&certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_told_by_its_use() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cert.pem");
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let signed = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        std::fs::write(&file, signed.pem()).unwrap();
        let registry = Registry::new();
        watch(&registry, &[("https", Some(&file)), ("nats", None), ("etcd", Some(dir.path()))]);
        let text = wasmill_metrics::Page::of(&registry).into_text();
        assert!(text.contains("{use=\"https\"} 1893456000\n"), "{text}");
        assert!(!text.contains("nats") && !text.contains("etcd"), "{text}");
    }
}
