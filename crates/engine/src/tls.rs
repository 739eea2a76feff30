//! TLS settings from a plan: root certificates, client certificate, or no verification.

use plimsoll_plan::TlsRules;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// The client configuration shared by all connections of a run; sessions are resumed across them.
///
/// # Errors
/// If a file cannot be read or contains nothing usable; the message names the file.
pub(crate) fn client_config(rules: &TlsRules) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if rules.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny { provider }))
    } else {
        builder.with_root_certificates(roots(rules.ca.as_deref())?)
    };
    let mut config = match (&rules.cert, &rules.key) {
        (Some(cert), Some(key)) => {
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                format!("cannot read a private key from {}: {error}", key.display())
            })?;
            builder.with_client_auth_cert(certificates(cert)?, key_der).map_err(|error| {
                format!("cannot use the client certificate {}: {error}", cert.display())
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(list) if list.is_empty() => Err(format!("no certificate in {}", path.display())),
        Ok(list) => Ok(list),
        Err(error) => Err(format!("cannot read certificates from {}: {error}", path.display())),
    }
}

fn roots(own: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let list = match own {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let (added, _) = store.add_parsable_certificates(list);
    if added == 0 {
        return Err(match own {
            Some(path) => format!("no usable certificate in {}", path.display()),
            None => "this host has no root certificates; install ca-certificates, set tls.ca, \
                     or use --insecure"
                .into(),
        });
    }
    Ok(store)
}

/// The server name for SNI and certificate verification.
pub(crate) fn server_name(rules: &TlsRules, host: &str) -> Result<ServerName<'static>, String> {
    let name = rules.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_string())
        .map_err(|_| format!("\"{name}\" is not a valid TLS server name"))
}

/// Accepts any certificate (`insecure` in the plan). Signatures are still checked, so that a
/// handshake costs as much as usual.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
