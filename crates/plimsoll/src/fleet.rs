//! Runs over several hosts: `plimsoll agent`, `plimsoll agents`, and `plimsoll run --nats URL --agents N`; the same
//! on one host, to try it: `plimsoll fleet PLAN --local N`.
//!
//! # Layout
//! - `agent`: the agent's process: orders, reports, signals
//! - `work`: an agent's part of a run on the load engine
//! - `records`: records of single requests, at agents and at the coordinator
//! - `agents`: lists the agents
//! - `coordinate`: the coordinator's process
//! - `local`: agents, NATS and coordinator on one host
//! - `result`: the report from all agents' seconds
//! - `index`: what is known of the agents besides their seconds, in the run directory
//! - `plan`: a plan on its way to agents
//! - `scrapes`: what the coordinator scrapes

mod agent;
mod agents;
mod coordinate;
mod index;
mod local;
mod plan;
mod records;
mod result;
mod scrapes;
mod work;

use crate::usage_error;
pub(crate) use agent::{AgentArgs, run as run_agent};
pub(crate) use agents::{AgentsArgs, run as run_agents};
pub(crate) use coordinate::{Begin, FleetRun, Resume, coordinate};
pub(crate) use index::agents_of;
pub(crate) use local::{FleetArgs, run as run_fleet};
use plimsoll_fleet::nats::{Bus, BusError, BusSettings, Credentials, Role};
use plimsoll_measure::WallClock;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How to reach NATS. Passwords and tokens are read from variables, because others can read command lines.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct NatsArgs {
    /// NATS server with JetStream, such as nats://10.0.0.5:4222
    #[arg(long, value_name = "URL", env = "NATS_URL")]
    nats: Option<String>,
    /// User for NATS; its password is read from the variable NATS_PASSWORD. A token is read from NATS_TOKEN
    #[arg(long, value_name = "USER", env = "NATS_USER")]
    nats_user: Option<String>,
    /// Credentials file for NATS: a user's JWT and nkey, as nsc writes it
    #[arg(long, value_name = "FILE", env = "NATS_CREDS")]
    nats_creds: Option<PathBuf>,
    /// Root certificate of the NATS server (PEM); requires TLS
    #[arg(long, value_name = "FILE", env = "NATS_CA")]
    nats_ca: Option<PathBuf>,
    /// Client certificate for NATS (PEM)
    #[arg(long, value_name = "FILE", env = "NATS_CERT", requires = "nats_key")]
    nats_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", env = "NATS_KEY", requires = "nats_cert")]
    nats_key: Option<PathBuf>,
    /// Name of the fleet; fleets with different names do not see each other
    #[arg(long, value_name = "NAME", env = "PLIMSOLL_TENANT", default_value = "default")]
    tenant: String,
    /// The password, if it is not in the environment.
    #[arg(skip)]
    password: Option<String>,
}

impl NatsArgs {
    /// For a server that was started here.
    fn of_local(url: &str, user: &str, password: &str) -> NatsArgs {
        NatsArgs {
            nats: Some(url.into()),
            nats_user: Some(user.into()),
            tenant: "default".into(),
            password: Some(password.into()),
            ..NatsArgs::default()
        }
    }

    /// Connects; what the connection reports later is received.
    async fn connect(&self, role: Role) -> anyhow::Result<(Bus, UnboundedReceiver<String>)> {
        let Some(url) = self.nats.clone() else {
            return Err(usage_error(
                "no NATS server was given",
                "--nats nats://HOST:4222, or the variable NATS_URL",
            ));
        };
        let settings = BusSettings {
            url,
            credentials: self.credentials()?,
            ca: self.nats_ca.clone(),
            certificate: self.nats_cert.clone().zip(self.nats_key.clone()),
            tenant: self.tenant.clone(),
            role,
        };
        let (events, received) = unbounded_channel();
        let bus = Bus::connect(&settings, events).await.map_err(bus_error)?;
        Ok((bus, received))
    }

    fn credentials(&self) -> anyhow::Result<Credentials> {
        // The server started here accepts nothing else, whatever the environment has.
        let token = std::env::var("NATS_TOKEN").ok().filter(|_| self.password.is_none());
        match (&self.nats_user, &self.nats_creds, token) {
            (None, None, None) => Ok(Credentials::None),
            (None, None, Some(token)) => Ok(Credentials::Token(token)),
            (None, Some(file), None) => Ok(Credentials::File(file.clone())),
            (Some(user), None, None) => {
                let password =
                    self.password.clone().or_else(|| std::env::var("NATS_PASSWORD").ok());
                let password = password.ok_or_else(|| {
                    usage_error("--nats-user needs a password", "set the variable NATS_PASSWORD")
                })?;
                Ok(Credentials::Password(user.clone(), password))
            }
            _ => Err(usage_error(
                "more than one kind of credentials for NATS was given",
                "use one of --nats-user (NATS_USER), --nats-creds (NATS_CREDS) and NATS_TOKEN",
            )),
        }
    }
}

fn bus_error(error: BusError) -> anyhow::Error {
    usage_error(error.message, error.hint)
}

/// A random number as text, which no other process has.
fn session() -> String {
    format!("{:016x}", RandomState::new().hash_one(WallClock::now().unix_ns))
}

/// A runtime for one thread.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
