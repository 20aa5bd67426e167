//! Signals: dispositions as Rust's start-up sets them, SIGCHLD as a descriptor, and exiting when a peer hangs up.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::descriptors::last_errno;
use super::faults;
use super::faults::Call;

/// The highest standard signal; those above are real-time signals, whose use is up to programs.
const LAST_STANDARD_SIGNAL: i32 = 31;

/// Gives every standard signal its default disposition, even those that the application ignores (under `nohup`, say),
/// except SIGPIPE: that is ignored, as Rust's own start-up does before `main`, which a server never reaches.
pub(crate) fn reset_dispositions() {
    for signal in 1..=LAST_STANDARD_SIGNAL {
        let disposition = if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: signal demands a valid signal and disposition; neither of the two runs code of ours. SIGKILL and
        // SIGSTOP are refused, which changes nothing.
        unsafe { libc::signal(signal, disposition) };
    }
}

/// A request to stop, sent as a signal. The more urgent one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopRequest {
    /// SIGTERM: finish the running work, then exit.
    Drain,
    /// SIGINT: exit.
    Stop,
}

/// SIGCHLD as a readable descriptor, and the signals that request a stop as well if asked for.
pub(crate) struct ChildSignals {
    signalfd: OwnedFd,
    with_stop_requests: bool,
}

impl ChildSignals {
    /// Blocks SIGCHLD for this thread and everything it forks, and makes it readable instead. With `with_stop_requests`
    /// the same is done to SIGTERM and SIGINT.
    ///
    /// # References
    ///
    /// - [signalfd(2)](https://man7.org/linux/man-pages/man2/signalfd.2.html)
    pub(crate) fn watch(with_stop_requests: bool) -> rustix::io::Result<Self> {
        // If a start-up function or a preload ignored SIGCHLD, the kernel would reap all children itself.
        // SAFETY: signal demands a valid signal and disposition; SIG_DFL runs no code of ours.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let set = signal_set(with_stop_requests);
        mask(libc::SIG_BLOCK, &set)?;
        faults::point(Call::Signalfd)?;
        // SAFETY: signalfd demands a valid set; `set` lives on this frame and was filled by sigemptyset.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: from_raw_fd demands an open descriptor with no other owner; signalfd just made it.
        Ok(ChildSignals { signalfd: unsafe { OwnedFd::from_raw_fd(fd) }, with_stop_requests })
    }

    /// Reads all pending signals, and returns the most urgent stop request among them. The exits themselves are queried
    /// with waitid, since signals of the same kind merge.
    pub(crate) fn take_stop_request(&self) -> Option<StopRequest> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        let mut request = None;
        // An empty read only means that another pass has read the signals already.
        while rustix::io::read(&self.signalfd, &mut info).is_ok() {
            // The first field is the signal's number, of 32 bits.
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            request = request.max(match signal {
                libc::SIGINT => Some(StopRequest::Stop),
                libc::SIGTERM => Some(StopRequest::Drain),
                _ => None,
            });
        }
        request
    }

    /// Unblocks the signals: in a worker, whose own children the server has no part in, or for a server that does not
    /// start.
    pub(crate) fn unblock(self) {
        let _ = mask(libc::SIG_UNBLOCK, &signal_set(self.with_stop_requests));
    }
}

impl AsFd for ChildSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signalfd.as_fd()
    }
}

fn signal_set(with_stop_requests: bool) -> libc::sigset_t {
    // SAFETY: zeroed demands that zero bytes are a valid sigset_t; it is an array of integers.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: sigemptyset demands a valid set; it is on this frame.
    unsafe { libc::sigemptyset(&mut set) };
    let stop: &[i32] = if with_stop_requests { &[libc::SIGTERM, libc::SIGINT] } else { &[] };
    for &signal in [libc::SIGCHLD].iter().chain(stop) {
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

/// The socket that a [`HangUpWatch`] watches; -1 if none.
static WATCHED: AtomicI32 = AtomicI32::new(-1);

/// The parent's process id while a [`HangUpWatch`] watches it; -1 if none.
static PARENT: AtomicI32 = AtomicI32::new(-1);

/// While this exists, the process exits as soon as the peer of a socket is gone, or its parent, whatever code it runs.
///
/// It covers the time of the preload, when the control channel is not polled: the application may die then as well,
/// and its server must not outlive it (S5). The socket sends SIGIO when anything happens on it, and the handler exits
/// the process if that was a hang-up. Another process may hold the socket's other end, so the kernel sends SIGIO when the
/// parent ends as well. It does the same for each thread of the parent that was the last one to be this process's
/// parent, so the handler looks at which process the parent is.
pub(crate) struct HangUpWatch(());

impl HangUpWatch {
    /// Starts watching `socket` and the parent.
    ///
    /// # References
    ///
    /// - [F_SETOWN(2const)](https://man7.org/linux/man-pages/man2/F_SETOWN.2const.html), `O_ASYNC`
    /// - [PR_SET_PDEATHSIG(2const)](https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html)
    pub(crate) fn start(socket: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        WATCHED.store(socket.as_raw_fd(), Ordering::Relaxed);
        PARENT.store(parent(), Ordering::Relaxed);
        handle_sigio(on_sigio as *const () as libc::sighandler_t)?;
        // If this is refused, the socket's other end is all that is watched.
        let _ = send_on_parent_death(libc::SIGIO);
        set_owner(socket.as_raw_fd())?;
        set_async(socket.as_raw_fd(), true)?;
        // The peer may have hung up before signals were enabled.
        exit_if_hung_up();
        Ok(HangUpWatch(()))
    }
}

impl Drop for HangUpWatch {
    fn drop(&mut self) {
        // If this fails, the handler stays and still does the right thing: it exits an orphaned server.
        let _ = set_async(WATCHED.load(Ordering::Relaxed), false);
        let _ = send_on_parent_death(0);
        let _ = handle_sigio(libc::SIG_DFL);
    }
}

extern "C" fn on_sigio(_: libc::c_int) {
    exit_if_hung_up();
}

/// Exits if the peer or the parent is gone. Async-signal-safe: getppid, one poll and `_exit`.
fn exit_if_hung_up() {
    if parent() != PARENT.load(Ordering::Relaxed) {
        super::process::exit_now(0);
    }
    let mut entry = libc::pollfd { fd: WATCHED.load(Ordering::Relaxed), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: poll demands a valid array of the given length; one entry, on this frame.
    let found = unsafe { libc::poll(&mut entry, 1, 0) };
    if found == 1 && entry.revents & (libc::POLLHUP | libc::POLLRDHUP) != 0 {
        super::process::exit_now(0);
    }
}

fn parent() -> i32 {
    // SAFETY: getppid demands nothing.
    unsafe { libc::getppid() }
}

/// Has the kernel send this signal when the parent ends; 0 for none.
fn send_on_parent_death(signal: libc::c_int) -> rustix::io::Result<()> {
    faults::point(Call::Prctl)?;
    // SAFETY: prctl with PR_SET_PDEATHSIG demands a valid signal or 0, which the callers pass.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } {
        0 => Ok(()),
        _ => Err(last_errno()),
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

/// Directs SIGIO for `fd` to this process.
fn set_owner(fd: RawFd) -> rustix::io::Result<()> {
    faults::point(Call::Fcntl)?;
    // SAFETY: F_SETOWN demands a pid as its argument; getpid has no precondition.
    match unsafe { libc::fcntl(fd, libc::F_SETOWN, libc::getpid()) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

fn set_async(fd: RawFd, on: bool) -> rustix::io::Result<()> {
    // SAFETY: F_GETFL demands nothing but a number; for a closed one it fails with EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(last_errno());
    }
    let wanted = if on { flags | libc::O_ASYNC } else { flags & !libc::O_ASYNC };
    faults::point(Call::Fcntl)?;
    // SAFETY: F_SETFL demands status flags, which `wanted` is: the ones just read, and O_ASYNC.
    match unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

/// What is ready after [`poll`].
pub(crate) struct Readiness {
    /// For each descriptor, in the given order, whether bytes or an end-of-file can be read.
    pub(crate) readable: Vec<bool>,
    /// Whether signals of [`ChildSignals`] are pending.
    pub(crate) child_signals: bool,
}

/// Waits until a descriptor or `child_signals` is ready, for at most `at_most`. The flag of each descriptor says
/// whether there are bytes to be written to it.
pub(crate) fn poll(
    watched: &[(BorrowedFd<'_>, bool)],
    child_signals: &ChildSignals,
    at_most: Option<Duration>,
) -> rustix::io::Result<Readiness> {
    // A time that does not fit means no limit. A signal restarts the wait, which makes it longer and does no harm.
    let timeout = at_most.and_then(|wait| Timespec::try_from(wait).ok());
    let mut entries = vec![PollFd::from_borrowed_fd(child_signals.as_fd(), PollFlags::IN)];
    entries.extend(watched.iter().map(|&(descriptor, has_unsent)| {
        let out = if has_unsent { PollFlags::OUT } else { PollFlags::empty() };
        PollFd::from_borrowed_fd(descriptor, PollFlags::IN | out)
    }));
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Poll)?;
        rustix::event::poll(&mut entries, timeout.as_ref())
    })?;
    let readable =
        |entry: &PollFd<'_>| entry.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
    Ok(Readiness {
        child_signals: entries[0].revents().contains(PollFlags::IN),
        readable: entries[1..].iter().map(readable).collect(),
    })
}
