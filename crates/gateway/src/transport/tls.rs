//! TLS on both sides: the certificate that callers see, replaced when its files change, and whom the
//! gateway trusts upstream.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use plimsoll_registry::settings::TlsFiles;

/// The certificate that callers see; it can be replaced while they come.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: TlsFiles,
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// They cannot be read, hold no certificate or key, or do not belong together.
    pub(crate) fn read(files: &TlsFiles) -> Result<Certificate, String> {
        Ok(Certificate { files: files.clone(), current: ArcSwap::from(read(files)?) })
    }

    /// Reads the files again; the certificate stays as it is when they are not valid.
    ///
    /// # Errors
    /// As [`Certificate::read`].
    pub(crate) fn read_again(&self) -> Result<(), String> {
        self.current.store(read(&self.files)?);
        Ok(())
    }

    /// The files' contents, to see whether they changed; `None` while they cannot be read.
    pub(crate) fn contents(&self) -> Option<[Vec<u8>; 2]> {
        let read = |path: &PathBuf| std::fs::read(path).ok();
        Some([read(&self.files.cert)?, read(&self.files.key)?])
    }

    /// What turns accepted connections into TLS ones.
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
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| format!("cannot read a key from {}: {error}", files.key.display()))?;
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
        let (cert, key) = (files.cert.display(), files.key.display());
        format!("{cert} and {key} do not make a certificate: {error}")
    })?;
    Ok(Arc::new(key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: rustls::pki_types::pem::Error| {
        format!("cannot read certificates from {}: {error}", path.display())
    };
    let all = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(wrong)?;
    match all.is_empty() {
        true => Err(format!("there is no certificate in {}", path.display())),
        false => Ok(all),
    }
}

/// Whom the gateway trusts, by the file that names them; each is read once for a registry.
#[derive(Default)]
pub(crate) struct Roots {
    connectors: HashMap<Option<PathBuf>, TlsConnector>,
}

impl Roots {
    /// What the file of certificates to trust holds, if there is one.
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
    /// The file cannot be read or holds none; or the system has none.
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
            let what = ca.map_or("this host".into(), |path| path.display().to_string());
            let hint = "install ca-certificates, or name a file: ca = \"roots.pem\"";
            return Err(format!("no trusted certificates on {what}; {hint}"));
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
