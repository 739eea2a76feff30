//! Which server certificates are accepted.
//!
//! A certificate is accepted if it is identical to one in `tls.ca`, or if webpki verifies it against
//! the roots: chain, dates, name, usage. With `insecure`, any certificate is accepted. In each case
//! the signature of the handshake is checked, so that the server has the certificate's key, and a
//! handshake costs as much as usual.
//!
//! webpki parses no certificates of version 1 and none with unknown critical extensions. For a
//! certificate that is accepted as it is, only its public key is read.

use super::certificate::Fields;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, PeerMisbehaved, RootCertStore,
    SignatureScheme,
};
use std::sync::Arc;

/// Why a certificate is not accepted, beyond what webpki distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejected {
    /// It is self-signed and not in `tls.ca`.
    #[error("self-signed certificate")]
    SelfSigned,
    /// Its issuer has the name of a trusted one, but another key.
    #[error("issuer with another key")]
    OtherIssuer,
    /// Its RSA key has fewer than 2048 bits.
    #[error("RSA key of fewer than 2048 bits")]
    ShortKey,
}

/// Verifies the server's certificate and its signature of the handshake.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Trust {
    /// Any certificate.
    Any,
    Some {
        /// Accepted as they are.
        pinned: Vec<CertificateDer<'static>>,
        /// `None` if there are no roots.
        roots: Option<Arc<WebPkiServerVerifier>>,
    },
}

impl Verifier {
    /// A verifier that accepts any certificate.
    pub(super) fn any(provider: &CryptoProvider) -> Result<Verifier, String> {
        let algorithms = provider.signature_verification_algorithms;
        Ok(Verifier { trust: Trust::Any, algorithms })
    }

    /// A verifier that accepts pinned certificates, and others by these roots.
    ///
    /// # Errors
    /// If the roots cannot be used.
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: RootCertStore,
        pinned: Vec<CertificateDer<'static>>,
    ) -> Result<Verifier, String> {
        let roots = if roots.is_empty() {
            None
        } else {
            let roots =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Some(roots.build().map_err(|error| error.to_string())?)
        };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Verifier { trust: Trust::Some { pinned, roots }, algorithms })
    }

    /// Whether a certificate is accepted as it is.
    fn accepts_unverified(&self, certificate: &CertificateDer<'_>) -> bool {
        match &self.trust {
            Trust::Any => true,
            Trust::Some { pinned, .. } => pinned.contains(certificate),
        }
    }

    /// Checks a TLS 1.2 signature by the certificate's public key alone.
    fn verify_tls12_with_key(
        &self,
        message: &[u8],
        fields: &Fields<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = fields.key();
        let key = webpki::RawPublicKeyEntity::try_from(&key)
            .map_err(|_| CertificateError::BadEncoding)?;
        let of_scheme = self.algorithms.mapping.iter().find(|(own, _)| *own == signature.scheme);
        let (_, algorithms) =
            of_scheme.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        // In TLS 1.2, a scheme does not determine the curve.
        let valid = algorithms.iter().any(|algorithm| {
            key.verify_signature(*algorithm, message, signature.signature()).is_ok()
        });
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.accepts_unverified(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = match &self.trust {
            Trust::Some { roots: Some(roots), .. } => {
                roots.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
            }
            _ => Err(CertificateError::UnknownIssuer.into()),
        };
        verified.map_err(|error| match error {
            rustls::Error::InvalidCertificate(CertificateError::BadSignature) => {
                rejected(Rejected::OtherIssuer)
            }
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            ) if Fields::of(end_entity).is_some_and(|own| own.is_self_issued()) => {
                rejected(Rejected::SelfSigned)
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let fields = Fields::of(certificate).ok_or(CertificateError::BadEncoding)?;
        let verified = if self.accepts_unverified(certificate) {
            self.verify_tls12_with_key(message, &fields, signature)
        } else {
            verify_tls12_signature(message, certificate, signature, &self.algorithms)
        };
        verified.map_err(|error| explained(error, &fields))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let fields = Fields::of(certificate).ok_or(CertificateError::BadEncoding)?;
        let verified = if self.accepts_unverified(certificate) {
            verify_tls13_signature_with_raw_key(message, &fields.key(), signature, &self.algorithms)
        } else {
            verify_tls13_signature(message, certificate, signature, &self.algorithms)
        };
        verified.map_err(|error| explained(error, &fields))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The error of a signature, with its reason if that is the length of the key.
fn explained(error: rustls::Error, fields: &Fields<'_>) -> rustls::Error {
    if fields.is_short_rsa() { rejected(Rejected::ShortKey) } else { error }
}

fn rejected(why: Rejected) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}
