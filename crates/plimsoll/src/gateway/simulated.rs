//! `--simulate`: simulated chains for a gateway that has no upstream.

use anyhow::Context;
use plimsoll_config::Text;
use plimsoll_gateway::Definitions;
use plimsoll_registry::model::{Address, Kind, Upstream};
use plimsoll_sim::{Service, Settings, Sim};

/// The simulated chains, in this process or in the supervisor. Once a gateway has had a real
/// upstream, it never serves them again, even if that upstream is removed.
pub(super) struct Simulated {
    /// URL of the supervisor's chains.
    elsewhere: Option<String>,
    own: Option<Sim>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Serving,
    /// Not requested, or no longer needed.
    Over,
}

impl Simulated {
    /// Chains that are started on first use if `wanted`, unless they already run at `elsewhere`.
    pub(super) fn new(wanted: bool, elsewhere: Option<&str>) -> Simulated {
        let wanted = wanted || elsewhere.is_some();
        let state = if wanted { State::Waiting } else { State::Over };
        Simulated { elsewhere: elsewhere.map(String::from), own: None, state }
    }

    /// Whether calls are relayed to the simulated chains.
    pub(super) fn serves(&self) -> bool {
        self.state == State::Serving
    }

    /// The chains' URL; starts them if they do not run yet.
    pub(super) fn address(&mut self) -> anyhow::Result<String> {
        if let Some(elsewhere) = &self.elsewhere {
            return Ok(elsewhere.clone());
        }
        if self.own.is_none() {
            let settings = Settings { services: Service::known().into(), ..Settings::default() };
            self.own = Some(Sim::start(settings).context("cannot start the simulated chains")?);
        }
        let sim = self.own.as_ref().context("the simulator was just started")?;
        Ok(format!("http://{}", sim.address()))
    }

    /// Adds an upstream for each chain if there is no upstream and never was one; otherwise stops
    /// the chains.
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
