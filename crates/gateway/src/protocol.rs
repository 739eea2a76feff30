//! The protocol that a service speaks on top of JSON-RPC: its methods' classes and the meaning of
//! its upstreams' errors.

pub mod evm;

use plimsoll_rpc::method::{Class, Method};

pub use evm::Category;

/// A protocol on top of JSON-RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Ethereum's JSON-RPC.
    Evm,
}

impl Protocol {
    /// The class of a method, which decides where and how often it may be sent; `None` if the
    /// method is unknown.
    #[inline]
    pub(crate) fn class(self, method: Option<Method>) -> Option<Class> {
        match self {
            Protocol::Evm => method.map(Method::class),
        }
    }

    /// The category of an upstream's error, by its code and its raw message.
    pub(crate) fn categorize(self, code: i64, message: &[u8]) -> Category {
        match self {
            Protocol::Evm => Category::of(code, message),
        }
    }
}
