//! Descriptors: socket pairs, passing them on, and closing what a process was not meant to inherit.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketType,
};

/// Lowest number a worker's channel may get.
///
/// The kernel hands out the lowest free number, so code that closes what it does not own and then opens files
/// does not get the channel's number. 60 still lies in the table of 64 that every process starts with, so a
/// fork copies no larger one.
const CHANNEL_FLOOR: RawFd = 60;

/// Most descriptors one message of the control channel carries.
const MOST_PASSED: usize = 4;

/// A connected pair of close-on-exec stream sockets.
///
/// # References
///
/// - [socketpair(2)](https://man7.org/linux/man-pages/man2/socketpair.2.html)
#[cfg(feature = "actors")]
pub(crate) fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// A close-on-exec pipe, the reading end first, which returns instead of waiting.
///
/// # References
///
/// - [pipe2(2)](https://man7.org/linux/man-pages/man2/pipe2.2.html)
#[cfg(feature = "actors")]
pub(crate) fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    set_nonblocking(ours.as_fd())?;
    Ok((ours, theirs))
}

/// Reads from a pipe into the spare capacity of `bytes`; 0 is the end.
#[cfg(feature = "actors")]
pub(crate) fn read(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::read(fd, rustix::buffer::spare_capacity(bytes)))
}

/// Makes these this process's standard output and standard error.
pub(crate) fn replace_outputs(stdout: OwnedFd, stderr: OwnedFd) -> rustix::io::Result<()> {
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)
}

/// Makes reads and writes of this end return instead of waiting.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::io::ioctl_fionbio(fd, true)
}

/// Reads into the spare capacity of `bytes`; 0 is the end of the stream.
pub(crate) fn receive(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        rustix::net::recv(fd, rustix::buffer::spare_capacity(bytes), RecvFlags::empty()).map(|(read, _)| read)
    })
}

/// Writes what fits. A descriptor that is no socket any more is refused, never written to.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::net::send(fd, bytes, SendFlags::NOSIGNAL))
}

/// Writes what fits and passes descriptors along with the first byte.
pub(crate) fn send_with(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    passed: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_PASSED))];
    rustix::io::retry_on_intr(|| {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(passed)) {
            return Err(Errno::NOBUFS);
        }
        rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })
}

/// Reads into the spare capacity of `bytes` and keeps every descriptor that comes along; 0 is the end of the stream.
pub(crate) fn receive_with(
    fd: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    passed: &mut impl Extend<OwnedFd>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_PASSED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let start = bytes.len();
    bytes.resize(bytes.capacity(), 0);
    let read = rustix::io::retry_on_intr(|| {
        let mut room = [IoSliceMut::new(&mut bytes[start..])];
        rustix::net::recvmsg(fd, &mut room, &mut control, RecvFlags::CMSG_CLOEXEC)
            .map(|message| message.bytes)
    });
    bytes.truncate(start + read.unwrap_or(0));
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            passed.extend(descriptors);
        }
    }
    read
}

/// Fails where the descriptor was closed by code that does not own it.
pub(crate) fn check_open(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::io::fcntl_getfd(fd).map(|_| ())
}

/// A connection to whoever listens at a path; it does not wait for a listener that is busy.
#[cfg(feature = "actors")]
pub(crate) fn connect(path: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = rustix::net::SocketAddrUnix::new(path)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
    Ok(socket)
}

/// Whether the process at the other end of a Unix socket runs under our user.
///
/// # References
///
/// - [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SO_PEERCRED`
pub(crate) fn peer_is_ours(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_peercred(fd).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// Whether a stream socket is what stands at this number.
pub(crate) fn is_stream_socket(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_type(fd) == Ok(SocketType::STREAM)
}

/// Moves a channel out of the way of descriptors that other code opens and closes by number.
pub(crate) fn raise(fd: OwnedFd) -> OwnedFd {
    // Where the limit on descriptors is lower than the floor the number stays as it is.
    rustix::io::fcntl_dupfd_cloexec(&fd, CHANNEL_FLOOR).unwrap_or(fd)
}

/// Takes over standard input as a descriptor of its own and puts the null device in its place.
pub(crate) fn take_stdin() -> rustix::io::Result<OwnedFd> {
    let stdin = std::io::stdin();
    let taken = rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3)?;
    let null = std::fs::File::open("/dev/null")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(taken)
}

/// Closes every descriptor above 2 but the one to keep, which gets number 3.
///
/// # References
///
/// - [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html)
pub(crate) fn close_all_but(keep: OwnedFd) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::IntoRawFd;
    const KEPT: RawFd = 3;
    let keep = keep.into_raw_fd();
    if keep != KEPT {
        // SAFETY: dup3 demands two open-or-free numbers; `keep` was just owned by us and is open, and whatever
        // stood at 3 is given up on purpose: this runs in a process whose every descriptor is to be closed.
        if unsafe { libc::dup3(keep, KEPT, libc::O_CLOEXEC) } < 0 {
            return Err(last_errno());
        }
    }
    // SAFETY: close_range demands only plain numbers. The descriptors above 3 were inherited, which is why they
    // are closed, or opened by a start-up function of the program that ran before us; safe code that owns one of
    // those would meet EBADF, and docs/FORK-SAFETY.md says so.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, KEPT + 1, libc::c_uint::MAX, 0) };
    if closed < 0 {
        return Err(last_errno());
    }
    // SAFETY: from_raw_fd demands an open descriptor nobody else owns; 3 was made by the dup3 above, or is
    // the number `keep` gave up ownership of.
    Ok(unsafe { OwnedFd::from_raw_fd(KEPT) })
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
