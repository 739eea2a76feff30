//! TLS on both sides: the certificate presented to callers, reloaded when its files change, and the
//! certificates trusted for upstreams.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use plimsoll_registry::model::Definitions;
use plimsoll_registry::settings::{Settings, TlsFiles};

/// The certificate presented to callers; can be replaced while serving.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: TlsFiles,
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, has no certificate or key, or the two do not match.
    pub(crate) fn read(files: &TlsFiles) -> Result<Certificate, String> {
        Ok(Certificate { files: files.clone(), current: ArcSwap::from(read(files)?) })
    }

    /// Reads the files again; on error, the certificate stays unchanged.
    ///
    /// # Errors
    /// Same as [`Certificate::read`].
    pub(crate) fn reload(&self) -> Result<(), String> {
        self.current.store(read(&self.files)?);
        Ok(())
    }

    /// The files' contents, to detect changes.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn contents(&self) -> Result<[Vec<u8>; 2], String> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        Ok([read(&self.files.cert)?, read(&self.files.key)?])
    }

    /// The TLS acceptor for connections from callers.
    pub(crate) fn acceptor(self: &Arc<Certificate>) -> Result<TlsAcceptor, String> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth();
        let mut config = config.with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(files: &TlsFiles) -> Result<Arc<CertifiedKey>, String> {
    let chain = certificates(&files.cert)?;
    let path = files.key.display();
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("there is no private key in {path}"),
        error => format!("cannot read a private key from {path}: {error}"),
    })?;
    let cert = files.cert.display();
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider());
    key.map(Arc::new).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("the key does not belong to the certificate: {path} and {cert}")
        }
        error => format!("{cert} and {path} are not a valid certificate and key: {error}"),
    })
}

/// What is wrong with the files of certificates and keys that a gateway would read, each with its
/// place in the configuration.
pub(crate) fn problems(settings: &Settings, definitions: &Definitions) -> Vec<(String, String)> {
    let own = settings.tls.as_ref().map(read).and_then(Result::err);
    let own = own.map(|problem| ("tls".to_string(), problem));
    let mut roots = Roots::default();
    let trusted = definitions.upstreams.iter().filter(|upstream| upstream.address.tls);
    let trusted = trusted.filter_map(|upstream| {
        let problem = roots.connector(Some(upstream.ca.as_deref()?)).err()?;
        Some((format!("upstream \"{}\"", upstream.id), problem))
    });
    own.into_iter().chain(trusted).collect()
}

/// A connector for a program's own connections to gateways; trusts the certificates in `ca`, or the
/// system's.
///
/// # Errors
/// The file cannot be read or has no certificate, or the system has none.
pub fn connector(ca: Option<&Path>) -> Result<TlsConnector, String> {
    Roots::default().connector(ca)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong =
        |error: pem::Error| format!("cannot read certificates from {}: {error}", path.display());
    let all = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(wrong)?;
    if all.is_empty() {
        return Err(format!("there is no certificate in {}", path.display()));
    }
    Ok(all)
}

/// TLS connectors by the file of trusted certificates; each file is read once per `Routing`.
#[derive(Default)]
pub(crate) struct Roots {
    connectors: HashMap<Option<PathBuf>, TlsConnector>,
}

impl Roots {
    /// The contents of the file of trusted certificates, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn contents(&self, ca: Option<&Path>) -> Result<Option<Vec<u8>>, String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| {
                format!("cannot read certificates from {}: {error}", path.display())
            })
        };
        ca.map(read).transpose()
    }

    /// A connector that trusts the certificates in `ca`, or the system's.
    ///
    /// # Errors
    /// The file cannot be read or has no certificate, or the system has none.
    pub(crate) fn connector(&mut self, ca: Option<&Path>) -> Result<TlsConnector, String> {
        let name = ca.map(Path::to_path_buf);
        if let Some(known) = self.connectors.get(&name) {
            return Ok(known.clone());
        }
        let trusted = match ca {
            Some(path) => certificates(path)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(trusted);
        if added == 0 {
            return Err(match ca {
                Some(path) => format!("no certificate in {} is valid", path.display()),
                None => "no trusted certificates on this host; install ca-certificates, or name a \
                         file: ca = \"roots.pem\""
                    .into(),
            });
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        self.connectors.insert(name, connector.clone());
        Ok(connector)
    }
}
