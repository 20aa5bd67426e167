//! The layer between plain bytes and a stream socket: none, or TLS.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::descriptors;

/// How bytes are sent and received through one socket.
///
/// On a non-blocking socket all methods may fail with [`WouldBlock`](io::ErrorKind::WouldBlock).
#[derive(Debug, Default)]
pub(crate) enum SocketLayer {
    /// Bytes go to the socket as they are.
    #[default]
    None,
    /// Bytes are encrypted.
    #[cfg(feature = "tls")]
    Tls(Box<super::tls::Tls>),
}

impl SocketLayer {
    /// Appends received bytes to the spare capacity of `bytes` and returns how many; 0 is the end of the stream.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            SocketLayer::None => Ok(descriptors::receive(socket, bytes)?),
            #[cfg(feature = "tls")]
            SocketLayer::Tls(tls) => tls.receive(socket, bytes),
        }
    }

    /// Accepts some of the bytes and returns how many. With TLS they may still have to be [flushed](Self::flush).
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        match self {
            SocketLayer::None => Ok(descriptors::send(socket, bytes)?),
            #[cfg(feature = "tls")]
            SocketLayer::Tls(tls) => tls.send(socket, bytes),
        }
    }

    /// Writes the bytes that were accepted but not written yet.
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

    /// Whether accepted bytes or parts of the handshake are still to be written.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            SocketLayer::None => false,
            #[cfg(feature = "tls")]
            SocketLayer::Tls(tls) => tls.has_unsent(),
        }
    }
}
