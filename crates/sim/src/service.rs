//! A simulated service: its name, and the parameters of its chain.

use std::net::SocketAddr;

use plimsoll_measure::Nanos;

/// When the first block of every chain was mined: 2024-01-01T00:00:00Z. The date determines the
/// height, so that two simulators with the same seed agree, wherever and whenever they run.
pub const GENESIS_UNIX_SECS: u64 = 1_704_067_200;

/// Transactions in an average block, unless set otherwise.
pub const TRANSACTIONS_MEAN: u64 = 20;

/// A chain that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name in paths and headers.
    pub name: String,
    /// Result of `eth_chainId`.
    pub chain_id: u64,
    /// Time between blocks; above zero.
    pub block_time: Nanos,
    /// Number of blocks from the safe to the newest block.
    pub safe_depth: u64,
    /// Number of blocks from the finalized to the newest block.
    pub finalized_depth: u64,
    /// Transactions in an average block; exact for multiples of four.
    pub transactions: u64,
    /// Address of a separate listener, in addition to the one for all services.
    pub listen: Option<SocketAddr>,
}

impl Service {
    /// The predefined services `eth`, `boba`, `mantle` and `kava`, with their real chain ids and block
    /// times.
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

    /// The predefined service with this name.
    pub fn named(name: &str) -> Option<Service> {
        Service::known().into_iter().find(|service| service.name == name)
    }
}
