//! Who may come over a network, and to whom one goes: certificates of both sides, signed by the same authority.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{Connection, RootCertStore, ServerConfig, ServerConnection};

use crate::channel::{SocketLayer, Tls};

/// What this program shows to others, and whose signature others have to show.
///
/// The same for servers and applications: each shows a certificate of its own, and believes those that are signed by one
/// of the authorities.
#[derive(Clone)]
pub struct Certificates {
    server: Arc<ServerConfig>,
    #[cfg(feature = "actors")]
    client: Arc<rustls::ClientConfig>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

/// Why certificates are of no use.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file cannot be read, or has nothing of the kind in it.
    #[error("no {what} in {path:?}")]
    File {
        /// A certificate or a private key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// They do not fit together, or are too weak.
    #[error("the certificates cannot be used")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// For people: what an unhandled `?` in `main` prints is what is wrong and what to do.
impl std::fmt::Debug for CertificateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::failure::for_people(f, self)
    }
}

impl Certificates {
    /// Reads them from PEM files: this program's certificate with those between it and the authority, its private key,
    /// and the certificates of the authorities that are believed.
    ///
    /// # Errors
    ///
    /// [`CertificateError`].
    pub fn read(
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
        authorities: impl AsRef<Path>,
    ) -> Result<Self, CertificateError> {
        let chain = certificates(chain.as_ref())?;
        let key = key.as_ref();
        let read = PrivateKeyDer::from_pem_file(key);
        let key = read.map_err(|source| missing("private key", key, source))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(authorities.as_ref())? {
            roots.add(authority).map_err(unusable)?;
        }
        Self::of(chain, key, roots)
    }

    fn of(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: RootCertStore,
    ) -> Result<Self, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(unusable)?
            .with_client_cert_verifier(verifier.build().map_err(unusable)?)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        #[cfg(feature = "actors")]
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        Ok(Certificates {
            server: Arc::new(server),
            #[cfg(feature = "actors")]
            client: Arc::new(client),
        })
    }

    /// For somebody who has come.
    pub(crate) fn accept(&self) -> io::Result<SocketLayer> {
        let connection = ServerConnection::new(self.server.clone()).map_err(io::Error::other)?;
        Ok(SocketLayer::Tls(Box::new(Tls::new(Connection::Server(connection)))))
    }

    /// For a server of this name, or at this numeric address.
    #[cfg(feature = "actors")]
    pub(crate) fn connect(&self, name: &str) -> io::Result<SocketLayer> {
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let connection =
            rustls::ClientConnection::new(self.client.clone(), name).map_err(io::Error::other)?;
        Ok(SocketLayer::Tls(Box::new(Tls::new(Connection::Client(connection)))))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let told = |source| missing("certificate", path, source);
    let all: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(told)?.collect::<Result<_, _>>().map_err(told)?;
    match all.is_empty() {
        true => Err(missing("certificate", path, rustls::pki_types::pem::Error::NoItemsFound)),
        false => Ok(all),
    }
}

fn missing(what: &'static str, path: &Path, source: rustls::pki_types::pem::Error) -> CertificateError {
    CertificateError::File { what, path: path.to_owned(), source }
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> CertificateError {
    CertificateError::Unusable(Box::new(error))
}
