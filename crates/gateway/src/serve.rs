//! The callers' side: connections come in, requests are read, faces answer them.

pub(crate) mod acceptor;
mod compress;
mod decode;
pub(crate) mod face;
pub(crate) mod session;
