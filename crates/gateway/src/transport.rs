//! Bytes on sockets, on either side of the gateway: in clear or through TLS, with deadlines.

pub(crate) mod io;
pub(crate) mod timer;
pub(crate) mod tls;
