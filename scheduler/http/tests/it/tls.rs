//! HTTPS by the server itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Version};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wasmill_scheduler_http::{HttpConfig, Tls};

use crate::support::{Client, Server, TASK, raw};

/// Long enough for a slow machine, short enough for a test.
const QUICK: Duration = Duration::from_millis(500);
/// Longer than anything may stay that is not wanted.
const PATIENCE: Duration = Duration::from_secs(20);

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn secure(config: &mut HttpConfig) {
    config.tls = Some(Tls::load(&file("cert.pem"), &file("key.pem")).unwrap());
    config.header_timeout = QUICK;
}

/// The server's admin over TLS, trusting `authorities` alone.
fn client(server: &Server, authorities: Vec<Certificate>, http1: bool) -> Client {
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only(authorities);
    let builder = if http1 { builder.http1_only() } else { builder };
    let base = format!("https://localhost:{}", server.address.port());
    Client { http: builder.build().unwrap(), base, token: server.admin.token.clone() }
}

fn authority() -> Vec<Certificate> {
    Certificate::from_pem_bundle(&std::fs::read(file("ca.pem")).unwrap()).unwrap()
}

#[tokio::test]
async fn https_is_served_in_both_versions_of_http() {
    let server = Server::start_with(secure).await;
    for (http1, version) in [(true, Version::HTTP_11), (false, Version::HTTP_2)] {
        let client = client(&server, authority(), http1);
        let digest = server.upload(&client, TASK).await;
        let task = client.submit(json!({"module": digest, "input_text": "big"})).await;
        client.ended(&task["id"]).await;
        let output = client.get(&format!("/v1/tasks/{}/output", task["id"].as_str().unwrap())).await;
        assert_eq!(output.body.len(), 100_000);
        let response = client.request(reqwest::Method::GET, "/v1/status").send().await.unwrap();
        assert_eq!(response.version(), version);
    }
}

#[tokio::test]
async fn who_does_not_trust_the_authority_sends_nothing() {
    let server = Server::start_with(secure).await;
    let error = client(&server, Vec::new(), true).request(reqwest::Method::GET, "/v1/status").send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
}

#[tokio::test]
async fn plain_http_is_no_handshake() {
    let server = Server::start_with(secure).await;
    let answer = raw(server.address, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(!answer.contains("HTTP/1.1"), "{answer}");
}

/// The beginning of a record that says it is a handshake of 16 KiB.
const RECORD: [u8; 5] = [0x16, 3, 1, 0x40, 0];

#[tokio::test]
async fn c06_a_stalled_handshake_ends() {
    let server = Server::start_with(secure).await;
    for beginning in [&b""[..], &RECORD[..3], &RECORD] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        ends(&mut stream).await;
    }
    // A byte now and then does not help: the deadline is for all of it.
    let (mut reading, mut writing) = TcpStream::connect(server.address).await.unwrap().into_split();
    let trickle = tokio::spawn(async move {
        for byte in RECORD.iter().chain(std::iter::repeat(&0)) {
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    ends(&mut reading).await;
    trickle.abort();
}

#[tokio::test]
async fn c06_silence_after_the_handshake_ends() {
    let server = Server::start_with(secure).await;
    for beginning in [&b""[..], b"P", b"GET /v1/status HTTP/1.1\r\nHost: x\r\n"] {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let mut stream = connector().connect("localhost".try_into().unwrap(), stream).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        ends(&mut stream).await;
    }
}

fn connector() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Reads until the server closes.
async fn ends(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is still open");
}
