//! Maps OS errors to error classes.

use crate::tls::NotTls;
use nix::libc;
use plimsoll_measure::ErrorClass;
use std::io;

/// The class of an error while opening a connection.
pub(crate) fn class_of_open(error: &io::Error) -> ErrorClass {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => ErrorClass::PortExhausted,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => ErrorClass::FdExhausted,
        Some(libc::ETIMEDOUT) => ErrorClass::ConnectTimeout,
        Some(libc::ECONNREFUSED) => ErrorClass::Refused,
        Some(libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE) => ErrorClass::Reset,
        _ if is_tls(error) => ErrorClass::Tls,
        _ if error.kind() == io::ErrorKind::UnexpectedEof => ErrorClass::ClosedEarly,
        // No route, rejected by a firewall, or the interface is down.
        _ => ErrorClass::Unreachable,
    }
}

/// The class of an error on an established connection.
pub(crate) fn class_of_io(error: &io::Error) -> ErrorClass {
    match error.raw_os_error() {
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN) => ErrorClass::Unreachable,
        Some(libc::ETIMEDOUT) => ErrorClass::ResponseTimeout,
        _ if is_tls(error) => ErrorClass::Tls,
        _ => ErrorClass::Reset,
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>() || inner.is::<NotTls>())
}
