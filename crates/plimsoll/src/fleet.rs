//! Runs over several hosts: `plimsoll agent`, `plimsoll agents`, and `plimsoll run --nats URL --agents N`.
//!
//! # Layout
//! - `agent`: the agent's process: orders, reports, signals
//! - `work`: an agent's part of a run on the load engine
//! - `agents`: lists the agents
//! - `coordinate`: the coordinator's process
//! - `result`: the report from all agents' seconds
//! - `plan`: a plan on its way to agents

mod agent;
mod agents;
mod coordinate;
mod plan;
mod result;
mod work;

use crate::usage_error;
pub(crate) use agent::{AgentArgs, run as run_agent};
pub(crate) use agents::{AgentsArgs, run as run_agents};
pub(crate) use coordinate::{Begin, FleetRun, Resume, coordinate};
use plimsoll_fleet::nats::{Bus, BusError, BusSettings};
use plimsoll_measure::WallClock;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How to reach NATS. The password is read from the variable NATS_PASSWORD, because others can read command lines.
#[derive(clap::Args, Clone)]
pub(crate) struct NatsArgs {
    /// NATS server with JetStream, such as nats://10.0.0.5:4222
    #[arg(long, value_name = "URL", env = "NATS_URL")]
    nats: Option<String>,
    /// User for NATS; its password is read from the variable NATS_PASSWORD
    #[arg(long, value_name = "USER", env = "NATS_USER")]
    nats_user: Option<String>,
    /// Root certificate of the NATS server (PEM); requires TLS
    #[arg(long, value_name = "FILE", env = "NATS_CA")]
    nats_ca: Option<PathBuf>,
    /// Name of the fleet; fleets with different names do not see each other
    #[arg(long, value_name = "NAME", env = "PLIMSOLL_TENANT", default_value = "default")]
    tenant: String,
}

impl NatsArgs {
    /// Connects; what the connection reports later is received.
    async fn connect(&self, name: &str) -> anyhow::Result<(Bus, UnboundedReceiver<String>)> {
        let Some(url) = self.nats.clone() else {
            return Err(usage_error(
                "no NATS server was given",
                "--nats nats://HOST:4222, or the variable NATS_URL",
            ));
        };
        let password = std::env::var("NATS_PASSWORD").ok();
        if self.nats_user.is_some() && password.is_none() {
            return Err(usage_error(
                "--nats-user needs a password",
                "set the variable NATS_PASSWORD",
            ));
        }
        let settings = BusSettings {
            url,
            user: self.nats_user.clone(),
            password,
            ca: self.nats_ca.clone(),
            tenant: self.tenant.clone(),
            name: name.into(),
        };
        let (events, received) = unbounded_channel();
        let bus = Bus::connect(&settings, events).await.map_err(bus_error)?;
        Ok((bus, received))
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
