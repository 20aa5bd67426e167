//! Certificates with the feature `tls`: rustls configurations for both sides.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{Connection, RootCertStore, ServerConfig, ServerConnection};

use super::CertificateError;
use crate::channel::{SocketLayer, Tls};

#[derive(Clone)]
pub(super) struct Identity {
    server: Arc<ServerConfig>,
    #[cfg(feature = "actors")]
    client: Arc<rustls::ClientConfig>,
}

impl Identity {
    pub(super) fn read(chain: &Path, key: &Path, authorities: &Path) -> Result<Self, CertificateError> {
        let chain = certificates(chain)?;
        let read = PrivateKeyDer::from_pem_file(key);
        let key = read.map_err(|source| missing("private key", key, source))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(authorities)? {
            roots.add(authority).map_err(unusable)?;
        }
        Self::new(chain, key, roots)
    }

    fn new(
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
        Ok(Identity {
            server: Arc::new(server),
            #[cfg(feature = "actors")]
            client: Arc::new(client),
        })
    }

    pub(super) fn accept(&self) -> io::Result<SocketLayer> {
        let connection = ServerConnection::new(self.server.clone()).map_err(io::Error::other)?;
        Ok(SocketLayer::Tls(Box::new(Tls::new(Connection::Server(connection)))))
    }

    #[cfg(feature = "actors")]
    pub(super) fn connect(&self, name: &str) -> io::Result<SocketLayer> {
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let connection =
            rustls::ClientConnection::new(self.client.clone(), name).map_err(io::Error::other)?;
        Ok(SocketLayer::Tls(Box::new(Tls::new(Connection::Client(connection)))))
    }
}

/// Reads all certificates of a file, of which there must be one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let unreadable = |source| missing("certificate", path, source);
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if all.is_empty() { Err(unreadable(Error::NoItemsFound)) } else { Ok(all) }
}

fn missing(what: &'static str, path: &Path, source: Error) -> CertificateError {
    CertificateError::File { what, path: path.to_owned(), source: Box::new(source) }
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> CertificateError {
    CertificateError::Unusable(Box::new(error))
}
