//! The callers' side: accepts connections, reads requests, routes them and writes answers.

pub(crate) mod acceptor;
mod compress;
mod decode;
pub(crate) mod face;
pub(crate) mod session;
