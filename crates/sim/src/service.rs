//! What a simulated service is: its name, its chain's identity and pace.

use std::net::SocketAddr;

use plimsoll_measure::Nanos;

/// When every chain's first block was mined: 2024-01-01T00:00:00Z. Heights follow from the date
/// alone, so that two simulators with the same seed agree, wherever and whenever they run.
pub const GENESIS_UNIX_SECS: u64 = 1_704_067_200;

/// Transactions in an average block, unless set otherwise.
pub const TRANSACTIONS_MEAN: u64 = 20;

/// One chain that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What it is called in paths and headers.
    pub name: String,
    /// What `eth_chainId` answers.
    pub chain_id: u64,
    /// From block to block; above zero.
    pub block_time: Nanos,
    /// How many blocks the safe head stands behind the newest.
    pub safe_depth: u64,
    /// How many blocks the finalized head stands behind the newest.
    pub finalized_depth: u64,
    /// Transactions in an average block; multiples of four are met exactly.
    pub transactions: u64,
    /// A listener of its own, beside the one for all services.
    pub listen: Option<SocketAddr>,
}

impl Service {
    /// The services known by name: `eth`, `boba`, `mantle`, `kava`, with their real chain ids and
    /// block times.
    pub fn known() -> [Service; 4] {
        let service = |name: &str, chain_id, block_secs, safe_depth, finalized_depth| Service {
            name: name.into(),
            chain_id,
            block_time: Nanos::from_secs(block_secs),
            safe_depth,
            finalized_depth,
            transactions: TRANSACTIONS_MEAN,
            listen: None,
        };
        [
            service("eth", 0x1, 12, 32, 64),
            service("boba", 0x120, 2, 60, 300),
            service("mantle", 0x1388, 2, 60, 300),
            service("kava", 0x8ae, 6, 1, 1),
        ]
    }

    /// The known service called `name`.
    pub fn named(name: &str) -> Option<Service> {
        Service::known().into_iter().find(|service| service.name == name)
    }
}
