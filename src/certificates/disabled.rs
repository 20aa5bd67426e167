//! Certificates without the feature `tls`: none can be read.

use std::io;
use std::path::Path;

use super::CertificateError;
use crate::channel::SocketLayer;

#[derive(Clone)]
pub(super) enum Identity {}

impl Identity {
    pub(super) fn read(_: &Path, _: &Path, _: &Path) -> Result<Self, CertificateError> {
        Err(CertificateError::Unsupported)
    }

    pub(super) fn accept(&self) -> io::Result<SocketLayer> {
        match *self {}
    }

    #[cfg(feature = "actors")]
    pub(super) fn connect(&self, _: &str) -> io::Result<SocketLayer> {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_without_tls_name_the_feature() {
        let read = Identity::read(Path::new("chain.pem"), Path::new("key.pem"), Path::new("authority.pem"));
        let Err(error) = read;
        assert!(matches!(error, CertificateError::Unsupported), "{error:?}");
        assert!(error.to_string().contains("\"tls\""), "{error}");
    }
}
