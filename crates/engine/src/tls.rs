//! TLS settings from a plan: root certificates, client certificate, or no verification.
//!
//! # Layout
//! - `files`: certificates and keys in PEM files
//! - `verify`: which server certificates are accepted
//! - `certificate`: the few fields of a certificate that are read here
//! - `explain`: errors in plain words

mod certificate;
mod explain;
mod files;
#[cfg(test)]
mod tests;
mod verify;

use crate::prepare::{StartError, start_error};
pub(crate) use explain::{NotTls, explain};
use files::{certificates, private_key};
use plimsoll_plan::{Protocol, TlsRules};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use verify::Verifier;

/// The client configuration shared by all connections of a run; sessions are resumed across them.
///
/// # Errors
/// If a file cannot be read or contains nothing usable; the message names the file.
pub(crate) fn client_config(
    rules: &TlsRules,
    protocol: Protocol,
) -> Result<Arc<ClientConfig>, StartError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| start_error(error.to_string(), ""))?;
    let verifier = match &rules.ca {
        _ if rules.insecure => Verifier::any(&provider),
        Some(path) => {
            let list = certificates(path, "tls.ca")?;
            let mut roots = RootCertStore::empty();
            // A certificate that cannot be a root can still be the server's own.
            roots.add_parsable_certificates(list.iter().cloned());
            Verifier::new(&provider, roots, list)
        }
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(start_error(
                    "this host has no root certificates",
                    "install ca-certificates, set tls.ca, or use --insecure",
                ));
            }
            Verifier::new(&provider, roots, Vec::new())
        }
    };
    let verifier = verifier.map_err(|error| start_error(error, "check tls.ca"))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&rules.cert, &rules.key) {
        (Some(cert), Some(key)) => {
            let (chain, key_der) = (certificates(cert, "tls.cert")?, private_key(key)?);
            builder.with_client_auth_cert(chain, key_der).map_err(|error| {
                let (cert, key) = (cert.display(), key.display());
                start_error(
                    format!("cannot use the client certificate {cert} with the key {key}: {error}"),
                    "tls.key must be the private key of the first certificate in tls.cert",
                )
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    let offered: &[&[u8]] = match protocol {
        Protocol::Auto => &[b"h2", b"http/1.1"],
        Protocol::Http1 => &[b"http/1.1"],
        Protocol::Http2 => &[b"h2"],
    };
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The server name for SNI and certificate verification.
pub(crate) fn server_name(rules: &TlsRules, host: &str) -> Result<ServerName<'static>, String> {
    let name = rules.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_string())
        .map_err(|_| format!("\"{name}\" is not a valid TLS server name"))
}
