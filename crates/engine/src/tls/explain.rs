//! TLS errors in plain words: what happened, and what to do.

use super::verify::Rejected;
use plimsoll_measure::WallClock;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, PeerMisbehaved};
use std::fmt::Write;
use std::io;
use std::net::IpAddr;

/// How to accept a certificate that cannot be verified.
const TRUST: &str = "or use --insecure for a test system";
/// Maximum number of a certificate's names in a message.
const NAMES_MAX: usize = 3;
const CLIENT_CERTIFICATE: &str = "set tls.cert and tls.key";

/// The server sent something other than TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTls {
    /// An HTTP response.
    #[error("this is not a TLS server, it answers in plain HTTP; use http://")]
    Http,
    /// Another protocol.
    #[error(
        "this is not a TLS server: its first bytes are not TLS; check the port, or use http://"
    )]
    Other,
}

impl NotTls {
    /// Recognises a server that does not use TLS by its first bytes; `None` if it may use TLS.
    pub(crate) fn recognise(greeting: &[u8]) -> Option<NotTls> {
        match greeting {
            [] | [0x14..=0x17, ..] => None,
            bytes if bytes.starts_with(b"HTTP/") => Some(NotTls::Http),
            _ => Some(NotTls::Other),
        }
    }
}

/// The message of a `tls` error.
pub(crate) fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => explain_tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection during the TLS handshake; if it does not use TLS, \
             use http://"
                .into()
        }
        None => error.to_string(),
    }
}

fn explain_tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => explain_certificate(error),
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "the server supports neither TLS 1.2 nor TLS 1.3; update it".into(),
        Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            "the server chose a protocol that was not offered (ALPN); set protocol to \"http1\" or \
             \"http2\", whichever it speaks"
                .into()
        }
        Error::PeerIncompatible(_) => {
            format!("the server and this client have no TLS settings in common: {error}")
        }
        Error::PeerMisbehaved(_) | Error::InvalidMessage(_) => {
            format!("the server violated the TLS protocol: {error}")
        }
        Error::DecryptError => "a TLS record was damaged on its way from the server".into(),
        other => other.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::ExpiredContext { not_after, .. } => {
            format!("the server's certificate expired on {}; renew it, {TRUST}", date(*not_after))
        }
        E::NotValidYetContext { not_before, .. } => format!(
            "the server's certificate is not valid before {}; check this host's clock, {TRUST}",
            date(*not_before)
        ),
        E::NotValidForNameContext { expected, presented } => format!(
            "the certificate is for {}, not for {}; set tls.server_name, {TRUST}",
            names(presented),
            expected.to_str()
        ),
        E::UnknownIssuer => format!(
            "the server's certificate is signed by an issuer this host does not trust; set tls.ca \
             to the CA's certificate (PEM), {TRUST}"
        ),
        E::BadSignature => "the server's signature does not match its certificate".into(),
        E::InvalidPurposeContext { .. } | E::InvalidPurpose => format!(
            "the certificate's extended key usage does not include server authentication; set \
             tls.ca to exactly this certificate (PEM), {TRUST}"
        ),
        E::Other(other) => match other.0.downcast_ref::<Rejected>() {
            Some(Rejected::SelfSigned) => {
                format!("the server's certificate is self-signed; set tls.ca to it (PEM), {TRUST}")
            }
            Some(Rejected::OtherIssuer) => format!(
                "the server's certificate is signed by a CA with the name of a trusted one, but \
                 with another key; set tls.ca to the CA's current certificate (PEM), {TRUST}"
            ),
            Some(Rejected::ShortKey) => {
                "the server's RSA key has fewer than 2048 bits, and its signatures cannot be \
                 checked; give the server a longer key"
                    .into()
            }
            None => unverifiable(other.0.downcast_ref::<webpki::Error>()),
        },
        other => format!("the server's certificate cannot be verified: {other}"),
    }
}

/// The message for a certificate that webpki does not accept for its form.
fn unverifiable(error: Option<&webpki::Error>) -> String {
    let why = match error {
        Some(webpki::Error::CaUsedAsEndEntity) => "it is a CA certificate (CA:TRUE)".into(),
        Some(webpki::Error::UnsupportedCertVersion) => "its X.509 version is not 3".into(),
        Some(webpki::Error::UnsupportedCriticalExtension) => {
            "it has a critical extension that this client does not know".into()
        }
        Some(other) => other.to_string(),
        None => "unknown reason".into(),
    };
    format!(
        "the server's certificate cannot be verified: {why}; set tls.ca to exactly this certificate \
         (PEM), {TRUST}"
    )
}

fn explain_alert(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => {
            format!("the server requires a client certificate; {CLIENT_CERTIFICATE}")
        }
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied => format!(
            "the server does not accept the client certificate (alert {alert:?}); check tls.cert \
             and tls.key"
        ),
        A::ProtocolVersion => {
            "the server supports neither TLS 1.2 nor TLS 1.3 (alert ProtocolVersion); update it"
                .into()
        }
        A::NoApplicationProtocol => {
            "no HTTP version in common with the server (ALPN, alert NoApplicationProtocol); set \
             protocol = \"auto\" to offer both"
                .into()
        }
        A::UnrecognisedName => {
            "the server does not know this host name (alert UnrecognisedName); set tls.server_name"
                .into()
        }
        A::HandshakeFailure => format!(
            "the server rejected the TLS handshake (alert HandshakeFailure): no cipher or kind of \
             key in common, or it requires a client certificate; in that case, {CLIENT_CERTIFICATE}"
        ),
        other => format!("the server ended the TLS connection with alert {other:?}"),
    }
}

/// At most [`NAMES_MAX`] of a certificate's names, as webpki lists them: `DnsName("h")`,
/// `IpAddress(127.0.0.1)`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| -> String {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        let bare = inner.unwrap_or(name).trim_matches('"');
        match bare.parse::<IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) => bare.chars().filter(|c| !c.is_control()).collect(),
        }
    };
    let mut list: Vec<String> = presented.iter().take(NAMES_MAX).map(bare).collect();
    match (presented.len() - list.len(), list.pop()) {
        (_, None) => "no name".into(),
        (0, Some(last)) if list.is_empty() => last,
        (0, Some(last)) => format!("{} and {last}", list.join(", ")),
        (more, Some(last)) => {
            let mut text = list.join(", ");
            let _ = write!(text, ", {last} and {more} more");
            text
        }
    }
}

/// A date in UTC: `2026-11-20`.
fn date(at: UnixTime) -> String {
    let at = WallClock { unix_ns: at.as_secs().saturating_mul(1_000_000_000) };
    at.rfc3339().chars().take(10).collect()
}
