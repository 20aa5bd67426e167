//! Without the feature `tls` nobody has certificates.

use std::io;

use crate::channel::SocketLayer;

/// What this program shows to others, and whose signature others have to show. Without the feature `tls` of this crate
/// there are none to be had.
#[derive(Clone, Debug)]
pub enum Certificates {}

impl Certificates {
    /// For somebody who has come.
    pub(crate) fn accept(&self) -> io::Result<SocketLayer> {
        match *self {}
    }

    /// For a server of this name.
    #[cfg(feature = "actors")]
    pub(crate) fn connect(&self, _: &str) -> io::Result<SocketLayer> {
        match *self {}
    }
}
