//! Signals: what Rust's start-up would have set, deaths of children as a descriptor, and a watch for hang-ups.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::descriptors::last_errno;

/// The highest of the classic signals; those above are for programs to agree upon.
const LAST_CLASSIC: i32 = 31;

/// Gives every classic signal its default effect, whatever the application ignores (under `nohup`, say), but
/// ignores SIGPIPE, as Rust's own start-up does ahead of `main`, which a server never reaches.
pub(crate) fn start_afresh() {
    for signal in 1..=LAST_CLASSIC {
        let disposition = if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: signal demands a valid signal and disposition; neither of the two runs code of ours. SIGKILL and
        // SIGSTOP are refused, which changes nothing.
        unsafe { libc::signal(signal, disposition) };
    }
}

/// What a process is asked for by a signal, the more urgent the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Request {
    /// SIGTERM: finish what there is and end.
    Drain,
    /// SIGINT: end.
    Stop,
}

/// Deaths of children, and requests to end if that is asked for, readable as a descriptor.
pub(crate) struct ChildDeaths {
    notes: OwnedFd,
    and_ends: bool,
}

impl ChildDeaths {
    /// Blocks SIGCHLD for this thread and everything it forks, and makes it readable instead; `and_ends`: and so are the
    /// requests to end, SIGTERM and SIGINT.
    ///
    /// # References
    ///
    /// - [signalfd(2)](https://man7.org/linux/man-pages/man2/signalfd.2.html)
    pub(crate) fn watch(and_ends: bool) -> rustix::io::Result<Self> {
        // A start-up function or a preload that ignores deaths of children would leave nobody to be reaped.
        // SAFETY: signal demands a valid signal and disposition; SIG_DFL runs no code of ours.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let set = set(and_ends);
        mask(libc::SIG_BLOCK, &set)?;
        // SAFETY: signalfd demands a valid set; `set` lives on this frame and was filled by sigemptyset.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: from_raw_fd demands an open descriptor nobody else owns; signalfd just made it.
        Ok(ChildDeaths { notes: unsafe { OwnedFd::from_raw_fd(fd) }, and_ends })
    }

    /// Takes the notes; the deaths themselves are asked of the kernel, since notes of the same kind merge. What this
    /// process was asked to do, if it was.
    pub(crate) fn acknowledge(&self) -> Option<Request> {
        let mut note = [0_u8; size_of::<libc::signalfd_siginfo>()];
        let mut request = None;
        // An empty read only says that another pass took the note already.
        while rustix::io::read(&self.notes, &mut note).is_ok() {
            // The number of the signal is the first field, of 32 bits.
            let signal = i32::from_ne_bytes([note[0], note[1], note[2], note[3]]);
            request = request.max(match signal {
                libc::SIGINT => Some(Request::Stop),
                libc::SIGTERM => Some(Request::Drain),
                _ => None,
            });
        }
        request
    }

    /// Undoes the blocking in a worker, whose own children are its own business.
    pub(crate) fn forget_in_child(self) {
        let _ = mask(libc::SIG_UNBLOCK, &set(self.and_ends));
    }
}

impl AsFd for ChildDeaths {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notes.as_fd()
    }
}

fn set(and_ends: bool) -> libc::sigset_t {
    // SAFETY: zeroed demands that zero bytes are a valid sigset_t; it is an array of integers.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: sigemptyset demands a valid set; it is on this frame.
    unsafe { libc::sigemptyset(&mut set) };
    let ends: &[i32] = if and_ends { &[libc::SIGTERM, libc::SIGINT] } else { &[] };
    for &signal in [libc::SIGCHLD].iter().chain(ends) {
        // SAFETY: sigaddset demands an initialised set and a valid signal; sigemptyset initialised it.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

fn mask(how: i32, set: &libc::sigset_t) -> rustix::io::Result<()> {
    // SAFETY: sigprocmask demands a valid set and lets the old one be null.
    match unsafe { libc::sigprocmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

static WATCHED: AtomicI32 = AtomicI32::new(-1);

/// While this lives, the process ends as soon as the peer of a socket is gone, whatever code it runs.
///
/// For the time in which a preload runs and nobody polls the control channel: the application may die then,
/// too, and its server must not outlive it (S5). The socket sends SIGIO when anything happens on it, and the
/// handler ends the process if what happened is a hang-up.
pub(crate) struct HangUpWatch(());

impl HangUpWatch {
    /// Starts to watch.
    ///
    /// # References
    ///
    /// - [F_SETOWN(2const)](https://man7.org/linux/man-pages/man2/F_SETOWN.2const.html), `O_ASYNC`
    pub(crate) fn start(socket: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        WATCHED.store(socket.as_raw_fd(), Ordering::Relaxed);
        handle_sigio(on_sigio as *const () as libc::sighandler_t)?;
        own(socket.as_raw_fd())?;
        set_async(socket.as_raw_fd(), true)?;
        // The peer may have gone before the first signal could be sent.
        end_if_hung_up();
        Ok(HangUpWatch(()))
    }
}

impl Drop for HangUpWatch {
    fn drop(&mut self) {
        // Failure to stop leaves a handler that still does the right thing: it ends an orphaned server.
        let _ = set_async(WATCHED.load(Ordering::Relaxed), false);
        let _ = handle_sigio(libc::SIG_DFL);
    }
}

extern "C" fn on_sigio(_: libc::c_int) {
    end_if_hung_up();
}

/// Async-signal-safe: one poll and `_exit`.
fn end_if_hung_up() {
    let mut entry = libc::pollfd { fd: WATCHED.load(Ordering::Relaxed), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: poll demands a valid array of the given length; one entry, on this frame.
    let found = unsafe { libc::poll(&mut entry, 1, 0) };
    if found == 1 && entry.revents & (libc::POLLHUP | libc::POLLRDHUP) != 0 {
        super::process::exit_now(0);
    }
}

fn handle_sigio(disposition: libc::sighandler_t) -> rustix::io::Result<()> {
    // SAFETY: zeroed demands that zero bytes are a valid sigaction; it is integers, a set and null pointers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = disposition;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: sigaction demands a valid action and lets the old one be null; the handler it names only calls
    // async-signal-safe functions.
    match unsafe { libc::sigaction(libc::SIGIO, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

fn own(fd: RawFd) -> rustix::io::Result<()> {
    // SAFETY: F_SETOWN demands a pid as its argument; getpid has no precondition.
    match unsafe { libc::fcntl(fd, libc::F_SETOWN, libc::getpid()) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

fn set_async(fd: RawFd, on: bool) -> rustix::io::Result<()> {
    // SAFETY: F_GETFL demands nothing but a number; a closed one is answered with EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(last_errno());
    }
    let wanted = if on { flags | libc::O_ASYNC } else { flags & !libc::O_ASYNC };
    // SAFETY: F_SETFL demands status flags, which `wanted` is: the ones just read, and O_ASYNC.
    match unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

/// What became of a wait.
pub(crate) struct SignalsUnblocked {
    /// Of each descriptor, in their order, whether there is something to read, or its end.
    pub(crate) readable: Vec<bool>,
    pub(crate) deaths: bool,
}

/// Waits until one of these descriptors or a death wants attention, or for so long. A descriptor comes with whether there
/// is something to be written to it.
pub(crate) fn wait(
    watched: &[(BorrowedFd<'_>, bool)],
    deaths: &ChildDeaths,
    at_most: Option<Duration>,
) -> rustix::io::Result<SignalsUnblocked> {
    // More than what fits is for ever; a signal makes the wait begin anew, which makes it longer and harms nothing.
    let timeout = at_most.and_then(|wait| Timespec::try_from(wait).ok());
    let mut entries = vec![PollFd::from_borrowed_fd(deaths.as_fd(), PollFlags::IN)];
    entries.extend(watched.iter().map(|&(descriptor, has_unsent)| {
        let out = if has_unsent { PollFlags::OUT } else { PollFlags::empty() };
        PollFd::from_borrowed_fd(descriptor, PollFlags::IN | out)
    }));
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut entries, timeout.as_ref()))?;
    let readable =
        |entry: &PollFd<'_>| entry.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
    Ok(SignalsUnblocked {
        deaths: entries[0].revents().contains(PollFlags::IN),
        readable: entries[1..].iter().map(readable).collect(),
    })
}
