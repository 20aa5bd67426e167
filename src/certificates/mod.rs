//! TLS identities: the certificate that a program presents, and the authorities whose certificates it accepts.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::channel::SocketLayer;

#[cfg(any(test, not(feature = "tls")))]
#[cfg_attr(feature = "tls", expect(dead_code, reason = "only a test uses all of it then"))]
mod disabled;
#[cfg(feature = "tls")]
mod enabled;

#[cfg(not(feature = "tls"))]
use disabled::Identity;
#[cfg(feature = "tls")]
use enabled::Identity;

/// The certificate that this program presents, and the authorities whose certificates it accepts.
///
/// Servers and applications use the same type: each presents a certificate of its own and accepts a peer whose
/// certificate is signed by one of the authorities. Cloning is cheap.
///
/// The type exists with and without the feature `tls`; without it, [`read`](Self::read) fails with
/// [`CertificateError::Unsupported`].
#[derive(Clone)]
pub struct Certificates(Identity);

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

/// Why certificates cannot be used.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file cannot be read, or holds nothing of the expected kind.
    #[error("no {what} in {path:?}")]
    File {
        /// `certificate` or `private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The files do not fit together, or a key is too weak.
    #[error("the certificates cannot be used")]
    Unusable(#[source] Box<dyn Error + Send + Sync>),
    /// This program was built without the feature `tls`.
    #[error(
        "this program was built without TLS: write `forkpool = {{ version = \"…\", features = [\"tls\"] }}` in its \
         Cargo.toml"
    )]
    Unsupported,
}

/// Prints the error with its causes, since an unhandled `?` in `main` shows this.
impl fmt::Debug for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::failure::fmt_with_source(f, self)
    }
}

impl Certificates {
    /// Reads PEM files: this program's certificate followed by its intermediate certificates, its private key, and
    /// the certificates of the authorities that it accepts.
    ///
    /// # Errors
    ///
    /// - [`CertificateError::File`] if a file cannot be read or holds nothing of the kind.
    /// - [`CertificateError::Unusable`] if the key does not belong to the certificate, or rustls refuses one of them.
    /// - [`CertificateError::Unsupported`] without the feature `tls`.
    pub fn read(
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
        authorities: impl AsRef<Path>,
    ) -> Result<Self, CertificateError> {
        Identity::read(chain.as_ref(), key.as_ref(), authorities.as_ref()).map(Certificates)
    }

    /// Starts the server's side of a connection.
    pub(crate) fn accept(&self) -> io::Result<SocketLayer> {
        self.0.accept()
    }

    /// Starts the client's side of a connection to a server of this name, or at this numeric address.
    #[cfg(feature = "actors")]
    pub(crate) fn connect(&self, name: &str) -> io::Result<SocketLayer> {
        self.0.connect(name)
    }
}
