//! The callers' side: accepts connections, reads requests, routes them and writes answers.

pub(crate) mod acceptor;
pub(crate) mod admin;
mod compress;
mod decode;
pub(crate) mod face;
mod refusal;
pub(crate) mod session;
