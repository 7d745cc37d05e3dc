//! The connection to NATS.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::watch;
use wasmill_metrics::Registry;

use super::config::{ClusterConfig, NatsAuth};
use super::error::{ConnectError, chain};
use super::metrics::NatsMetrics;
use crate::Reminder;

/// A server that does not answer for three of these is gone.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long one server may take to let us in.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait before the next try to connect, in milliseconds.
const RECONNECT_MS_MAX: u64 = 2_000;
/// Messages that wait inside the client for one of our subscriptions to take them. They are taken
/// at once, so when as many wait, this process cannot keep up at all.
const MESSAGES_WAITING_MAX: usize = 16_384;
/// Commands to the client that wait for its connection.
const COMMANDS_WAITING_MAX: usize = 1_024;

/// A client that connects again by itself, for ever.
#[derive(Clone)]
pub(super) struct Nats {
    client: Client,
    /// In front of every subject.
    prefix: Arc<str>,
    cuts: watch::Receiver<u64>,
    metrics: NatsMetrics,
}

impl Nats {
    /// Connects to one of the servers.
    pub(super) async fn connect(config: &ClusterConfig) -> Result<Self, ConnectError> {
        let prefix = format!("wasmill.{}", config.cluster);
        let (cut, cuts) = watch::channel(0);
        let who = who(&config.nats.auth);
        let metrics = NatsMetrics::new();
        let ears = Ears { cuts: cut, who: who.clone(), reminder: Mutex::default(), metrics: metrics.clone() };
        let options = authenticated(&config.nats.auth)?
            .name(format!("wasmill {}", config.member))
            // Each its own, so that the server can keep others from listening to the answers.
            .custom_inbox_prefix(format!("{prefix}.inbox.{}", config.member))
            .connection_timeout(CONNECTION_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_delay)
            .subscription_capacity(MESSAGES_WAITING_MAX)
            .client_capacity(COMMANDS_WAITING_MAX)
            .event_callback(move |event| {
                ears.hear(&event);
                std::future::ready(())
            });
        let options = protected(options, config);
        let urls = &config.nats.urls;
        let client = options.connect(urls).await.map_err(|error| ConnectError::Unreachable {
            action: "connect to NATS",
            urls: urls.clone(),
            reason: format!("{} ({who})", chain(&error)),
        })?;
        Ok(Self { client, prefix: prefix.into(), cuts, metrics })
    }

    /// Shows whether the connection stands, and how often it did not.
    pub(super) fn watch(&self, registry: &Registry) {
        self.metrics.register(registry, self.client.clone());
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The subject on the servers.
    pub(super) fn subject(&self, subject: &str) -> String {
        format!("{}.{subject}", self.prefix)
    }

    /// The local name of a subject on the servers.
    pub(super) fn strip<'a>(&self, subject: &'a str) -> &'a str {
        subject.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or(subject)
    }

    /// Whether what is sent now is on its way at once. Otherwise it would wait for a connection,
    /// and arrive when nobody expects it any more.
    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Changes whenever messages may have been lost from now on, because the connection was cut or
    /// we were too slow.
    pub(super) fn cuts(&self) -> watch::Receiver<u64> {
        let mut cuts = self.cuts.clone();
        // A clone has seen what the original has seen, which is nothing: every cut of the past
        // would be a new one.
        cuts.mark_unchanged();
        cuts
    }
}

/// The receivers of the client's events.
struct Ears {
    cuts: watch::Sender<u64>,
    who: String,
    /// Of what keeps it from connecting again.
    reminder: Mutex<Reminder>,
    metrics: NatsMetrics,
}

impl Ears {
    fn hear(&self, event: &Event) {
        match event {
            Event::Disconnected => {
                tracing::warn!("the connection to NATS is lost, connecting again");
                self.metrics.disconnections.inc();
                self.cuts.send_modify(|cuts| *cuts += 1);
            }
            Event::SlowConsumer(_) => {
                tracing::warn!("messages of NATS were dropped: this process does not keep up");
                self.metrics.messages_dropped.inc();
                self.cuts.send_modify(|cuts| *cuts += 1);
            }
            Event::Connected => {
                self.reminder().is_over();
                tracing::info!("connected to NATS");
            }
            // We connect again for ever, so this is our own doing.
            Event::Closed => tracing::debug!("the connection to NATS is closed"),
            Event::ServerError(error) => tracing::warn!("NATS says: {error}"),
            Event::ClientError(error) => {
                let problem = error.to_string();
                if self.reminder().is_due(Instant::now(), &problem) {
                    tracing::warn!("cannot connect to NATS again ({}), trying until it succeeds: {problem}", self.who);
                }
            }
            Event::LameDuckMode | Event::Draining => tracing::info!("the NATS server is about to stop"),
        }
    }

    fn reminder(&self) -> MutexGuard<'_, Reminder> {
        // Nothing panics while it holds this lock.
        self.reminder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The identity of a process for NATS, without anything that is secret.
fn who(auth: &NatsAuth) -> String {
    match auth {
        NatsAuth::None => "as nobody".to_owned(),
        NatsAuth::CredentialsFile(path) => format!("with the credentials in `{}`", path.display()),
        NatsAuth::NkeyFile(path) => format!("with the nkey in `{}`", path.display()),
        NatsAuth::Password { user, .. } => format!("as user `{user}`"),
        NatsAuth::Token(_) => "with a token".to_owned(),
    }
}

fn authenticated(auth: &NatsAuth) -> Result<ConnectOptions, ConnectError> {
    let read =
        |path: &Path| fs::read_to_string(path).map_err(|source| ConnectError::File { path: path.to_owned(), source });
    Ok(match auth {
        NatsAuth::None => ConnectOptions::new(),
        NatsAuth::CredentialsFile(path) => ConnectOptions::with_credentials(&read(path)?)
            .map_err(|source| ConnectError::File { path: path.clone(), source })?,
        NatsAuth::NkeyFile(path) => ConnectOptions::with_nkey(read(path)?.trim().to_owned()),
        NatsAuth::Password { user, password } => ConnectOptions::with_user_and_password(user.clone(), password.clone()),
        NatsAuth::Token(token) => ConnectOptions::with_token(token.clone()),
    })
}

fn protected(mut options: ConnectOptions, config: &ClusterConfig) -> ConnectOptions {
    let tls = &config.nats.tls;
    options = options.require_tls(tls.is_wanted());
    if let Some(ca_file) = &tls.ca_file {
        options = options.add_root_certificates(ca_file.clone());
    }
    if let Some((certificate, key)) = &tls.client {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    options
}

/// Doubles up to its bound; the half to the whole of it is drawn, so that a whole fleet does not
/// come back at the same moment.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        // The first server may just have been stopped: another one is tried at once.
        return Duration::ZERO;
    }
    let whole_ms = (50 << attempts.min(16)).min(RECONNECT_MS_MAX);
    let mut random = [0; 2];
    // Without a random number it is the whole.
    let drawn = getrandom::fill(&mut random).map_or(0, |()| u64::from(u16::from_le_bytes(random)));
    Duration::from_millis(whole_ms - drawn % (whole_ms / 2 + 1))
}
