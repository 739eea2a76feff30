//! The few fields of an X.509 certificate that are read without webpki, which rejects certificates
//! of version 1 and unknown critical extensions (RFC 5280 §4.1).
//!
//! Nothing is verified here, and a certificate that does not have this structure has no fields.

use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
/// The explicit version, absent in version 1.
const VERSION: u8 = 0xa0;

/// Fields of a certificate, in DER with their tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    key: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of a certificate; `None` if it is not one.
    pub(super) fn of(certificate: &'a CertificateDer<'_>) -> Option<Fields<'a>> {
        let mut outer = certificate.as_ref();
        let certificate = element(&mut outer, SEQUENCE)?;
        if !outer.is_empty() {
            return None;
        }
        let mut fields = content(element(&mut content(certificate), SEQUENCE)?);
        if fields.first() == Some(&VERSION) {
            element(&mut fields, VERSION)?;
        }
        let (_serial, _signature) =
            (element(&mut fields, INTEGER)?, element(&mut fields, SEQUENCE)?);
        let issuer = element(&mut fields, SEQUENCE)?;
        let _validity = element(&mut fields, SEQUENCE)?;
        let subject = element(&mut fields, SEQUENCE)?;
        Some(Fields { issuer, subject, key: element(&mut fields, SEQUENCE)? })
    }

    /// Whether the certificate names itself as its issuer.
    pub(super) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// The public key.
    pub(super) fn key(&self) -> SubjectPublicKeyInfoDer<'a> {
        SubjectPublicKeyInfoDer::from(self.key)
    }

    /// Whether the key is an RSA key of fewer than 2048 bits, for which signatures are not checked.
    pub(super) fn is_short_rsa(&self) -> bool {
        /// rsaEncryption, 1.2.840.113549.1.1.1.
        const RSA: [u8; 11] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
        content(content(self.key)).starts_with(&RSA) && self.key.len() < 2048 / 8
    }
}

/// Takes the next element off the input, if it has this tag.
fn element<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (head, len) = header(input)?;
    if input[0] != tag {
        return None;
    }
    let (element, rest) = input.split_at_checked(head.checked_add(len)?)?;
    *input = rest;
    Some(element)
}

/// The content of an element; empty if it is malformed.
fn content(element: &[u8]) -> &[u8] {
    header(element).map_or(&[], |(head, _)| &element[head..])
}

/// The length of the first element's header, and of its content.
fn header(input: &[u8]) -> Option<(usize, usize)> {
    match *input.get(1)? {
        short @ 0..=0x7f => Some((2, usize::from(short))),
        long @ 0x81..=0x84 => {
            let octets = input.get(2..2 + usize::from(long & 0x7f))?;
            let len = octets.iter().fold(0, |len, octet| len << 8 | usize::from(*octet));
            Some((2 + octets.len(), len))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certificate() -> Vec<u8> {
        let own = rcgen::generate_simple_self_signed(["h".to_string()]).unwrap();
        own.cert.der().to_vec()
    }

    #[test]
    fn the_key_is_found() {
        let own = rcgen::generate_simple_self_signed(["h".to_string()]).unwrap();
        let fields = Fields::of(own.cert.der()).unwrap();
        assert!(fields.is_self_issued() && !fields.is_short_rsa());
        use rcgen::PublicKeyData;
        assert_eq!(fields.key().as_ref(), own.signing_key.subject_public_key_info());
    }

    proptest! {
        #[test]
        fn damaged_certificates_are_survived(
            at in 0usize..400, byte: u8, keep in 0usize..400, noise: Vec<u8>,
        ) {
            let mut bytes = certificate();
            let len = bytes.len();
            bytes[at % len] = byte;
            bytes.truncate(keep);
            for bytes in [bytes, noise] {
                if let Some(fields) = Fields::of(&CertificateDer::from(bytes)) {
                    fields.is_short_rsa();
                }
            }
        }
    }
}
