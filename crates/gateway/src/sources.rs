//! Everything that says what a gateway relays, joined: built-in services, the configuration, the
//! database.

mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use plimsoll_config::Problems;

use crate::config::{Config, Inputs};
use crate::model::Definitions;
use watch::Watch;

/// Why definitions cannot be loaded, or were not.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Something is wrong with what was read.
    #[error("{0}")]
    Problems(#[from] Problems),
}

/// Where a gateway's definitions come from.
#[derive(Debug)]
pub struct Sources {
    inputs: Inputs,
    file: Watch,
    queries: Arc<AtomicU64>,
}

impl Sources {
    /// Sources that nothing was read from yet.
    pub fn new(inputs: Inputs) -> Sources {
        Sources { inputs, file: Watch::default(), queries: Arc::default() }
    }

    /// Reads and joins everything. What was changed until now does not count as a change any more,
    /// also when it cannot be loaded.
    ///
    /// # Errors
    /// Everything that is wrong. What a running gateway has from before stays as it is.
    pub async fn load(&mut self) -> Result<(Config, Definitions), LoadError> {
        let text = self.file.read(&self.inputs)?;
        let config = Config::read_with(&self.inputs, text.as_deref())?;
        let definitions = Definitions {
            services: config.services(),
            upstreams: config
                .instances
                .iter()
                .chain(&config.definitions.upstreams)
                .cloned()
                .collect(),
            endpoints: config.definitions.endpoints.clone(),
        };
        Ok((config, definitions))
    }

    /// Whether anything may have changed since [`Sources::load`] was called last. Cheap: meant to
    /// be asked twice a second.
    ///
    /// # Errors
    /// That the database cannot be asked.
    pub async fn changed(&mut self) -> Result<bool, LoadError> {
        Ok(self.file.changed(&self.inputs))
    }

    /// How many queries were sent to the database: counts on while the sources are in use.
    pub fn queries(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.queries)
    }
}
