//! Connecting to NATS, with each way of proving who one is: user and password, a token, a credentials file (a user's JWT
//! and the seed of its nkey), and a TLS client certificate.
//!
//! Each role has an inbox of its own, for the answers to its requests: `_INBOX.plimsoll.TENANT.agent.NAME`,
//! `….coordinator`, `….viewer`. A server's permissions can therefore keep an agent from reading what others are answered,
//! such as the plan of another tenant (deploy/nats/).

use super::{ANSWER_MAX, Bus, BusError, causes, error, is_name};
use async_nats::{ConnectErrorKind, ConnectOptions, Event, jetstream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// How to reach NATS.
#[derive(Clone)]
pub struct BusSettings {
    /// `nats://host:4222` or `tls://host:4222`.
    pub url: String,
    /// Who connects.
    pub credentials: Credentials,
    /// Trust these root certificates (PEM), and require TLS.
    pub ca: Option<PathBuf>,
    /// A client certificate and its key (PEM); require TLS.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whose fleet: part of all names.
    pub tenant: String,
    /// What this process does.
    pub role: Role,
}

/// Proof of who connects.
#[derive(Clone)]
pub enum Credentials {
    /// None, or a client certificate alone.
    None,
    /// User and password.
    Password(String, String),
    /// A token.
    Token(String),
    /// A file with a user's JWT and the seed of its nkey, as `nsc` writes it.
    File(PathBuf),
}

/// What a process does in a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sends, and has this name.
    Agent(String),
    /// It gives orders.
    Coordinator,
    /// It lists the agents.
    Viewer,
}

impl Role {
    /// The last parts of the inbox's subject.
    fn inbox(&self) -> String {
        match self {
            Role::Agent(name) => format!("agent.{name}"),
            Role::Coordinator => "coordinator".into(),
            Role::Viewer => "viewer".into(),
        }
    }

    /// How the server's list of connections shows it.
    fn shown(&self) -> String {
        match self {
            Role::Agent(name) => format!("plimsoll agent {name}"),
            Role::Coordinator => "plimsoll coordinator".into(),
            Role::Viewer => "plimsoll agents".into(),
        }
    }
}

impl Bus {
    /// Connects, and creates what a tenant's fleet needs if it does not exist. What the connection reports
    /// later goes to `events`.
    ///
    /// # Errors
    /// NATS does not answer, refuses, or has no JetStream.
    pub async fn connect(
        settings: &BusSettings,
        events: mpsc::UnboundedSender<String>,
    ) -> Result<Bus, BusError> {
        if !is_name(&settings.tenant) {
            let message = format!("\"{}\" is not a valid tenant", settings.tenant);
            return Err(error(message, "use at most 64 letters, digits, - and _"));
        }
        let options = with_proof(base_options(settings, events), settings).await?;
        let shown = without_password(&settings.url);
        let client = options.connect(&settings.url).await;
        let client = client.map_err(|why| connect_error(&why, &shown, &settings.credentials))?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(ANSWER_MAX);
        let bus = Bus { client, jetstream, tenant: settings.tenant.clone() };
        bus.create().await?;
        Ok(bus)
    }
}

fn base_options(settings: &BusSettings, events: mpsc::UnboundedSender<String>) -> ConnectOptions {
    let was_lost = AtomicBool::new(false);
    ConnectOptions::new()
        .name(settings.role.shown())
        // Agents reconnect for as long as their run lasts.
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| Duration::from_millis(50 * attempts.min(20) as u64))
        .ping_interval(Duration::from_secs(5))
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Some(ANSWER_MAX))
        .custom_inbox_prefix(format!(
            "_INBOX.plimsoll.{}.{}",
            settings.tenant,
            settings.role.inbox()
        ))
        .event_callback(move |event| {
            let text = match event {
                Event::Disconnected => {
                    was_lost.store(true, Ordering::Relaxed);
                    Some("the connection to NATS is lost; reconnecting".into())
                }
                Event::Connected => {
                    let again = was_lost.load(Ordering::Relaxed);
                    again.then(|| "connected to NATS again".into())
                }
                Event::ServerError(why) => Some(format!("NATS reports: {why}")),
                Event::SlowConsumer(_) => {
                    Some("NATS reports that this process reads too slowly".into())
                }
                _ => None,
            };
            text.into_iter().for_each(|text| _ = events.send(text));
            async {}
        })
}

async fn with_proof(
    options: ConnectOptions,
    settings: &BusSettings,
) -> Result<ConnectOptions, BusError> {
    let mut options = match &settings.credentials {
        Credentials::None => options,
        Credentials::Password(user, password) => {
            options.user_and_password(user.clone(), password.clone())
        }
        Credentials::Token(token) => options.token(token.clone()),
        Credentials::File(path) => {
            let read = options.credentials_file(path).await;
            read.map_err(|why| {
                let hint =
                    "give the file of a user's JWT and nkey, as nsc generate creds writes it";
                let path = path.display();
                error(format!("cannot use the credentials in {path}: {}", causes(&why)), hint)
            })?
        }
    };
    let named = settings.certificate.iter().flat_map(|(cert, key)| [cert, key]);
    for path in settings.ca.iter().chain(named) {
        if let Err(why) = std::fs::metadata(path) {
            return Err(error(format!("cannot read {}: {why}", path.display()), ""));
        }
    }
    if let Some(ca) = &settings.ca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &settings.certificate {
        options =
            options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    Ok(options)
}

/// A URL without user and password.
fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}{}", &url[..scheme + 3], &url[at + 1..])
        }
        _ => url.into(),
    }
}

fn connect_error(why: &async_nats::ConnectError, url: &str, credentials: &Credentials) -> BusError {
    match why.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            let (refused, hint) = match credentials {
                Credentials::None => (
                    "a connection without credentials",
                    "give a user and its password (NATS_USER, NATS_PASSWORD), a token (NATS_TOKEN) or --nats-creds FILE",
                ),
                Credentials::Password(..) => {
                    ("the user or its password", "check NATS_USER and NATS_PASSWORD")
                }
                Credentials::Token(_) => ("the token", "check NATS_TOKEN"),
                Credentials::File(_) => (
                    "the credentials file",
                    "check that its user belongs to an account of this server and has not expired",
                ),
            };
            error(format!("NATS at {url} refused {refused}"), hint)
        }
        ConnectErrorKind::ServerParse => error(
            format!("\"{url}\" is not a valid address of NATS"),
            "for example nats://10.0.0.5:4222",
        ),
        kind if kind == ConnectErrorKind::Tls || causes(why).contains("certificate") => error(
            format!("the TLS handshake with NATS at {url} failed: {}", causes(why)),
            "give the server's CA with --nats-ca FILE, and a client certificate with --nats-cert and --nats-key if the server asks for one",
        ),
        _ => error(
            format!("cannot reach NATS at {url}: {}", causes(why)),
            "check the address and that nats-server runs there with JetStream",
        ),
    }
}
