//! TLS on a socket: both sides present a certificate, and each checks the other's.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustls::{AlertDescription, Connection, Error};

use crate::sys::descriptors;
use crate::sys::passing::is_passing;

/// Most encrypted bytes that wait for space in the socket.
const MAX_UNSENT: usize = 256 << 10;

/// A TLS connection, on either side.
#[derive(Debug)]
pub(crate) struct Tls {
    connection: Connection,
}

impl Tls {
    pub(crate) fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(MAX_UNSENT));
        Tls { connection }
    }

    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            match self.read_plaintext(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that was killed sends no close_notify; what it sent before is valid.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            // Messages of the handshake go first, because the peer waits for them.
            match self.flush(socket) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            match self.connection.read_tls(&mut SocketIo(socket)) {
                Ok(0) => return Ok(0),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                Err(error) => return Err(error),
            }
            if let Err(error) = self.connection.process_new_packets() {
                // Sends the alert that tells the peer the reason.
                let _ = self.flush(socket);
                let is_client = matches!(self.connection, Connection::Client(_));
                return Err(io::Error::new(io::ErrorKind::InvalidData, explained(&error, is_client)));
            }
        }
    }

    /// Appends decrypted bytes to the spare capacity of `bytes`.
    fn read_plaintext(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let start = bytes.len();
        bytes.resize(bytes.capacity(), 0);
        let result = self.connection.reader().read(&mut bytes[start..]);
        bytes.truncate(start + result.as_ref().map_or(0, |count| *count));
        result
    }

    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        // Makes space first: without it no bytes are accepted.
        match self.flush(socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        match self.connection.writer().write(bytes)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => {
                match self.flush(socket) {
                    // The bytes are accepted, so an error that passes is left to the next flush.
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock && !is_passing(&error) => {
                        return Err(error);
                    }
                    _ => {}
                }
                Ok(count)
            }
        }
    }

    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut SocketIo(socket))?;
        }
        Ok(())
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }
}

/// Says whose certificate was refused by which side, if that is the error. For a client it is a sentence, for a server
/// one whose subject is the peer.
fn explained(error: &rustls::Error, is_client: bool) -> String {
    let refused_here = matches!(error, Error::InvalidCertificate(_) | Error::NoCertificatesPresented);
    let refused_there = matches!(error, Error::AlertReceived(alert) if is_about_certificates(*alert));
    match (is_client, refused_here, refused_there) {
        (true, true, _) => format!("this application refuses the server's certificate: {error}"),
        (true, _, true) => format!("the server refuses this application's certificate: {error}"),
        (true, ..) => format!("TLS with the server failed: {error}"),
        (false, true, _) => format!("failed authentication, this server refuses its certificate: {error}"),
        (false, _, true) => format!("refuses this server's certificate: {error}"),
        (false, ..) => format!("failed authentication: {error}"),
    }
}

/// Whether a peer that has sent this alert refuses the certificate of this side.
///
/// # References
///
/// - [RFC 8446](https://www.rfc-editor.org/rfc/rfc8446#section-6.2), "Error Alerts"
fn is_about_certificates(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
    )
}

/// The socket as [`Read`] and [`Write`], for the TLS connection.
struct SocketIo<'a>(BorrowedFd<'a>);

impl Read for SocketIo<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(descriptors::receive_into(self.0, bytes)?)
    }
}

impl Write for SocketIo<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(descriptors::send(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
