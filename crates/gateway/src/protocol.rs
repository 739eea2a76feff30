//! What a service speaks above JSON-RPC: the meanings of its upstreams' errors.

mod evm;

pub use evm::Category;
