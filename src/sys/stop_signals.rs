//! SIGTERM, SIGINT and SIGHUP in fork servers and workers.
//!
//! A service manager, a terminal or an init process sends such a signal to every process of an application at once. The
//! application decides then what becomes of its calls, and it needs its fork server and its workers for that. So a
//! handler drops these signals (G6). A signal that the process sends itself, and a SIGTERM that the library marks, have
//! their default effect.
//!
//! The signals are neither ignored nor blocked for that: a program that the process executes would inherit both. It
//! inherits no handler.

#[cfg(feature = "actors")]
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::Pid;

use super::descriptors::last_errno;
use super::process::own_number;

/// The signals that request an end.
pub(super) const STOP_SIGNALS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// What the library sends along with its SIGTERM, so that the receiver knows it from others.
const MARK: usize = 0x666f_726b;

/// The server or worker that these signals do not end; 0 in other processes. Processes that it forks have a copy of this
/// number and another pid, so the signals end them.
static PROTECTED: AtomicI32 = AtomicI32::new(0);

/// The dispositions of the stop signals before [`drop_those_of_others`].
pub(super) struct Dispositions(Vec<(libc::c_int, libc::sigaction)>);

impl Dispositions {
    /// Whether SIGHUP was ignored, as `nohup` has it.
    pub(super) fn ignored_hang_up(&self) -> bool {
        self.0.iter().any(|(signal, was)| *signal == libc::SIGHUP && was.sa_sigaction == libc::SIG_IGN)
    }

    /// Puts these dispositions back.
    pub(super) fn restore(&self) {
        for (signal, was) in &self.0 {
            // SAFETY: sigaction demands a valid action, which the kernel has returned for this signal, and lets the old
            // one be null.
            unsafe { libc::sigaction(*signal, was, std::ptr::null_mut()) };
        }
    }
}

/// Has the stop signals dropped that other processes send to this one or to the workers that it forks, unless they have
/// handlers of the program's own. Until [`protect`] they have their default effect.
pub(super) fn drop_those_of_others() -> Dispositions {
    // SAFETY: zeroed demands that zero bytes are a valid sigaction; it is integers, a set and null pointers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
    // A thread may have too little stack for a handler, and an alternate one instead.
    action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO | libc::SA_ONSTACK;
    let replaceable = STOP_SIGNALS.into_iter().map(|signal| (signal, disposition(signal)));
    let replaceable =
        replaceable.filter(|(_, was)| [libc::SIG_DFL, libc::SIG_IGN].contains(&was.sa_sigaction));
    let replaced: Vec<_> = replaceable.collect();
    for (signal, _) in &replaced {
        // SAFETY: sigaction demands a valid action and lets the old one be null; the handler it names only calls
        // async-signal-safe functions.
        unsafe { libc::sigaction(*signal, &action, std::ptr::null_mut()) };
    }
    Dispositions(replaced)
}

/// Declares this process the one that the stop signals of others do not end.
pub(super) fn protect() {
    PROTECTED.store(own_number(), Ordering::Relaxed);
}

/// Returns what happens at a signal. Async-signal-safe.
pub(super) fn disposition(signal: libc::c_int) -> libc::sigaction {
    // SAFETY: zeroed demands that zero bytes are a valid sigaction; it is integers, a set and null pointers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: sigaction demands a valid pointer for the action, which lives on this frame; null changes nothing. For a
    // number that is no signal it fails, and the action stays the default one.
    unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    action
}

/// Drops a signal of others, and gives any other one its default effect. Async-signal-safe.
extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // A handler of the program's own may call the one that it has replaced. What happens then is up to that handler.
    if disposition(signal).sa_sigaction != on_signal as *const () as libc::sighandler_t {
        return;
    }
    if own_number() == PROTECTED.load(Ordering::Relaxed) {
        // SAFETY: as_ref demands null or a valid value; the kernel passes it to a handler with SA_SIGINFO, which the
        // lines above have found to be this one.
        if unsafe { info.as_ref() }.is_some_and(is_of_another) {
            return;
        }
    }
    // SAFETY: signal demands a valid signal and disposition; SIG_DFL runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // It is delivered when this handler returns, since the signal is blocked until then.
    // SAFETY: raise demands nothing of its number, and is async-signal-safe.
    unsafe { libc::raise(signal) };
}

/// Whether another process or a terminal has sent a signal, and not the library in order to end this process.
fn is_of_another(info: &libc::siginfo_t) -> bool {
    if ![libc::SI_USER, libc::SI_TKILL, libc::SI_QUEUE].contains(&info.si_code) {
        // Below zero it is a timer of this process. Above, the kernel itself sends it: a terminal.
        return info.si_code > 0;
    }
    // SAFETY: si_pid demands a signal that a process has sent, which these codes stand for.
    let sender = unsafe { info.si_pid() };
    // SAFETY: si_value demands a queued signal, which the code stands for.
    let is_marked = info.si_code == libc::SI_QUEUE && unsafe { info.si_value() }.sival_ptr.addr() == MARK;
    sender != own_number() && !is_marked
}

/// The head of a `siginfo_t` of a queued signal, which the C library's type does not let write.
#[repr(C)]
struct Queued {
    header: [libc::c_int; 3],
    #[cfg(target_pointer_width = "64")]
    padding: libc::c_int,
    pid: libc::pid_t,
    uid: libc::uid_t,
    value: usize,
}

const _: () = assert!(size_of::<Queued>() <= size_of::<libc::siginfo_t>());
const _: () = assert!(align_of::<Queued>() <= align_of::<libc::siginfo_t>());

/// Returns the information of a marked SIGTERM.
fn marked() -> libc::siginfo_t {
    // SAFETY: zeroed demands that zero bytes are a valid siginfo_t; it is plain integers and pointers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let queued = Queued {
        header: [0; 3],
        #[cfg(target_pointer_width = "64")]
        padding: 0,
        pid: own_number(),
        uid: rustix::process::getuid().as_raw(),
        value: MARK,
    };
    // SAFETY: write demands a pointer to which so many bytes can be written, aligned for the type. It points to `info`,
    // which is no smaller and no less aligned, as the assertions above show; and any bytes are a valid siginfo_t.
    unsafe { (&raw mut info).cast::<Queued>().write(queued) };
    info.si_signo = libc::SIGTERM;
    info.si_code = libc::SI_QUEUE;
    info
}

/// Sends SIGTERM to a server or worker, which ends it unless it has a handler of its own.
///
/// # Errors
///
/// The system's error; no signal was sent then.
///
/// # References
///
/// - [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html)
#[cfg(feature = "actors")]
pub(super) fn terminate(process: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let info = marked();
    // SAFETY: pidfd_send_signal demands a descriptor, and for the siginfo a valid pointer, which `info` is.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGTERM, &raw const info, 0)
    };
    if sent < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Sends the same to a child that was not reaped yet.
///
/// # Errors
///
/// The system's error; no signal was sent then.
///
/// # References
///
/// - [rt_sigqueueinfo(2)](https://man7.org/linux/man-pages/man2/rt_sigqueueinfo.2.html)
pub(super) fn terminate_child(pid: Pid) -> rustix::io::Result<()> {
    let (pid, info) = (pid.as_raw_nonzero().get(), marked());
    // SAFETY: rt_sigqueueinfo demands numbers, and for the siginfo a valid pointer, which `info` is.
    let sent = unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, libc::SIGTERM, &raw const info) };
    if sent < 0 { Err(last_errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_signal_is_known_from_others() {
        let mut info = marked();
        assert!(!is_of_another(&info));
        // SAFETY: si_pid and si_value demand a queued signal, which this is.
        let (pid, value) = unsafe { (info.si_pid(), info.si_value().sival_ptr.addr()) };
        assert_eq!((pid, value), (own_number(), MARK));
        info.si_code = libc::SI_USER;
        assert!(!is_of_another(&info), "it comes from this process");
        info.si_code = libc::SI_KERNEL;
        assert!(is_of_another(&info), "a terminal sends it");
        info.si_code = libc::SI_TIMER;
        assert!(!is_of_another(&info));
    }

    #[test]
    fn a_signal_of_another_process_is_one_whatever_is_queued_with_it() {
        for code in [libc::SI_USER, libc::SI_TKILL, libc::SI_QUEUE] {
            // SAFETY: zeroed demands that zero bytes are a valid siginfo_t; it is plain integers and pointers. It is what
            // a process of an outer pid namespace sends: it has no pid here.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            info.si_code = code;
            assert!(is_of_another(&info), "{code}");
        }
    }

    /// Forks this process, and returns the pid of a child that runs `child` and exits with what it returns.
    fn forked(child: impl FnOnce() -> libc::c_int) -> libc::pid_t {
        // SAFETY: fork demands that the child touches nothing that another thread may have held. It only makes system calls
        // and allocates, for which the C library prepares a fork.
        match unsafe { libc::fork() } {
            0 => super::super::process::exit_now(child()),
            pid => pid,
        }
    }

    /// Waits for a child, and returns the signal that has ended it, or else its exit status.
    fn ending_of(pid: libc::pid_t) -> Result<libc::c_int, libc::c_int> {
        let mut status = 0;
        // SAFETY: waitpid demands a valid pointer for the status, which lives on this frame.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        if libc::WIFSIGNALED(status) { Ok(libc::WTERMSIG(status)) } else { Err(libc::WEXITSTATUS(status)) }
    }

    fn send_term(pid: libc::pid_t) {
        // SAFETY: kill demands nothing of its numbers.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }

    /// How a protected process ends that does this, and exits with status 7 if it is not ended.
    fn protected(act: impl FnOnce()) -> Result<libc::c_int, libc::c_int> {
        ending_of(forked(|| {
            let _ = drop_those_of_others();
            protect();
            act();
            7
        }))
    }

    /// G6
    #[test]
    fn a_protected_process_ends_by_no_stop_signal_but_its_own_and_the_librarys() {
        // What another process has sent is handled when the wait for that process returns.
        let of_another = |send: fn(libc::pid_t)| {
            let own = own_number();
            let _ = ending_of(forked(|| {
                send(own);
                0
            }));
        };
        assert_eq!(protected(|| of_another(send_term)), Err(7));
        assert_eq!(protected(|| send_term(own_number())), Ok(libc::SIGTERM));
        let send_marked = |pid| {
            let _ = Pid::from_raw(pid).map(terminate_child);
        };
        assert_eq!(protected(|| of_another(send_marked)), Ok(libc::SIGTERM));
    }

    /// G6: a copy that a handler forks is no worker.
    #[test]
    fn a_copy_of_a_protected_process_ends_by_the_signals_of_others() {
        let ending = protected(|| {
            let copy = forked(|| {
                // SAFETY: sleep demands nothing. A signal that is dropped ends it early.
                unsafe { libc::sleep(20) };
                8
            });
            send_term(copy);
            if ending_of(copy) == Ok(libc::SIGTERM) {
                super::super::process::exit_now(0);
            }
        });
        assert_eq!(ending, Err(0));
    }
}
