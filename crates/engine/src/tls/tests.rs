//! Which certificates are accepted, and the messages for the others, in handshakes in memory.

use super::*;
use plimsoll_plan::Protocol;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConnection, ServerConfig, ServerConnection, version};
use std::io;
use std::path::PathBuf;

/// A folder that is removed after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("plimsoll-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    CertificateParams::new(names).unwrap()
}

fn own(mut params: CertificateParams, change: fn(&mut CertificateParams)) -> (String, Vec<u8>) {
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_der())
}

/// A certificate signed by a CA of its own.
fn issued(mut params: CertificateParams, change: fn(&mut CertificateParams)) -> Server {
    change(&mut params);
    params.distinguished_name.push(rcgen::DnType::CommonName, "server");
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let pem = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().pem();
    Server { pem, key: key.serialize_der(), ca: ca_pem }
}

/// A server's certificate and key, and its CA.
struct Server {
    pem: String,
    key: Vec<u8>,
    ca: String,
}

impl From<(String, Vec<u8>)> for Server {
    fn from((pem, key): (String, Vec<u8>)) -> Server {
        Server { ca: pem.clone(), pem, key }
    }
}

/// The message of a handshake for host `h` with each TLS version; empty if it succeeds.
fn handshake(server: &Server, rules: &TlsRules) -> String {
    let [old, new] = [&version::TLS12, &version::TLS13].map(|version| {
        let provider = Arc::new(ring::default_provider());
        let chain = vec![CertificateDer::from_pem_slice(server.pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::try_from(server.key.clone()).unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        // The key need not be the certificate's.
        let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let config = client_config(rules, Protocol::Http1).unwrap();
        let mut client = ClientConnection::new(config, server_name(rules, "h").unwrap()).unwrap();
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                if let Err(error) = client.process_new_packets() {
                    return explain(&io::Error::other(error));
                }
            }
        }
        String::new()
    });
    assert_eq!(old, new, "both versions of TLS agree");
    new
}

const PLAIN: fn(&mut CertificateParams) = |_| {};
const CA: fn(&mut CertificateParams) =
    |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
const EXPIRED: fn(&mut CertificateParams) = |params| {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 2, 3);
};
const EARLY: fn(&mut CertificateParams) = |params| {
    params.not_before = date_time_ymd(2090, 4, 5);
    params.not_after = date_time_ymd(2091, 1, 1);
};
const CLIENT: fn(&mut CertificateParams) =
    |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

#[test]
fn each_rejection_names_its_cause_and_what_to_do() {
    let folder = Folder::new("rejections");
    let check = |server: Server, expected: &str| {
        let ca = folder.file("ca.pem", &server.ca);
        let rules = TlsRules { ca: Some(ca), ..Default::default() };
        assert_eq!(handshake(&server, &rules), expected);
        // Whatever it is, it can be accepted as it is.
        let pinned = TlsRules { ca: Some(folder.file("own.pem", &server.pem)), ..rules };
        assert_eq!(handshake(&server, &pinned), "", "pinned: {expected}");
        let insecure = TlsRules { insecure: true, ..Default::default() };
        assert_eq!(handshake(&server, &insecure), "", "insecure: {expected}");
    };
    let trust = "or use --insecure for a test system";
    check(issued(params(&["h"]), PLAIN), "");
    check(
        issued(params(&["h"]), EXPIRED),
        &format!("the server's certificate expired on 2021-02-03; renew it, {trust}"),
    );
    check(
        issued(params(&["h"]), EARLY),
        &format!(
            "the server's certificate is not valid before 2090-04-05; check this host's clock, {trust}"
        ),
    );
    let wrong_name = |names: &str| {
        format!("the certificate is for {names}, not for h; set tls.server_name, {trust}")
    };
    check(issued(params(&["a.example"]), PLAIN), &wrong_name("a.example"));
    check(issued(params(&["127.0.0.1", "::1"]), PLAIN), &wrong_name("127.0.0.1 and ::1"));
    check(
        issued(params(&["a.example", "*.b.example", "c", "d", "e"]), PLAIN),
        &wrong_name("a.example, *.b.example, c and 2 more"),
    );
    check(issued(params(&[]), PLAIN), &wrong_name("no name"));
    check(
        issued(params(&["h"]), CLIENT),
        &format!(
            "the certificate's extended key usage does not include server authentication; set \
             tls.ca to exactly this certificate (PEM), {trust}"
        ),
    );
    check(
        issued(params(&["h"]), CA),
        &format!(
            "the server's certificate cannot be verified: it is a CA certificate (CA:TRUE); set \
             tls.ca to exactly this certificate (PEM), {trust}"
        ),
    );
    check(
        Server { ca: issued(params(&["h"]), PLAIN).ca, ..issued(params(&["h"]), PLAIN) },
        &format!(
            "the server's certificate is signed by a CA with the name of a trusted one, but with \
             another key; set tls.ca to the CA's current certificate (PEM), {trust}"
        ),
    );
    let (other_ca, _) = own(params(&[]), |other| {
        other.distinguished_name.push(rcgen::DnType::CommonName, "other CA");
    });
    let unknown = "the server's certificate is signed by an issuer this host does not trust; set \
                   tls.ca to the CA's certificate (PEM)";
    check(
        Server { ca: other_ca.clone(), ..issued(params(&["h"]), PLAIN) },
        &format!("{unknown}, {trust}"),
    );
    for change in [PLAIN, CA] {
        let own = own(params(&["h"]), change).into();
        check(
            Server { ca: other_ca.clone(), ..own },
            &format!("the server's certificate is self-signed; set tls.ca to it (PEM), {trust}"),
        );
    }
}

#[test]
fn the_signature_of_the_handshake_is_always_checked() {
    let folder = Folder::new("signatures");
    let (pem, _) = own(params(&["h"]), PLAIN);
    let pinned = TlsRules { ca: Some(folder.file("own.pem", &pem)), ..Default::default() };
    let impostor = Server { key: own(params(&["h"]), PLAIN).1, ..(pem, Vec::new()).into() };
    let insecure = TlsRules { insecure: true, ..Default::default() };
    for rules in [pinned, insecure] {
        let message = handshake(&impostor, &rules);
        assert_eq!(message, "the server's signature does not match its certificate");
    }
}

#[test]
fn alerts_and_other_errors_are_explained() {
    use rustls::{AlertDescription as A, Error, PeerIncompatible, PeerMisbehaved};
    let check = |error: Error, expected: &str| {
        let message = explain(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert!(message.contains(expected), "{message}");
    };
    check(
        Error::AlertReceived(A::CertificateRequired),
        "requires a client certificate; set tls.cert",
    );
    check(Error::AlertReceived(A::HandshakeFailure), "or it requires a client certificate");
    check(Error::AlertReceived(A::ProtocolVersion), "neither TLS 1.2 nor TLS 1.3");
    check(Error::AlertReceived(A::NoApplicationProtocol), "no HTTP version in common");
    check(Error::AlertReceived(A::UnknownCA), "does not accept the client certificate");
    check(Error::AlertReceived(A::UnrecognisedName), "set tls.server_name");
    check(Error::AlertReceived(A::InternalError), "with alert InternalError");
    check(PeerIncompatible::ServerDoesNotSupportTls12Or13.into(), "neither TLS 1.2 nor TLS 1.3");
    check(PeerMisbehaved::SelectedUnofferedApplicationProtocol.into(), "set protocol");
    check(PeerMisbehaved::TooManyKeyUpdateRequests.into(), "violated the TLS protocol");
    assert!(explain(&io::ErrorKind::UnexpectedEof.into()).contains("closed the connection"));
    assert!(explain(&io::Error::other(NotTls::Http)).contains("use http://"));
}

#[test]
fn unusable_files_have_clear_messages() {
    let folder = Folder::new("files");
    let (pem, key) = own(params(&["h"]), PLAIN);
    let server: Server = (pem.clone(), key.clone()).into();
    let key_pem = KeyPair::try_from(key.as_slice()).unwrap().serialize_pem();
    let ca = |bytes: &[u8]| TlsRules { ca: Some(folder.file("ca", bytes)), ..Default::default() };
    let check = |bytes: &[u8], expected: &str, hint: &str| {
        let error = client_config(&ca(bytes), Protocol::Http1).unwrap_err();
        let shown = folder.0.join("ca");
        let message = error.message.replace(shown.to_str().unwrap(), "FILE");
        assert_eq!(message, expected);
        assert!(error.hint.contains(hint), "{}", error.hint);
    };
    let other = own(params(&["other"]), PLAIN).0;
    let mixed = format!("junk\n\u{1}\u{2}{other}more junk\n{key_pem}\n# own:\n{pem}trailing");
    assert_eq!(handshake(&server, &ca(mixed.as_bytes())), "");
    check(b"", "no certificate in FILE: it is empty", "PEM");
    check(b"hello", "no certificate in FILE: it has no BEGIN CERTIFICATE line", "PEM");
    check(key_pem.as_bytes(), "no certificate in FILE: it contains a private key", "certificate's");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    check(&der, "no certificate in FILE: it is in DER format", "openssl x509 -inform der -in");
    let cut = &pem[..pem.len() / 2];
    check(cut.as_bytes(), "FILE is not a valid PEM file: a section has no END line", "again");
    let bad = pem.replacen("MI", "!!", 1);
    check(bad.as_bytes(), "FILE is not a valid PEM file: a section is not valid base64", "again");
    let fake = format!("{pem}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    check(
        fake.as_bytes(),
        "certificate 2 in FILE is not a valid X.509 certificate",
        "openssl x509",
    );
    check(&vec![b'\n'; (16 << 20) + 1], "FILE is larger than 16 MiB", "set tls.ca to a PEM file");

    let client = |cert: &[u8], key: &[u8]| {
        let (cert, key) = (Some(folder.file("cert", cert)), Some(folder.file("key", key)));
        let rules = TlsRules { insecure: true, cert, key, ..Default::default() };
        client_config(&rules, Protocol::Http1).map(|_| ()).map_err(|error| error.message)
    };
    assert_eq!(client(pem.as_bytes(), key_pem.as_bytes()), Ok(()));
    let fails = |key: &[u8], expected: &str| {
        let message = client(pem.as_bytes(), key).unwrap_err();
        assert!(message.contains(expected), "{message}");
    };
    fails(
        KeyPair::generate().unwrap().serialize_pem().as_bytes(),
        "cannot use the client certificate",
    );
    fails(pem.as_bytes(), "no private key in");
    fails(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "is encrypted");
}
