//! Signals: dispositions as Rust's start-up sets them, SIGCHLD as a descriptor, and exiting when a peer hangs up.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::descriptors::last_errno;
use super::faults;
use super::faults::Call;
use super::stop_signals;
use super::stop_signals::{Dispositions, STOP_SIGNALS};

/// All signals whose use is up to programs: the standard ones, and the real-time ones that the C library does not keep
/// for itself.
fn all_signals() -> impl Iterator<Item = i32> {
    const LAST_STANDARD_SIGNAL: i32 = 31;
    (1..=LAST_STANDARD_SIGNAL).chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Gives an application's own server the signals of a new process, whatever the thread has blocked and the application
/// ignores (under `nohup`, say) that has started it: none is blocked, and all are at their default, except that SIGPIPE
/// is ignored, as Rust's own start-up does before `main`, which such a server never reaches. The stop signals of others
/// are dropped from now on.
pub(crate) fn reset_in_private_server() {
    for signal in all_signals() {
        let disposition = if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: signal demands a valid signal and disposition; neither of the two runs code of ours. SIGKILL and
        // SIGSTOP are refused, which changes nothing.
        unsafe { libc::signal(signal, disposition) };
    }
    stop_signals::protect();
    // They are never restored: this process does nothing else.
    let _ = stop_signals::drop_those_of_others();
    // With valid arguments it does not fail.
    let _ = set_mask(libc::SIG_SETMASK, &set_of(&[]));
}

/// Ignores SIGPIPE, as Rust's own start-up does, also where `main` has undone that: a peer that is gone is an error of a
/// write and does not end a server or a worker.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: signal demands a valid signal and disposition; SIG_IGN runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// The signals that a process ignored at one moment, except SIGPIPE.
#[derive(Default)]
pub(crate) struct IgnoredSignals(Vec<i32>);

impl IgnoredSignals {
    /// Lists the signals that are ignored now.
    pub(crate) fn list() -> Self {
        let is_ignored = |signal: &i32| {
            *signal != libc::SIGPIPE && stop_signals::disposition(*signal).sa_sigaction == libc::SIG_IGN
        };
        IgnoredSignals(all_signals().filter(is_ignored).collect())
    }

    /// Gives those that are still ignored their default disposition, in a forked process.
    pub(crate) fn reset_in_child(&self) {
        for &signal in &self.0 {
            if stop_signals::disposition(signal).sa_sigaction == libc::SIG_IGN {
                // SAFETY: signal demands a valid signal and disposition; SIG_DFL runs no code of ours.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
        }
    }
}

/// While this exists, this thread does not receive the stop signals; a process that it starts begins with them blocked.
#[cfg(feature = "actors")]
pub(crate) struct BlockedStopSignals(libc::sigset_t);

#[cfg(feature = "actors")]
impl BlockedStopSignals {
    pub(crate) fn here() -> rustix::io::Result<Self> {
        set_mask(libc::SIG_BLOCK, &set_of(&STOP_SIGNALS)).map(BlockedStopSignals)
    }
}

#[cfg(feature = "actors")]
impl Drop for BlockedStopSignals {
    fn drop(&mut self) {
        // With valid arguments it does not fail.
        let _ = set_mask(libc::SIG_SETMASK, &self.0);
    }
}

/// A request to stop, sent as a signal. The more urgent one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopRequest {
    /// SIGHUP: the terminal is gone. Finish the running work, then exit.
    HangUp,
    /// SIGTERM: the same, and exit at once if that is being done already.
    Drain,
    /// SIGINT: exit.
    Stop,
}

/// SIGCHLD and the stop signals as a readable descriptor. The workers that a server forks drop the stop signals of others.
pub(crate) struct ChildSignals {
    signalfd: OwnedFd,
    /// What was in force before.
    mask: libc::sigset_t,
    dispositions: Dispositions,
}

impl ChildSignals {
    /// Blocks these signals for this thread and everything it forks, and makes them readable instead.
    ///
    /// # References
    ///
    /// - [signalfd(2)](https://man7.org/linux/man-pages/man2/signalfd.2.html)
    pub(crate) fn watch() -> rustix::io::Result<Self> {
        // If a start-up function or a preload ignored SIGCHLD, the kernel would reap all children itself.
        // SAFETY: signal demands a valid signal and disposition; SIG_DFL runs no code of ours.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let set = set_of(&[&[libc::SIGCHLD][..], &STOP_SIGNALS].concat());
        let mask = set_mask(libc::SIG_BLOCK, &set)?;
        faults::point(Call::Signalfd)?;
        // SAFETY: signalfd demands a valid set; `set` lives on this frame and was filled by sigemptyset.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: from_raw_fd demands an open descriptor with no other owner; signalfd just made it.
        let signalfd = unsafe { OwnedFd::from_raw_fd(fd) };
        // The handlers are the workers': here the signals are blocked.
        Ok(ChildSignals { signalfd, mask, dispositions: stop_signals::drop_those_of_others() })
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
                libc::SIGHUP if !self.dispositions.ignored_hang_up() => Some(StopRequest::HangUp),
                _ => None,
            });
        }
        request
    }

    /// Closes the server's descriptor in a forked process. From [`unblock_in_worker`] on that drops the stop signals of
    /// others.
    pub(crate) fn give_up_in_child(self) {
        stop_signals::protect();
    }

    /// Puts back what was in force before, for a server that does not start.
    pub(crate) fn give_up(self) {
        self.dispositions.restore();
        let _ = set_mask(libc::SIG_SETMASK, &self.mask);
    }
}

impl AsFd for ChildSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signalfd.as_fd()
    }
}

/// Unblocks all signals in a worker, whatever its server has blocked: the worker's own children are no matter of the server.
pub(crate) fn unblock_in_worker() {
    let _ = set_mask(libc::SIG_SETMASK, &set_of(&[]));
}

/// While this exists, this thread and a process that it forks receive no signal but those that cannot be blocked.
pub(crate) struct AllBlocked(libc::sigset_t);

impl AllBlocked {
    pub(crate) fn here() -> rustix::io::Result<Self> {
        set_mask(libc::SIG_BLOCK, &set_of(&all_signals().collect::<Vec<_>>())).map(AllBlocked)
    }

    /// Leaves the signals blocked in a forked process, until [`unblock_in_worker`].
    pub(crate) fn keep_in_child(self) {
        std::mem::forget(self);
    }
}

impl Drop for AllBlocked {
    fn drop(&mut self) {
        // With valid arguments it does not fail.
        let _ = set_mask(libc::SIG_SETMASK, &self.0);
    }
}

/// Discards the signals that wait for this process because it has blocked them.
///
/// # References
///
/// - [sigtimedwait(2)](https://man7.org/linux/man-pages/man2/sigtimedwait.2.html)
pub(crate) fn discard_pending() {
    let (all, now) = (set_of(&all_signals().collect::<Vec<_>>()), libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: sigtimedwait demands a valid set and a valid time, which live on this frame, and lets the information about
    // the signal be null.
    while unsafe { libc::sigtimedwait(&raw const all, std::ptr::null_mut(), &raw const now) } > 0 {}
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: zeroed demands that zero bytes are a valid sigset_t; it is an array of integers.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: sigemptyset demands a valid set; it is on this frame.
    unsafe { libc::sigemptyset(&mut set) };
    for &signal in signals {
        // SAFETY: sigaddset demands an initialised set and a valid signal; sigemptyset initialised it.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

/// Changes the signals that this thread blocks; returns those that it blocked before.
fn set_mask(how: i32, set: &libc::sigset_t) -> rustix::io::Result<libc::sigset_t> {
    let mut before = set_of(&[]);
    // SAFETY: pthread_sigmask demands valid sets; both live on the frames of this call.
    match unsafe { libc::pthread_sigmask(how, set, &mut before) } {
        0 => Ok(before),
        error => Err(rustix::io::Errno::from_raw_os_error(error)),
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
