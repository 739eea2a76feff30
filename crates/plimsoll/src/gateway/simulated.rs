//! Simulated chains for a gateway that has nothing to relay to and was asked for them.

use anyhow::Context;
use plimsoll_config::Text;
use plimsoll_gateway::Definitions;
use plimsoll_registry::model::{Address, Kind, Upstream};
use plimsoll_sim::{Service, Settings, Sim};

/// The chains, here or at the supervisor's. A gateway that ever had a real upstream never answers
/// from them, whatever becomes of it.
pub(super) struct Simulated {
    /// Where somebody else runs them.
    elsewhere: Option<String>,
    own: Option<Sim>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Serving,
    /// Not asked for, or not needed any more.
    Over,
}

impl Simulated {
    /// Where they are `wanted`, chains that are started when they are needed, unless they run at
    /// `elsewhere` already.
    pub(super) fn new(wanted: bool, elsewhere: Option<&str>) -> Simulated {
        let wanted = wanted || elsewhere.is_some();
        let state = if wanted { State::Waiting } else { State::Over };
        Simulated { elsewhere: elsewhere.map(String::from), own: None, state }
    }

    /// Whether they are what is relayed to.
    pub(super) fn serves(&self) -> bool {
        self.state == State::Serving
    }

    /// Where they are; starts them if nobody did.
    pub(super) fn address(&mut self) -> anyhow::Result<String> {
        if let Some(elsewhere) = &self.elsewhere {
            return Ok(elsewhere.clone());
        }
        if self.own.is_none() {
            let settings = Settings { services: Service::known().into(), ..Settings::default() };
            self.own = Some(Sim::start(settings).context("cannot start the simulated chains")?);
        }
        let sim = self.own.as_ref().context("there is a simulator now")?;
        Ok(format!("http://{}", sim.address()))
    }

    /// Adds an upstream for each chain when there is none and never was; stops chains that are not
    /// needed any more.
    pub(super) fn fill(&mut self, definitions: &mut Definitions) -> anyhow::Result<()> {
        if self.state == State::Over || !definitions.upstreams.is_empty() {
            self.state = State::Over;
            self.own = None;
            return Ok(());
        }
        self.state = State::Serving;
        let address = self.address()?;
        for chain in Service::known() {
            if definitions.services.iter().all(|service| service.id != chain.name) {
                continue;
            }
            let url = format!("{address}/{}", chain.name);
            let address = Address::parse(&url).map_err(anyhow::Error::msg)?;
            let id = format!("simulated-{}", chain.name);
            definitions.upstreams.push(Upstream {
                service: Some(chain.name),
                ..Upstream::at(id, Kind::Evm, Text::plain(url), address)
            });
        }
        Ok(())
    }
}
