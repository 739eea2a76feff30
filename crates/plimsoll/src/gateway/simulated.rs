//! Simulated chains for a gateway that has nothing to relay to.

use anyhow::Context;
use plimsoll_config::Text;
use plimsoll_gateway::Definitions;
use plimsoll_gateway::model::{Address, Kind, MethodRules, Upstream};
use plimsoll_sim::{Service, Settings, Sim};

/// The chains, here or at the supervisor's.
pub(super) struct Simulated {
    /// Where somebody else runs them.
    elsewhere: Option<String>,
    own: Option<Sim>,
    serves: bool,
}

impl Simulated {
    /// Chains that are started when they are needed, unless they run at `elsewhere` already.
    pub(super) fn new(elsewhere: Option<&str>) -> Simulated {
        Simulated { elsewhere: elsewhere.map(String::from), own: None, serves: false }
    }

    /// Whether they are what is relayed to.
    pub(super) fn serves(&self) -> bool {
        self.serves
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

    /// Adds an upstream for each chain when there is no upstream at all; stops chains that are not
    /// needed any more.
    pub(super) fn fill(&mut self, definitions: &mut Definitions) -> anyhow::Result<()> {
        self.serves = definitions.upstreams.is_empty();
        if !self.serves {
            self.own = None;
            return Ok(());
        }
        let address = self.address()?;
        for chain in Service::known() {
            if definitions.services.iter().all(|service| service.id != chain.name) {
                continue;
            }
            let url = format!("{address}/{}", chain.name);
            definitions.upstreams.push(Upstream {
                id: format!("simulated-{}", chain.name),
                service: Some(chain.name),
                kind: Kind::Evm,
                address: Address::parse(&url).map_err(anyhow::Error::msg)?,
                url: Text::plain(url),
                headers: Vec::new(),
                weight: 1,
                tier: 0,
                rate_limit: None,
                methods: MethodRules::default(),
                ca: None,
            });
        }
        Ok(())
    }
}
