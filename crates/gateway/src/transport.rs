//! Sockets on both sides of the gateway: cleartext or TLS, with deadlines.

pub(crate) mod io;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod timer;
pub(crate) mod tls;
