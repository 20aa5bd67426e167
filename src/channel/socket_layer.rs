//! What stands between plain bytes and a stream socket: nothing, or TLS.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::descriptors;

/// How bytes go through one socket.
///
/// A socket that does not wait is told by [`WouldBlock`](io::ErrorKind::WouldBlock), as usual.
#[derive(Debug, Default)]
pub(crate) enum SocketLayer {
    /// As they are.
    #[default]
    None,
    #[cfg(feature = "tls")]
    Tls(Box<super::tls::Tls>),
}

impl SocketLayer {
    /// Appends what has arrived to the spare capacity of `bytes`; 0 is the end.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            SocketLayer::None => Ok(descriptors::receive(socket, bytes)?),
            #[cfg(feature = "tls")]
            SocketLayer::Tls(tls) => tls.receive(socket, bytes),
        }
    }

    /// Takes some of the bytes. With TLS they may still have to be [flushed](Self::flush).
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        match self {
            SocketLayer::None => Ok(descriptors::send(socket, bytes)?),
            #[cfg(feature = "tls")]
            SocketLayer::Tls(tls) => tls.send(socket, bytes),
        }
    }

    /// Writes what was taken and not written.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            SocketLayer::None => {
                let _ = socket;
                Ok(())
            }
            #[cfg(feature = "tls")]
            SocketLayer::Tls(tls) => tls.flush(socket),
        }
    }

    /// Whether something was taken and not written, or is to be said for the handshake.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            SocketLayer::None => false,
            #[cfg(feature = "tls")]
            SocketLayer::Tls(tls) => tls.has_unsent(),
        }
    }
}
