//! TLS on a socket: both sides show a certificate, and each checks the other's.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustls::Connection;

use crate::sys::descriptors;

/// Bytes that wait for room in the socket at most; a TLS connection keeps them encrypted.
const MOST_UNSENT: usize = 256 << 10;

/// One connection.
#[derive(Debug)]
pub(crate) struct Tls {
    connection: Connection,
}

impl Tls {
    pub(crate) fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(MOST_UNSENT));
        Tls { connection }
    }

    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            match self.take_plain(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that was killed says no farewell; what it said before counts.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                taken => return taken,
            }
            // What the handshake has to say goes first: the peer waits for it.
            match self.flush(socket) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            match self.connection.read_tls(&mut Wire(socket)) {
                Ok(0) => return Ok(0),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                Err(error) => return Err(error),
            }
            if let Err(error) = self.connection.process_new_packets() {
                // The peer is to know why.
                let _ = self.flush(socket);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }

    fn take_plain(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let start = bytes.len();
        bytes.resize(bytes.capacity(), 0);
        let taken = self.connection.reader().read(&mut bytes[start..]);
        bytes.truncate(start + taken.as_ref().map_or(0, |count| *count));
        taken
    }

    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        // Room first: nothing is taken as long as there is none.
        match self.flush(socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        match self.connection.writer().write(bytes)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => {
                match self.flush(socket) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
                Ok(count)
            }
        }
    }

    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Wire(socket))?;
        }
        Ok(())
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }
}

/// The socket, as a TLS connection reads and writes it.
struct Wire<'a>(BorrowedFd<'a>);

impl Read for Wire<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(descriptors::receive_into(self.0, bytes)?)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(descriptors::send(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
