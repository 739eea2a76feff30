//! What a service speaks above JSON-RPC: what its methods are like, and what its upstreams' errors
//! mean.

mod evm;

use plimsoll_rpc::method::{Class, Method};

pub use evm::Category;

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Ethereum's JSON-RPC.
    Evm,
}

impl Protocol {
    /// The class of a method, which decides where and how often it may be sent; `None`: nobody here
    /// knows what it does.
    #[inline]
    pub(crate) fn class(self, method: Option<Method>) -> Option<Class> {
        match self {
            Protocol::Evm => method.map(Method::class),
        }
    }

    /// What an upstream's error means, by its code and its message as written.
    pub(crate) fn meaning(self, code: i64, message: &[u8]) -> Category {
        match self {
            Protocol::Evm => Category::of(code, message),
        }
    }
}
