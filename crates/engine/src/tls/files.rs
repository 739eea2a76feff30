//! Certificates and private keys in PEM files. Text around the PEM sections is skipped, and so are
//! sections of other kinds.

use crate::prepare::{StartError, start_error};
use crate::tls::certificate::Fields;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Read;
use std::path::Path;

/// Maximum size of a file: a bundle of all public roots takes a quarter of a megabyte.
const FILE_MAX: u64 = 16 << 20;

/// The certificates in the file that `key` of the plan names, in order; at least one.
///
/// # Errors
/// If the file cannot be read or is not a PEM file with valid certificates.
pub(super) fn certificates(
    path: &Path,
    key: &str,
) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let bytes = read(path, key)?;
    let shown = path.display();
    let mut list = Vec::new();
    let mut others = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes) {
        match section.map_err(|error| malformed(path, key, error))? {
            (SectionKind::Certificate, der) => list.push(CertificateDer::from(der)),
            (kind, _) => others.push(kind),
        }
    }
    if list.is_empty() {
        return Err(missing(path, key, &bytes, others.first().copied()));
    }
    for (place, certificate) in list.iter().enumerate() {
        if Fields::of(certificate).is_none() {
            let number = place + 1;
            return Err(start_error(
                format!("certificate {number} in {shown} is not a valid X.509 certificate"),
                format!("check {key} with: openssl x509 -in {shown} -noout -text"),
            ));
        }
    }
    Ok(list)
}

/// The private key in a file.
///
/// # Errors
/// If the file cannot be read or has no usable key.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, StartError> {
    let bytes = read(path, "tls.key")?;
    let shown = path.display();
    if memchr::memmem::find(&bytes, b"ENCRYPTED").is_some() {
        return Err(start_error(
            format!("the private key in {shown} is encrypted"),
            format!("decrypt it: openssl pkey -in {shown} -out decrypted.key"),
        ));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            start_error(format!("no private key in {shown}"), "set tls.key to the key's PEM file")
        }
        error => malformed(path, "tls.key", error),
    })
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, StartError> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path);
    let read = opened.and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    let shown = path.display();
    let hint = format!("set {key} to a PEM file");
    match read {
        Err(error) => Err(start_error(format!("cannot read {shown}: {error}"), hint)),
        Ok(_) if bytes.len() as u64 > FILE_MAX => {
            Err(start_error(format!("{shown} is larger than {} MiB", FILE_MAX >> 20), hint))
        }
        Ok(_) => Ok(bytes),
    }
}

fn malformed(path: &Path, key: &str, error: pem::Error) -> StartError {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line".into(),
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed".into(),
        pem::Error::Base64Decode(_) => "a section is not valid base64".into(),
        other => other.to_string(),
    };
    let shown = path.display();
    start_error(
        format!("{shown} is not a valid PEM file: {why}"),
        format!("copy the file again, or check {key}"),
    )
}

/// The error for a file without certificates.
fn missing(path: &Path, key: &str, bytes: &[u8], other: Option<SectionKind>) -> StartError {
    let shown = path.display();
    let (what, hint) = if bytes.is_empty() {
        ("it is empty".into(), format!("set {key} to a PEM file"))
    } else if Fields::of(&CertificateDer::from(bytes)).is_some() {
        (
            "it is in DER format".into(),
            format!("convert it: openssl x509 -inform der -in {shown} -out {shown}.pem"),
        )
    } else if let Some(kind) = other {
        let kind = match kind {
            SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
                "a private key"
            }
            SectionKind::PublicKey => "a public key",
            SectionKind::Csr => "a certificate request",
            _ => "another kind of object",
        };
        (format!("it contains {kind}"), format!("set {key} to the certificate's PEM file"))
    } else {
        (
            "it has no BEGIN CERTIFICATE line".into(),
            format!("set {key} to the certificate's PEM file"),
        )
    };
    start_error(format!("no certificate in {shown}: {what}"), hint)
}
