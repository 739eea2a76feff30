//! Errors that a node answers with, with geth's codes and messages.

use plimsoll_rpc::code;

use super::write;

/// Code of errors without a specific code.
const SERVER_ERROR: i64 = -32000;
/// Code if an answer would be too large (EIP-1474).
const LIMIT_EXCEEDED: i64 = -32005;
/// Code if a contract reverted.
const REVERTED: i64 = 3;

/// An error object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: i64,
    pub(crate) message: String,
    /// JSON text.
    pub(crate) data: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), data: None }
    }

    /// An error without a specific code.
    pub(crate) fn server(message: impl Into<String>) -> Failure {
        Failure::new(SERVER_ERROR, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Failure {
        Failure::new(LIMIT_EXCEEDED, message)
    }

    pub(crate) fn params(message: impl Into<String>) -> Failure {
        Failure::new(code::INVALID_PARAMS, message)
    }

    /// Parameter `at` is invalid.
    pub(crate) fn argument(at: usize, why: impl std::fmt::Display) -> Failure {
        Failure::params(format!("invalid argument {at}: {why}"))
    }

    pub(crate) fn header_not_found() -> Failure {
        Failure::server("header not found")
    }

    pub(crate) fn no_method(method: &str) -> Failure {
        // The name is untrusted input, so its length is limited.
        let shown: String = method.chars().take(100).collect();
        Failure::new(
            code::METHOD_NOT_FOUND,
            format!("the method {shown} does not exist/is not available"),
        )
    }

    /// A contract reverted with `data`.
    pub(crate) fn reverted(reason: &str, data: &[u8]) -> Failure {
        let mut json = Vec::new();
        write::data(&mut json, data);
        let message = match reason {
            "" => "execution reverted".into(),
            reason => format!("execution reverted: {reason}"),
        };
        Failure { code: REVERTED, message, data: String::from_utf8(json).ok() }
    }

    /// Writes the error object.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut object = write::Object::open(out);
        object.raw("code", &self.code.to_string());
        write::text(object.member("message"), &self.message);
        if let Some(data) = &self.data {
            object.raw("data", data);
        }
        object.close();
    }
}
