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
