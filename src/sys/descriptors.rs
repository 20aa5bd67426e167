//! Descriptors: socket pairs, passing them on, and closing what a process was not meant to inherit.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Lowest number a worker's channel may get.
///
/// The kernel hands out the lowest free number, so code that closes what it does not own and then opens files
/// does not get the channel's number. 60 still lies in the table of 64 that every process starts with, so a
/// fork copies no larger one.
const CHANNEL_FLOOR: RawFd = 60;

/// Most descriptors one message of the control channel carries: five for each of sixteen workers. The kernel's limit is 253.
const MOST_PASSED: usize = 5 * 16;

/// Most bytes that are read at once together with descriptors.
const MOST_RECEIVED: usize = 256 << 10;

/// A close-on-exec pipe, the reading end first, which returns instead of waiting.
///
/// # References
///
/// - [pipe2(2)](https://man7.org/linux/man-pages/man2/pipe2.2.html)
pub(crate) fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = blocking_pipe()?;
    set_nonblocking(ours.as_fd())?;
    Ok((ours, theirs))
}

/// A close-on-exec pipe, the reading end first.
pub(crate) fn blocking_pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
}

/// The same pipe once more, open for both directions and returning instead of waiting.
///
/// # References
///
/// - [fifo(7)](https://man7.org/linux/man-pages/man7/fifo.7.html), what opening one for both does
#[cfg(any(feature = "actors", test))]
pub(crate) fn reopen_both_ways(pipe: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;

    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/self/fd/{}", pipe.as_raw_fd()), flags, Mode::empty())
}

/// Writes to a pipe.
pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes))
}

/// Reads from a pipe into the spare capacity of `bytes`; 0 is the end.
pub(crate) fn read(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::read(fd, rustix::buffer::spare_capacity(bytes)))
}

/// Makes this this process's standard input.
pub(crate) fn replace_input(stdin: OwnedFd) -> rustix::io::Result<()> {
    rustix::stdio::dup2_stdin(stdin)
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

/// Makes reads and writes of this end wait.
pub(crate) fn set_blocking(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::io::ioctl_fionbio(fd, false)
}

/// Reads into the spare capacity of `bytes`; 0 is the end of the stream.
pub(crate) fn receive(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        rustix::net::recv(fd, rustix::buffer::spare_capacity(bytes), RecvFlags::empty()).map(|(read, _)| read)
    })
}

/// Reads what fits into `bytes`; 0 is the end of the stream.
#[cfg(feature = "tls")]
pub(crate) fn receive_into(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::net::recv(fd, &mut *bytes, RecvFlags::empty()).map(|(read, _)| read))
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

/// Descriptors that came along with one message: fewer than were sent where this process may have no more.
pub(crate) type Bundle = Vec<OwnedFd>;

/// Reads into the spare capacity of `bytes` and keeps what descriptors come along; 0 is the end of the stream.
///
/// One read brings at most one bundle, with the first byte of its message.
///
/// # References
///
/// - [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SCM_RIGHTS`
pub(crate) fn receive_with(
    fd: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    passed: &mut impl Extend<Bundle>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_PASSED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let start = bytes.len();
    // More than a socket brings at once would be made zeroes in vain.
    bytes.resize(bytes.capacity().min(start + MOST_RECEIVED), 0);
    let received = rustix::io::retry_on_intr(|| {
        let mut room = [IoSliceMut::new(&mut bytes[start..])];
        rustix::net::recvmsg(fd, &mut room, &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let read = received.as_ref().map_or(0, |message| message.bytes);
    bytes.truncate(start + read);
    let mut bundle = Bundle::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            bundle.extend(descriptors);
        }
    }
    let cut = received.as_ref().is_ok_and(|message| message.flags.contains(ReturnFlags::CTRUNC));
    passed.extend((cut || !bundle.is_empty()).then_some(bundle));
    received.map(|_| read)
}

/// Fails where the descriptor was closed by code that does not own it.
pub(crate) fn check_open(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::io::fcntl_getfd(fd).map(|_| ())
}

/// Takes over a descriptor that whoever started this process has passed by its number; `None` if it is not open.
pub(crate) fn take_inherited(number: RawFd) -> Option<OwnedFd> {
    if number <= 2 {
        return None;
    }
    // SAFETY: borrow_raw demands a number that is open as long as it is borrowed, and -1 is none. It is borrowed for the
    // next line alone, which finds out whether it is open, in a process of one thread.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    check_open(inherited).ok()?;
    // SAFETY: from_raw_fd demands an open descriptor that nobody else owns. It is open, and it is above the standard
    // ones and named by a service manager for this process to take, which it does once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
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
    replace_input(null()?)?;
    Ok(taken)
}

/// The null device, to be read from.
pub(crate) fn null() -> rustix::io::Result<OwnedFd> {
    let null = std::fs::File::open("/dev/null");
    null.map(OwnedFd::from).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
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

/// Descriptors above the standard ones that are open in this process now.
#[derive(Default)]
pub(crate) struct OpenBefore(Vec<RawFd>);

impl OpenBefore {
    pub(crate) fn note() -> Self {
        let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let numbers: Vec<RawFd> = numbers.filter(|&number| number > 2).collect();
        // The one by which they were read is among them, and is closed by now.
        let is_open = |number: &RawFd| std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok();
        OpenBefore(numbers.into_iter().filter(is_open).collect())
    }

    /// Closes them in a process that was forked and uses none of them.
    pub(crate) fn close_in_child(self) {
        for number in self.0 {
            // SAFETY: close demands a plain number; one that is not open any more is refused. Whatever owns it was made
            // by code that runs in the process this one was forked from, and docs/FORK-SAFETY.md says that a worker
            // has none of it.
            unsafe { libc::close(number) };
        }
    }
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
