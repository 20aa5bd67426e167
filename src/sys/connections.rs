//! Looks at connections that other code owns: whether they are still what they were, and whether their peer has left.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::net::sockopt;

use super::descriptors::last_errno;
use super::faults;
use super::faults::Call;

/// What tells a socket from all others since the machine has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(u64);

/// The number of a descriptor that other code owns and may close, and the socket that it stands for until then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForeignSocket {
    number: RawFd,
    identity: Identity,
}

/// What has become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The peer may send.
    Open,
    /// The peer sends no more. Whether it still receives is not known.
    HalfClosed,
    /// The peer neither sends nor receives: it has reset the connection, or both sides have ended it.
    Closed,
}

impl ForeignSocket {
    /// Notes a socket.
    ///
    /// # Errors
    ///
    /// The system's error if this is no socket.
    ///
    /// # References
    ///
    /// - [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html), `SO_COOKIE`
    pub(crate) fn note(socket: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        use std::os::fd::AsRawFd;
        Ok(ForeignSocket { number: socket.as_raw_fd(), identity: identity_of(socket)? })
    }

    /// Whether the number still stands for this socket.
    ///
    /// The answer holds for as long as the owner does not run. So a caller on the owner's thread may rely on it until it
    /// returns.
    pub(crate) fn is_open(self) -> bool {
        let mut cookie = 0_u64;
        let mut length = size_of_val(&cookie) as libc::socklen_t;
        // SAFETY: getsockopt demands a place of `length` bytes for the value, and one for the length, that are valid
        // for writing; these locals are. Any number is permitted: one that is not open, or no socket, is an error.
        let result = unsafe {
            libc::getsockopt(
                self.number,
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        result == 0 && Identity(cookie) == self.identity
    }

    /// Returns another descriptor for this socket, or `None` if its owner has closed it. To be called on the owner's
    /// thread.
    ///
    /// # Errors
    ///
    /// The system's error, such as `EMFILE`.
    pub(crate) fn duplicate(self) -> rustix::io::Result<Option<OwnedFd>> {
        // Asked first: a duplicate of something else, closed again, would take that one's record locks with it.
        if !self.is_open() {
            return Ok(None);
        }
        faults::point(Call::Dup)?;
        // SAFETY: fcntl has no demands for this command: any number is permitted, and one that is not open is an error.
        let number = unsafe { libc::fcntl(self.number, libc::F_DUPFD_CLOEXEC, 3) };
        if number < 0 {
            return Err(last_errno());
        }
        // SAFETY: from_raw_fd demands an open descriptor with no other owner; the call above has just made this one.
        let duplicate = unsafe { OwnedFd::from_raw_fd(number) };
        let is_the_same = identity_of(duplicate.as_fd()) == Ok(self.identity);
        Ok(is_the_same.then_some(duplicate))
    }
}

fn identity_of(socket: BorrowedFd<'_>) -> rustix::io::Result<Identity> {
    sockopt::socket_cookie(socket).map(Identity)
}

/// Looks what has become of a connection. It reads nothing, and what is unread does not matter.
///
/// An error that other code has taken from the socket does not matter either: a socket that was reset stays closed. What
/// the system cannot say counts as open.
///
/// # References
///
/// - [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html), `POLLRDHUP`, `POLLHUP`
pub(crate) fn link(socket: BorrowedFd<'_>) -> Link {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut entry = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    if rustix::io::retry_on_intr(|| poll(&mut entry, Some(&now))).is_err() {
        return Link::Open;
    }
    let found = entry[0].revents();
    if found.contains(PollFlags::HUP) {
        Link::Closed
    } else if found.contains(PollFlags::RDHUP) {
        Link::HalfClosed
    } else {
        Link::Open
    }
}
