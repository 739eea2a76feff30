//! Sockets on both sides of the gateway: cleartext or TLS, with deadlines.

pub(crate) mod io;
pub(crate) mod timer;
pub(crate) mod tls;
