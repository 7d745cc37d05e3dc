//! Ways into NATS: with a password, a token, a certificate, a file of credentials.

use std::fs;

use base64::Engine;
use nkeys::KeyPair;
use wasmill_fabric::cluster::{ConnectError, HostCluster, NatsAuth, TlsConfig};
use wasmill_fabric_testing::{Authority, CertificateFiles, NatsOptions, NatsServer, NatsVersion};
use wasmill_protocol::LogSeq;

use super::servers::{Pair, config, control};

/// The part of a server's configuration that protects its port for clients, who need a certificate.
fn tls_conf(files: &CertificateFiles) -> String {
    let CertificateFiles { ca, certificate, key } = files;
    format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
        certificate.display(),
        key.display(),
        ca.display()
    )
}

/// A control node gets in, and its log works.
async fn gets_in(nats: &NatsServer, auth: NatsAuth, tls: &TlsConfig) {
    let mut config = config(vec![nats.url()], vec![Pair::new().etcd.url()], "node-1");
    (config.nats.auth, config.nats.tls) = (auth, tls.clone());
    let (control, _dir) = control(&config).await;
    assert_eq!(control.fabric.log.append(LogSeq(0), "a record".into()).await.unwrap(), LogSeq(1));
}

async fn stays_out(nats: &NatsServer, auth: NatsAuth, tls: &TlsConfig) {
    let mut config = config(vec![nats.url()], vec![Pair::new().etcd.url()], "host-1");
    (config.nats.auth, config.nats.tls) = (auth, tls.clone());
    let connected = HostCluster::connect(&config).await;
    assert!(matches!(connected, Err(ConnectError::Unreachable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_the_password_or_the_token_and_a_certificate_gets_into_nats() {
    let password = |password: &str| NatsAuth::Password { user: "ada".to_owned(), password: password.to_owned() };
    let token = |token: &str| NatsAuth::Token(token.to_owned());
    for version in [NatsVersion::V2_9, NatsVersion::V2_15] {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let server = tls_conf(&authority.issue(dir.path(), "server"));
        let client = authority.issue(dir.path(), "client");
        let tls = TlsConfig { ca_file: Some(client.ca), client: Some((client.certificate, client.key)) };
        let anonymous = TlsConfig { client: None, ..tls.clone() };
        for (who, right, wrong) in [
            ("user: ada, password: \"love lace\"", password("love lace"), password("love")),
            ("token: \"a token\"", token("a token"), token("another")),
        ] {
            let more = format!("{server}\nauthorization {{ {who} }}");
            let nats = NatsServer::start(&NatsOptions { more, ..NatsOptions::new(version) });
            gets_in(&nats, right.clone(), &tls).await;
            stays_out(&nats, wrong, &tls).await;
            stays_out(&nats, NatsAuth::None, &tls).await;
            stays_out(&nats, right, &anonymous).await;
        }
    }
}

/// A JWT, as NATS signs them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &serde_json::Value) -> String {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let (issuer_key, subject) = (issuer.public_key(), subject.public_key());
    let claims =
        serde_json::json!({ "jti": subject, "iat": 0, "iss": issuer_key, "name": "any", "sub": subject, "nats": nats });
    let head = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{head}.{}", encode(claims.to_string().as_bytes()));
    let signature = encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn credentials(jwt: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_a_file_of_credentials_gets_into_nats() {
    for version in [NatsVersion::V2_9, NatsVersion::V2_15] {
        let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
        let all = serde_json::json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1
        });
        let none = serde_json::json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1
        });
        let of_account = |limits| serde_json::json!({ "type": "account", "version": 2, "limits": limits });
        let more = format!(
            "operator: \"{}\"\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{ {}: \"{}\", {}: \"{}\" }}",
            jwt(&operator, &operator, &serde_json::json!({ "type": "operator", "version": 2 })),
            system.public_key(),
            system.public_key(),
            jwt(&operator, &system, &of_account(none)),
            account.public_key(),
            jwt(&operator, &account, &of_account(all)),
        );
        let nats = NatsServer::start(&NatsOptions { more, ..NatsOptions::new(version) });
        let (dir, user) = (tempfile::tempdir().unwrap(), KeyPair::new_user());
        let claims = serde_json::json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
        let write = |file: &str, signer: &KeyPair| {
            let path = dir.path().join(file);
            fs::write(&path, credentials(&jwt(signer, &user, &claims), &user.seed().unwrap())).unwrap();
            NatsAuth::CredentialsFile(path)
        };
        gets_in(&nats, write("right.creds", &account), &TlsConfig::default()).await;
        // Of an account that the server does not know.
        stays_out(&nats, write("wrong.creds", &KeyPair::new_account()), &TlsConfig::default()).await;
    }
}
