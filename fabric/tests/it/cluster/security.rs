//! The wires as `deploy/` has them: encrypted, and each member with no more rights than it needs.
//! The power of a stolen credential of a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::ConnectOptions;
use bytes::Bytes;
use etcd_client::{Client, PermissionType};
use futures::StreamExt;
use nkeys::KeyPair;
use tokio::sync::watch;
use wasmill_fabric::cluster::{
    Cluster, ClusterConfig, ConnectError, ControlConfig, EtcdConfig, HostCluster, NatsAuth, NatsConfig, TlsConfig,
};
use wasmill_fabric::remote_blobs::serve_blobs;
use wasmill_fabric::{Bus, HostEvent};
use wasmill_fabric_testing::{
    Authority, EtcdOptions, EtcdServer, EtcdVersion, NatsCluster, NatsLayout, NatsSetup, NatsVersion,
};
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{Digest, HostId, Incarnation, LogSeq};

use super::servers::{Pair, name};
use crate::conformance::within;

/// Long enough for what is forbidden to arrive all the same.
const SHORTLY: Duration = Duration::from_millis(200);

/// Three NATS servers with the configuration of `deploy/`, and the keys of those who may connect.
struct Deployed {
    nats: NatsCluster,
    dir: tempfile::TempDir,
}

impl Deployed {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let members = ["node-1", "host-1", "host-2"].map(|member| {
            let key = KeyPair::new_user();
            fs::write(dir.path().join(format!("{member}.nk")), key.seed().unwrap()).unwrap();
            (member, key.public_key())
        });
        let authority = Authority::new();
        authority.issue(dir.path(), "client");
        let nats = NatsCluster::start_with(NatsVersion::V2_15, |layout, all| {
            authority.issue(&layout.dir.join("tls"), "server");
            fs::write(layout.dir.join("nats.conf"), deployed("nats.conf")).unwrap();
            fs::write(layout.dir.join("nats-members.conf"), members_conf(&members)).unwrap();
            setup(layout, all)
        });
        Self { nats, dir }
    }

    fn seed(&self, member: &str) -> PathBuf {
        self.dir.path().join(format!("{member}.nk"))
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn config(&self, member: &str) -> ClusterConfig {
        ClusterConfig {
            cluster: name("default"),
            member: name(member),
            nats: NatsConfig {
                urls: self.nats.urls(),
                auth: NatsAuth::NkeyFile(self.seed(member)),
                tls: TlsConfig { ca_file: Some(self.ca()), client: None },
            },
            etcd: EtcdConfig { urls: vec![Pair::new().etcd.url()], ..EtcdConfig::default() },
            lease_ms: 5_000,
        }
    }

    /// NATS itself, with the credential of a member.
    async fn stolen(&self, member: &str) -> async_nats::Client {
        let seed = fs::read_to_string(self.seed(member)).unwrap();
        let options = ConnectOptions::with_nkey(seed)
            .add_root_certificates(self.ca())
            .custom_inbox_prefix(format!("wasmill.default.inbox.{member}"))
            .request_timeout(Some(SHORTLY));
        options.connect(self.nats.urls()).await.unwrap()
    }
}

fn deployed(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read `{}`: {error}", path.display()))
}

/// As an operator fills it in: the block of a host is there once for each host.
fn members_conf(members: &[(&str, String)]) -> String {
    let text = deployed("nats-members.conf");
    let (rest, host) = text.split_at(text.find("  # A host:").unwrap());
    let (host, end) = host.split_at(host.rfind("]").unwrap());
    let mut filled = format!("{rest}{host}{}{end}", host.replace("host-1", "host-2"));
    for (member, key) in members {
        filled = filled.replace(&format!("<KEY OF {member}>"), key);
    }
    filled
}

fn setup(layout: &NatsLayout, all: &[NatsLayout]) -> NatsSetup {
    let routes: Vec<_> = all.iter().map(|other| format!("nats://127.0.0.1:{}", other.route_port)).collect();
    let env = [
        ("NATS_NAME", format!("n{}", layout.port)),
        ("NATS_CLIENTS", format!("127.0.0.1:{}", layout.port)),
        ("NATS_SERVERS", format!("127.0.0.1:{}", layout.route_port)),
        ("NATS_ROUTES", format!("[{}]", routes.join(", "))),
        ("NATS_MONITOR", format!("127.0.0.1:{}", layout.http_port)),
        ("NATS_DATA", "data".to_owned()),
    ];
    NatsSetup {
        args: vec!["--config".to_owned(), "nats.conf".to_owned()],
        env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deployed_configuration_lets_members_do_their_work_and_a_stolen_host_no_more_than_its_own() {
    let deployed = Deployed::start();
    let dir = tempfile::tempdir().unwrap();
    let mut options = ControlConfig::new(dir.path().join("blobs"));
    options.nats_monitors =
        deployed.nats.servers.iter().map(|server| format!("127.0.0.1:{}", server.layout().http_port)).collect();
    let control = Cluster::connect(&deployed.config("node-1"), &options).await.unwrap();
    assert_eq!(control.warnings(), <[String; 0]>::default());
    let (_shutdown, receiver) = watch::channel(false);
    tokio::spawn(serve_blobs(control.fabric.bus.clone(), control.fabric.blobs.clone(), "node-1".to_owned(), receiver));
    let host = HostCluster::connect(&deployed.config("host-1")).await.unwrap();

    members_do_their_work(&control, &host).await;
    a_stolen_host_speaks_for_nobody_else(&deployed, &control).await;
    a_stolen_host_listens_to_nobody_else(&deployed, &control).await;
    a_stolen_host_does_not_touch_what_is_kept(&deployed, &control).await;
    nobody_gets_in_without_a_key(&deployed).await;
}

async fn members_do_their_work(control: &Cluster, host: &HostCluster) {
    let log = &control.fabric.log;
    for last in 0..20 {
        log.append(LogSeq(last), "a record".into()).await.unwrap();
    }
    log.trim(LogSeq(5)).await.unwrap();
    let records: Vec<_> = within("the log is read", log.tail(LogSeq(6)).take(15).collect()).await;
    assert!(records.into_iter().all(|record| record.is_ok()));

    let bytes = Bytes::from(vec![7; 2_000_000]);
    let stat = within("the blob is stored", async {
        loop {
            if let Ok(stat) = host.fabric.blobs.put(bytes.clone()).await {
                return stat;
            }
        }
    })
    .await;
    assert!(host.fabric.blobs.read(stat.digest, u64::MAX).await.unwrap() == bytes);
    assert!(control.fabric.blobs.read(stat.digest, u64::MAX).await.unwrap() == bytes);
    // A list comes from one of three servers, which may be the last one to know.
    within("it is listed", async {
        while !matches!(control.fabric.blobs.list().collect::<Vec<_>>().await[..], [Ok(_)]) {}
    })
    .await;
    control.fabric.blobs.delete(stat.digest).await.unwrap();

    // Both ways, each answered.
    for (from, to, subject) in [
        (&host.fabric.bus, &control.fabric.bus, "reports.host-1"),
        (&control.fabric.bus, &host.fabric.bus, "host.host-1"),
    ] {
        let pattern = if subject.starts_with("reports") { "reports.*" } else { subject };
        let mut subscription = to.subscribe(pattern, 10).await.unwrap();
        let answering = async {
            while let Some(question) = subscription.recv().await {
                question.responder.unwrap().respond(Bytes::from("an answer").into());
            }
        };
        let answer = tokio::select! {
            answer = ask(&**from, subject) => answer,
            () = answering => panic!("the subscription has ended"),
        };
        assert_eq!(answer, "an answer");
    }
    let mut heartbeats = control.fabric.bus.subscribe("heartbeats.*", 10).await.unwrap();
    // One that comes before every server knows who listens is lost, as any message may be.
    let beats = async {
        loop {
            host.fabric.bus.publish("heartbeats.host-1", "alive".into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let heard = tokio::select! {
        heard = within("a heartbeat", heartbeats.recv()) => heard,
        never = beats => never,
    };
    assert_eq!(heard.unwrap().content.into_bytes(), "alive");
}

/// Asks until there is an answer: a question that comes before every server knows who listens is
/// lost.
async fn ask(bus: &dyn Bus, subject: &str) -> Bytes {
    within("an answer", async {
        loop {
            if let Ok(answer) = bus.request(subject, "a question".into(), Duration::from_secs(1)).await {
                return answer;
            }
        }
    })
    .await
}

async fn a_stolen_host_speaks_for_nobody_else(deployed: &Deployed, control: &Cluster) {
    let stolen = deployed.stolen("host-1").await;
    let mut heard = Vec::new();
    for pattern in ["reports.*", "heartbeats.*", "blobs.any.*", "host.*", "inbox.*", "anything"] {
        heard.push(control.fabric.bus.subscribe(pattern, 100).await.unwrap());
    }
    for subject in [
        "reports.host-2",
        "heartbeats.host-2",
        "blobs.any.host-2",
        "blobs.at.node-1.host-2",
        "host.host-2",
        "host.host-1",
        "inbox.node-1",
        "anything",
    ] {
        stolen.publish(format!("wasmill.default.{subject}"), "stolen".into()).await.unwrap();
    }
    // An allowed request comes after all that, over the same connection.
    for subject in ["reports.host-1", "heartbeats.host-1"] {
        stolen.publish(format!("wasmill.default.{subject}"), "its own".into()).await.unwrap();
    }
    for subscription in &mut heard[..2] {
        assert_eq!(within("its own", subscription.recv()).await.unwrap().content.into_bytes(), "its own");
    }
    for subscription in &mut heard {
        assert!(subscription.try_recv().is_err(), "a host has spoken for another one");
    }
}

async fn a_stolen_host_listens_to_nobody_else(deployed: &Deployed, control: &Cluster) {
    let stolen = deployed.stolen("host-1").await;
    let mut overheard = Vec::new();
    for subject in [
        "wasmill.default.host.host-2",
        "wasmill.default.host.*",
        "wasmill.default.>",
        "wasmill.default.reports.*",
        "wasmill.default.inbox.node-1.>",
        "wasmill.default.log",
        "$O.wasmill-default-blobs.>",
        ">",
    ] {
        overheard.push(stolen.subscribe(subject).await.unwrap());
    }
    let mut its_own = stolen.subscribe("wasmill.default.host.host-1").await.unwrap();
    stolen.flush().await.unwrap();
    within("its own assignments", async {
        loop {
            for host in ["host-2", "host-1"] {
                control.fabric.bus.publish(&format!("host.{host}"), "an assignment".into()).await.unwrap();
            }
            if tokio::time::timeout(SHORTLY, its_own.next()).await.is_ok() {
                break;
            }
        }
    })
    .await;
    control.fabric.log.append(LogSeq(20), "a record".into()).await.unwrap();
    for mut subscriber in overheard {
        let heard = tokio::time::timeout(Duration::from_millis(20), subscriber.next()).await;
        assert!(!matches!(heard, Ok(Some(_))), "{heard:?}");
    }
    // It may answer what it is asked, once, and no more.
    let bus = &control.fabric.bus;
    let mut asked = std::pin::pin!(ask(&**bus, "host.host-1"));
    let mut replies = Vec::new();
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            // Assignments may still come before the question.
            message = its_own.next() => if let Some(reply) = message.unwrap().reply {
                stolen.publish(reply.clone(), "an answer".into()).await.unwrap();
                replies.push(reply);
            },
        }
    };
    assert_eq!(answer, "an answer");
    let reply = replies.pop().unwrap();
    let node = deployed.stolen("node-1").await;
    let mut inbox = node.subscribe(reply.clone()).await.unwrap();
    node.flush().await.unwrap();
    stolen.publish(reply, "another answer".into()).await.unwrap();
    assert!(tokio::time::timeout(SHORTLY, inbox.next()).await.is_err());
}

async fn a_stolen_host_does_not_touch_what_is_kept(deployed: &Deployed, control: &Cluster) {
    let stolen = deployed.stolen("host-1").await;
    let before = control.fabric.log.last_seq().await.unwrap();
    for subject in [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.INFO.wasmill-default-log",
        "$JS.API.STREAM.PURGE.wasmill-default-log",
        "$JS.API.STREAM.DELETE.wasmill-default-log",
        "$JS.API.STREAM.MSG.GET.wasmill-default-log",
        "$JS.API.STREAM.INFO.OBJ_wasmill-default-blobs",
        "$JS.API.STREAM.PURGE.OBJ_wasmill-default-blobs",
        "$JS.API.CONSUMER.CREATE.wasmill-default-log",
        "$JS.API.CONSUMER.CREATE.OBJ_wasmill-default-blobs",
        "wasmill.default.log",
        "$O.wasmill-default-blobs.M.x",
        "$O.wasmill-default-blobs.C.x",
    ] {
        let answer = stolen.request(subject, "{}".into()).await;
        assert!(answer.is_err(), "`{subject}` has answered {answer:?}");
    }
    assert_eq!(control.fabric.log.last_seq().await.unwrap(), before);
    // Through the control nodes it can read what it can name, and nothing else.
    let host = HostCluster::connect(&deployed.config("host-1")).await.unwrap();
    assert!(host.fabric.blobs.list().next().await.unwrap().is_err());
    assert!(host.fabric.blobs.delete(Digest([1; 32])).await.is_err());
}

async fn nobody_gets_in_without_a_key(deployed: &Deployed) {
    let refused = |config: ClusterConfig| async move {
        let connected = HostCluster::connect(&config).await;
        assert!(matches!(connected, Err(ConnectError::Unreachable { .. })));
    };
    let config = deployed.config("host-1");
    let nats = |auth, tls| ClusterConfig { nats: NatsConfig { auth, tls, ..config.nats.clone() }, ..config.clone() };
    refused(nats(NatsAuth::None, config.nats.tls.clone())).await;
    let stranger = deployed.seed("stranger");
    fs::write(&stranger, KeyPair::new_user().seed().unwrap()).unwrap();
    refused(nats(NatsAuth::NkeyFile(stranger), config.nats.tls.clone())).await;
    // A server that somebody else vouches for.
    let other = tempfile::tempdir().unwrap();
    let other = Authority::new().issue(other.path(), "other").ca;
    refused(nats(config.nats.auth.clone(), TlsConfig { ca_file: Some(other), client: None })).await;
}

/// etcd with TLS on its port for clients, who need a certificate, and with users.
async fn protected_etcd(version: EtcdVersion, authority: &Authority, dir: &Path) -> (EtcdServer, TlsConfig) {
    let files = authority.issue(dir, "etcd");
    let path = |path: &Path| path.display().to_string();
    let args = [
        ("--cert-file", path(&files.certificate)),
        ("--key-file", path(&files.key)),
        ("--trusted-ca-file", path(&files.ca)),
        ("--client-cert-auth", "true".to_owned()),
    ];
    // `--client-cert-auth=true`: etcd's flags for yes and no take no word of their own.
    let more = args
        .into_iter()
        .flat_map(|(name, value)| match name {
            "--client-cert-auth" => vec![format!("{name}={value}")],
            _ => vec![name.to_owned(), value],
        })
        .collect();
    let etcd = EtcdServer::start(&EtcdOptions { version, more });
    let client = authority.issue(dir, "client");
    (etcd, TlsConfig { ca_file: Some(client.ca), client: Some((client.certificate, client.key)) })
}

/// etcd itself, as this user.
async fn client(etcd: &EtcdServer, tls: &TlsConfig, user: Option<&str>) -> Client {
    let (certificate, key) = tls.client.clone().unwrap();
    let read = |path: &Path| fs::read(path).unwrap();
    let tls = etcd_client::TlsOptions::new()
        .ca_certificate(etcd_client::Certificate::from_pem(read(tls.ca_file.as_ref().unwrap())))
        .identity(etcd_client::Identity::from_pem(read(&certificate), read(&key)));
    let mut options = etcd_client::ConnectOptions::new().with_tls(tls);
    if let Some(user) = user {
        options = options.with_user(user, format!("{user}-password"));
    }
    Client::connect([etcd.url()], Some(options)).await.unwrap()
}

/// The lease of the leader, with the credential of a host.
async fn a_host_ends_no_lease_but_its_own(etcd: &EtcdServer, tls: &TlsConfig, control: &ClusterConfig) {
    let prefix = format!("/wasmill/{}/leader/", control.cluster);
    let options = Some(etcd_client::GetOptions::new().with_prefix());
    let seats =
        client(etcd, tls, Some("control")).await.kv_client().get(prefix.clone(), options.clone()).await.unwrap();
    let stolen = client(etcd, tls, Some("host-1")).await;
    assert!(stolen.kv_client().get(prefix, options).await.is_err());
    assert!(stolen.lease_client().revoke(seats.kvs()[0].lease()).await.is_err());
}

/// The users of `docs/operating.md`, by the same steps.
async fn make_users(etcd: &EtcdServer, tls: &TlsConfig) {
    let client = client(etcd, tls, None).await;
    let auth = client.auth_client();
    auth.clone().user_add("root", "root-password", None).await.unwrap();
    auth.clone().user_grant_role("root", "root").await.unwrap();
    for (user, key, prefix) in
        [("control", "/wasmill/default/", true), ("host-1", "/wasmill/default/hosts/host-1", false)]
    {
        let mut permission = etcd_client::Permission::new(PermissionType::Readwrite, key);
        if prefix {
            permission = permission.with_prefix();
        }
        auth.clone().role_add(user).await.unwrap();
        auth.clone().role_grant_permission(user, permission).await.unwrap();
        auth.clone().user_add(user, format!("{user}-password"), None).await.unwrap();
        auth.clone().user_grant_role(user, user).await.unwrap();
    }
    auth.clone().auth_enable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_may_touch_its_own_key_in_etcd_and_nothing_else() {
    for (version, pair) in [(EtcdVersion::V3_4, Pair::old()), (EtcdVersion::V3_5, Pair::new())] {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let (etcd, tls) = protected_etcd(version, &authority, dir.path()).await;
        make_users(&etcd, &tls).await;
        let config = |member: &str, user: &str| ClusterConfig {
            member: name(member),
            etcd: EtcdConfig {
                urls: vec![etcd.url()],
                user: Some((user.to_owned(), format!("{user}-password"))),
                tls: tls.clone(),
            },
            cluster: name("default"),
            ..pair.config("any")
        };
        // The log of a cluster of this name on a NATS that others use too.
        let control_config = config("node-1", "control");
        let control = Cluster::connect(&control_config, &ControlConfig::new(dir.path().join("blobs"))).await.unwrap();
        let leading = within("an election", control.fabric.membership.campaign("node-1")).await.unwrap();
        assert!(!*leading.lost.borrow());

        let host = HostCluster::connect(&config("host-1", "host-1")).await.unwrap();
        let info = |id: &str| HostInfo { id: HostId::from(id), incarnation: Incarnation(1), ..HostInfo::default() };
        let registration = host.fabric.membership.register(info("host-1")).await.unwrap();
        let mut hosts = control.fabric.membership.hosts();
        assert_eq!(within("a host", hosts.next()).await, Some(HostEvent::Joined(info("host-1"))));
        let Err(error) = host.fabric.membership.register(info("host-2")).await else {
            panic!("it speaks for another host")
        };
        assert!(error.to_string().contains("permission denied"), "{error}");
        let campaign = tokio::time::timeout(SHORTLY * 10, host.fabric.membership.campaign("host-1")).await;
        assert!(campaign.is_err(), "a host has been elected");
        assert!(!*leading.lost.borrow());
        assert!(HostCluster::connect(&config("node-1", "host-1")).await.is_err(), "a key of somebody else");
        a_host_ends_no_lease_but_its_own(&etcd, &tls, &control_config).await;
        assert!(!*leading.lost.borrow());
        registration.lease.release().await;
        assert_eq!(
            within("it leaves", hosts.next()).await,
            Some(HostEvent::Left(HostId::from("host-1"), Incarnation(1)))
        );

        // Without a password, or without a certificate, nobody gets in.
        let mut nobody = config("host-1", "host-1");
        nobody.etcd.user = None;
        assert!(HostCluster::connect(&nobody).await.is_err());
        let mut nobody = config("host-1", "host-1");
        nobody.etcd.tls.client = None;
        assert!(HostCluster::connect(&nobody).await.is_err());
    }
}
