//! Descriptors: pipes, passing descriptors to other processes, and closing those that a process must not inherit.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::io::Errno;

use super::CallError;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::faults;
use super::faults::Call;

/// Lowest number that a worker's channel gets, if possible.
///
/// The kernel hands out the lowest free number, so code that closes a foreign descriptor and then opens files does not
/// get the channel's number. 60 still lies in the table of 64 that every process starts with, so a fork does not have
/// to copy a larger one.
const CHANNEL_FLOOR: RawFd = 60;

/// Most descriptors that one message carries: six for each of sixteen workers. The kernel's limit is 253.
const MAX_PASSED: usize = 6 * 16;

/// Most bytes that one read together with descriptors requests.
const MAX_RECEIVED: usize = 256 << 10;

/// Creates a close-on-exec pipe and returns the reading end, which does not block, and the writing end, which does.
///
/// # References
///
/// - [pipe2(2)](https://man7.org/linux/man-pages/man2/pipe2.2.html)
pub(crate) fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = blocking_pipe()?;
    set_nonblocking(reader.as_fd())?;
    Ok((reader, writer))
}

/// Creates a close-on-exec pipe; returns the reading end and the writing end.
pub(crate) fn blocking_pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    faults::point(Call::Pipe)?;
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
}

/// Opens the same pipe again, non-blocking and for both directions.
///
/// # References
///
/// - [fifo(7)](https://man7.org/linux/man-pages/man7/fifo.7.html), opening for reading and writing
#[cfg(any(feature = "actors", test))]
pub(crate) fn reopen_read_write(pipe: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;

    use rustix::fs::{Mode, OFlags};
    faults::point(Call::Open)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/self/fd/{}", pipe.as_raw_fd()), flags, Mode::empty())
}

/// Writes to a pipe; returns how many bytes.
pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Write)?;
        rustix::io::write(fd, bytes)
    })
}

/// Reads from a pipe into the spare capacity of `bytes`; returns how many bytes, 0 at the end.
pub(crate) fn read(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Read)?;
        rustix::io::read(fd, rustix::buffer::spare_capacity(bytes))
    })
}

/// Reads what a pipe holds, at most 64 bytes, and forgets it; returns how many bytes, 0 at the end.
pub(crate) fn read_and_discard(fd: BorrowedFd<'_>) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Read)?;
        rustix::io::read(fd, &mut [0; 64])
    })
}

/// Bytes that a pipe takes at once if it has room at all (`PIPE_BUF`).
const WRITTEN_AT_ONCE: usize = 4096;

/// Whether none of these descriptors would make a short write wait. One that is closed, or whose reader is gone, makes
/// it fail, which is no wait.
///
/// # References
///
/// - [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html), `POLLOUT`
pub(crate) fn has_room<const COUNT: usize>(fds: [BorrowedFd<'_>; COUNT]) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut entries = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT));
    match rustix::io::retry_on_intr(|| poll(&mut entries, Some(&now))) {
        Ok(_) => entries.iter().all(|entry| !entry.revents().is_empty()),
        // A system that does not say is not waited for.
        Err(_) => false,
    }
}

/// Whether a descriptor can be read now, or has an error or an end to report.
///
/// # References
///
/// - [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html), `POLLIN`
#[cfg(feature = "actors")]
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut entry = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut entry, Some(&now))).is_ok_and(|count| count > 0)
}

/// Writes bytes, as far as that needs no wait; returns whether it wrote all of them.
///
/// # References
///
/// - [pwritev2(2)](https://man7.org/linux/man-pages/man2/pwritev2.2.html), `RWF_NOWAIT`
pub(crate) fn write_without_waiting(fd: BorrowedFd<'_>, bytes: &[u8]) -> bool {
    use rustix::io::{ReadWriteFlags, pwritev2};
    bytes.chunks(WRITTEN_AT_ONCE).all(|mut chunk| {
        while !chunk.is_empty() {
            if !has_room([fd]) {
                return false;
            }
            // Another process may have filled the pipe since. Where the kernel cannot be told not to wait, the room
            // that was there has to suffice.
            let at_the_end = u64::MAX;
            let written = match pwritev2(fd, &[IoSlice::new(chunk)], at_the_end, ReadWriteFlags::NOWAIT) {
                Err(Errno::AGAIN) => return false,
                Err(_) => write(fd, chunk),
                written => written,
            };
            match written {
                Ok(count @ 1..) => chunk = &chunk[count.min(chunk.len())..],
                Ok(0) | Err(_) => return false,
            }
        }
        true
    })
}

/// Makes `stdin` the standard input of this process.
pub(crate) fn replace_stdin(stdin: OwnedFd) -> rustix::io::Result<()> {
    replace_standard(|| rustix::stdio::dup2_stdin(&stdin))
}

/// Makes these two the standard output and standard error of this process.
pub(crate) fn replace_stdout_and_stderr(stdout: OwnedFd, stderr: OwnedFd) -> rustix::io::Result<()> {
    replace_standard(|| rustix::stdio::dup2_stdout(&stdout))?;
    replace_standard(|| rustix::stdio::dup2_stderr(&stderr))
}

/// Repeats a dup2 that was interrupted, or that met an open in another thread.
///
/// # References
///
/// - [dup2(2)](https://man7.org/linux/man-pages/man2/dup2.2.html), `EBUSY`
fn replace_standard(dup2: impl Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    loop {
        match faults::point(Call::Dup2).and_then(|()| dup2()) {
            Err(Errno::INTR | Errno::BUSY) => std::thread::yield_now(),
            result => return result,
        }
    }
}

/// Opens the null device in the place of each standard descriptor that is closed. Otherwise the next descriptor that is
/// opened would be one, and be replaced or written to as such.
///
/// # Errors
///
/// The system's error; those that were opened stay open.
pub(crate) fn open_missing_standard() -> rustix::io::Result<()> {
    for number in 0..=2 {
        if !is_open(number) {
            // The lowest free number is taken, which is this one.
            let null = std::fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
            let null = null.or_else(|_| open_null())?;
            // As other standard descriptors it is there in programs that this one executes.
            rustix::io::fcntl_setfd(&null, rustix::io::FdFlags::empty())?;
            let _ = std::os::fd::IntoRawFd::into_raw_fd(null);
        }
    }
    Ok(())
}

/// Makes reads and writes non-blocking.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::io::ioctl_fionbio(fd, true)
}

/// Makes reads and writes blocking.
pub(crate) fn set_blocking(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::io::ioctl_fionbio(fd, false)
}

/// Receives into the spare capacity of `bytes`; returns how many bytes, 0 at the end of the stream.
pub(crate) fn receive(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Recv)?;
        rustix::net::recv(fd, rustix::buffer::spare_capacity(bytes), RecvFlags::empty()).map(|(read, _)| read)
    })
}

/// Receives into `bytes`; returns how many bytes, 0 at the end of the stream.
#[cfg(feature = "tls")]
pub(crate) fn receive_into(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Recv)?;
        rustix::net::recv(fd, &mut *bytes, RecvFlags::empty()).map(|(read, _)| read)
    })
}

/// Sends as many bytes as fit and returns how many. Fails on a descriptor that is not a socket any more.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Send)?;
        rustix::net::send(fd, bytes, SendFlags::NOSIGNAL)
    })
}

/// Sends as many bytes as fit, with descriptors attached to the first byte; returns how many bytes.
pub(crate) fn send_with_descriptors(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    passed: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PASSED))];
    rustix::io::retry_on_intr(|| {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(passed)) {
            return Err(Errno::NOBUFS);
        }
        faults::point(Call::Sendmsg)?;
        rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })
}

/// Descriptors that arrived with one message; fewer than were sent if this process has reached its limit.
pub(crate) type PassedDescriptors = Vec<OwnedFd>;

/// Receives into the spare capacity of `bytes` and adds descriptors that arrive with them to `passed`; returns how many
/// bytes, 0 at the end of the stream.
///
/// One call receives descriptors of at most one message, with its first byte.
///
/// # References
///
/// - [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SCM_RIGHTS`
pub(crate) fn receive_with_descriptors(
    fd: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    passed: &mut impl Extend<PassedDescriptors>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PASSED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let start = bytes.len();
    // A socket does not return more at once, so more need not be zeroed.
    bytes.resize(bytes.capacity().min(start + MAX_RECEIVED), 0);
    let received = rustix::io::retry_on_intr(|| {
        faults::point(Call::Recvmsg)?;
        let mut buffers = [IoSliceMut::new(&mut bytes[start..])];
        rustix::net::recvmsg(fd, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let read = received.as_ref().map_or(0, |message| message.bytes);
    bytes.truncate(start + read);
    let mut descriptors = PassedDescriptors::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let cut = received.as_ref().is_ok_and(|message| message.flags.contains(ReturnFlags::CTRUNC));
    passed.extend((cut || !descriptors.is_empty()).then_some(descriptors));
    received.map(|_| read)
}

/// Waits until a write to the descriptor would not block.
pub(crate) fn wait_until_writable(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    use rustix::event::{PollFd, PollFlags};
    let mut entries = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Poll)?;
        rustix::event::poll(&mut entries, None)
    })?;
    Ok(())
}

/// Waits until something can be read, or a process whose pidfd this is has ended; `false` after this time.
pub(crate) fn wait_until_readable_for(fd: BorrowedFd<'_>, limit: Duration) -> rustix::io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut entries = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
    let ready = rustix::io::retry_on_intr(|| {
        faults::point(Call::Poll)?;
        rustix::event::poll(&mut entries, Some(&limit))
    })?;
    Ok(ready > 0)
}

/// Returns another descriptor for the same thing.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    faults::point(Call::Dup)?;
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

/// Fails if the descriptor was closed, by code that does not own it.
pub(crate) fn check_open(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::io::fcntl_getfd(fd).map(|_| ())
}

/// Takes over a descriptor that the parent process passed by its number; `None` if it is not open.
pub(crate) fn take_inherited(number: RawFd) -> Option<OwnedFd> {
    if number <= 2 {
        return None;
    }
    // SAFETY: borrow_raw demands a number that is open as long as it is borrowed, and not -1. It is borrowed for the
    // next line alone, which finds out whether it is open, in a process of one thread.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    check_open(inherited).ok()?;
    // SAFETY: from_raw_fd demands an open descriptor with no other owner. It is open, it is above the standard ones,
    // and a service manager named it for this process to take, which it does once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Moves a channel to a high number, out of reach of code that closes and opens descriptors by number.
pub(crate) fn raise_number(fd: OwnedFd) -> OwnedFd {
    // If the limit on descriptors is below the floor, the number stays as it is.
    let raised = faults::point(Call::Dup).and_then(|()| rustix::io::fcntl_dupfd_cloexec(&fd, CHANNEL_FLOOR));
    raised.unwrap_or(fd)
}

/// Takes over standard input as a separate descriptor and puts the null device in its place.
///
/// # Errors
///
/// The call that was refused; standard input is what it was.
pub(crate) fn take_stdin() -> Result<OwnedFd, CallError> {
    let stdin = std::io::stdin();
    faults::point(Call::Dup).map_err(CallError::of("fcntl(F_DUPFD_CLOEXEC)"))?;
    let taken =
        rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3).map_err(CallError::of("fcntl(F_DUPFD_CLOEXEC)"))?;
    let null = open_null().map_err(CallError::of("pipe2, in place of /dev/null"))?;
    replace_stdin(null).map_err(CallError::of("dup2"))?;
    Ok(taken)
}

/// Opens the null device for reading. Without it, returns a pipe without a writer: reading finds the end as
/// well.
pub(crate) fn open_null() -> rustix::io::Result<OwnedFd> {
    faults::point(Call::Open)?;
    let null = std::fs::File::open("/dev/null");
    null.map(OwnedFd::from).or_else(|_| blocking_pipe().map(|(reader, _)| reader))
}

/// Closes every descriptor above 2 except `keep`, which is moved to number 3. Where the kernel has no `close_range`, or a
/// filter refuses it, they are closed one by one.
///
/// # References
///
/// - [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html)
pub(crate) fn close_all_but(keep: OwnedFd) -> Result<OwnedFd, CallError> {
    use std::os::fd::IntoRawFd;
    const KEPT: RawFd = 3;
    let keep = keep.into_raw_fd();
    if keep != KEPT {
        replace_standard(|| {
            // SAFETY: dup3 demands two numbers, open or free; `keep` was just owned by us and is open, and whatever is
            // open at 3 is closed on purpose: this runs in a process that closes all its descriptors.
            match unsafe { libc::dup3(keep, KEPT, libc::O_CLOEXEC) } {
                -1 => Err(last_errno()),
                _ => Ok(()),
            }
        })
        .map_err(CallError::of("dup3"))?;
    }
    if close_from(KEPT + 1).is_err() {
        // Without memory for close_range, or without the call itself, they are closed one by one.
        let others = OpenDescriptors::list().0.into_iter().filter(|&number| number > KEPT);
        OpenDescriptors(others.collect()).close_in_child();
    }
    // SAFETY: from_raw_fd demands an open descriptor with no other owner; 3 was made by the dup3 above, or is the
    // number whose ownership `keep` has given up.
    Ok(unsafe { OwnedFd::from_raw_fd(KEPT) })
}

/// Most numbers that are tried to find the open descriptors (2²⁰, the limit that the kernel has by default). It takes
/// a tenth of a second.
const MAX_TRIED: RawFd = 1 << 20;

/// Whether this number is an open descriptor.
fn is_open(number: RawFd) -> bool {
    // SAFETY: fcntl with F_GETFD demands a plain number; for one that is not open it fails.
    unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
}

fn close_from(first: RawFd) -> rustix::io::Result<()> {
    faults::point(Call::CloseRange)?;
    // SAFETY: close_range demands only plain numbers. The descriptors above 3 were inherited, which is why they
    // are closed, or opened by a start-up function of the program that ran before us; safe code that owns one of
    // those gets EBADF, and docs/FORK-SAFETY.md says so.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Descriptors that a process may have if it keeps some that it could do without (256).
const PLENTY: u64 = 256;

/// Whether this process may have so many descriptors that it can keep some that it could do without.
pub(crate) fn are_plenty() -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.is_none_or(|limit| limit >= PLENTY)
}

/// Numbers of the descriptors above the standard ones that were open in this process at one moment.
#[derive(Default)]
pub(crate) struct OpenDescriptors(Vec<RawFd>);

impl OpenDescriptors {
    /// Lists the descriptors that are open now. Without `/proc` it tries every number up to the limit.
    pub(crate) fn list() -> Self {
        let entries = faults::point(Call::Open).ok().and_then(|()| std::fs::read_dir("/proc/self/fd").ok());
        let entries = entries.into_iter().flatten().flatten();
        let mut numbers: Vec<RawFd> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        if numbers.is_empty() {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
            let limit = limit.and_then(|limit| RawFd::try_from(limit).ok()).unwrap_or(RawFd::MAX);
            numbers = (0..limit.min(MAX_TRIED)).collect();
        }
        // The descriptor of the directory is among them, and is closed by now.
        OpenDescriptors(numbers.into_iter().filter(|&number| number > 2 && is_open(number)).collect())
    }

    /// Closes them in a forked process, which uses none of them.
    pub(crate) fn close_in_child(self) {
        for number in self.0 {
            // SAFETY: close demands a plain number; for one that is not open any more it fails. The owner is code of
            // the process that this one was forked from, and docs/FORK-SAFETY.md says that a worker does not have those
            // descriptors.
            unsafe { libc::close(number) };
        }
    }
}

/// The error of the last failed call of the C library.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
