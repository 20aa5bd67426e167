//! Processes: fork, reap, kill, groups and names.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

pub(crate) use rustix::process::Pid;
use rustix::process::{PidfdFlags, Signal};

use super::descriptors::last_errno;
use crate::failure::Ending;

/// Longest short name a process may have, in bytes (`TASK_COMM_LEN` less its end).
const SHORT_NAME: usize = 15;

/// Which side of a fork one is on.
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The process that asked, and the child it got.
    Parent(Pid),
}

/// How one child ended, and what it had used.
pub(crate) struct ExitStatus {
    pub(crate) ending: Ending,
    pub(crate) peak_memory: u64,
    pub(crate) cpu_time: Duration,
}

/// Forks this process, which must have one thread: a lock held by another would stay locked in the child.
///
/// # References
///
/// - [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html)
pub(crate) fn fork() -> rustix::io::Result<Forked> {
    // SAFETY: fork demands that the child touches nothing another thread may have held. The fork server has
    // one thread (a preload that starts some breaks its contract, which docs/FORK-SAFETY.md states).
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).map(Forked::Parent).ok_or(rustix::io::Errno::SRCH),
    }
}

/// This process.
pub(crate) fn own_pid() -> Pid {
    rustix::process::getpid()
}

/// Ends this process at once: no destructor, no exit handler, no buffer written twice.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit demands nothing; it does not return.
    unsafe { libc::_exit(code) }
}

unsafe extern "C" {
    #[link_name = "stdout"]
    static mut C_STDOUT: *mut libc::FILE;
}

/// Has the C library write its standard output line by line, as it would to a terminal, and not when a buffer is full.
///
/// # References
///
/// - [setvbuf(3)](https://man7.org/linux/man-pages/man3/setvbuf.3.html)
pub(crate) fn write_c_output_by_lines() {
    // SAFETY: reading a `static mut` demands that nobody writes it at the same time; the C library sets it up before
    // any of our code runs, and a fork server has one thread.
    let stdout = unsafe { C_STDOUT };
    // SAFETY: setvbuf demands an open stream, which the C library's own is; it allocates the buffer itself. That it
    // fails leaves the buffering as it was.
    unsafe { libc::setvbuf(stdout, std::ptr::null_mut(), libc::_IOLBF, 0) };
}

/// Writes what the C library still has in its buffers.
pub(crate) fn flush_c_output() {
    // SAFETY: fflush demands an open stream or none, which means all of them.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// The processor this thread runs on, which may be another by the time it is known.
pub(crate) fn current_processor() -> u32 {
    // SAFETY: sched_getcpu demands nothing. It is the C library's, which reads what the kernel keeps in memory for
    // it; rustix would look for the kernel's own function first, in each worker anew.
    let here = unsafe { libc::sched_getcpu() };
    u32::try_from(here).unwrap_or(0)
}

/// Whether this process could use more than one processor when it was first asked.
pub(crate) fn may_use_several_processors() -> bool {
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    *SEVERAL.get_or_init(|| rustix::thread::sched_getaffinity(None).is_ok_and(|allowed| allowed.count() > 1))
}

/// Moves this thread to another processor, if it may run on more than one; nothing keeps it from coming back.
///
/// # References
///
/// - [sched_setaffinity(2)](https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html)
pub(crate) fn leave_processor() {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
        return;
    };
    let mut others = allowed;
    others.unset(current_processor() as usize);
    // To stay is no error: the processors may have been taken away, or there is only one.
    if others.count() > 0 && rustix::thread::sched_setaffinity(None, &others).is_ok() {
        let _ = rustix::thread::sched_setaffinity(None, &allowed);
    }
}

/// How often somebody else has had this thread's processor while this thread wanted it, so far.
///
/// # References
///
/// - [getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html), `ru_nivcsw`
pub(crate) fn turns_of_others() -> u64 {
    // SAFETY: zeroed demands that zero bytes are a valid rusage; it is integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: getrusage demands a valid place for an rusage, which lives on this frame. It cannot fail for this thread.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nivcsw.unsigned_abs()
}

/// Whether fewer threads run or want to than the machine has processors, as far as can be seen.
///
/// # References
///
/// - [proc_loadavg(5)](https://man7.org/linux/man-pages/man5/proc_loadavg.5.html), the fourth field
pub(crate) fn some_processor_is_idle() -> bool {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = text.split(' ').nth(3).and_then(|threads| threads.split('/').next()?.parse().ok());
    running.is_some_and(|running: usize| running < all_processors())
}

/// Processors of the machine that are at work.
fn all_processors() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        // SAFETY: sysconf demands nothing of its number.
        let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
        usize::try_from(count).unwrap_or(1)
    })
}

/// A descriptor that stands for exactly this process, also after its number is used again.
///
/// # References
///
/// - [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)
pub(crate) fn open(pid: Pid) -> rustix::io::Result<OwnedFd> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
}

/// Kills a process; one that is gone already is no error.
///
/// # Errors
///
/// `PERM` for a process of another user's, `INVAL` for one of another namespace; it lives on then.
#[cfg(feature = "actors")]
pub(crate) fn kill(process: BorrowedFd<'_>) -> rustix::io::Result<()> {
    send(process, Signal::KILL)
}

/// Asks a process to end; one that is gone already is no error.
///
/// # Errors
///
/// As [`kill`].
#[cfg(feature = "actors")]
pub(crate) fn terminate(process: BorrowedFd<'_>) -> rustix::io::Result<()> {
    send(process, Signal::TERM)
}

#[cfg(feature = "actors")]
fn send(process: BorrowedFd<'_>, signal: Signal) -> rustix::io::Result<()> {
    match rustix::process::pidfd_send_signal(process, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        sent => sent,
    }
}

/// Sends the signal to the whole group of the process, which Linux knows since 6.9.
///
/// # References
///
/// - [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html)
const TO_ITS_GROUP: libc::c_uint = 1 << 2;

/// Kills a process that is no child of ours and what is left of its group, as far as the kernel can; one that is gone
/// already is no error.
pub(crate) fn kill_stranger(process: BorrowedFd<'_>) {
    let send = |flags: libc::c_uint| {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: pidfd_send_signal demands a descriptor, and for the information a valid place or null, which has the
        // kernel make it up as kill does.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, none, flags) }
    };
    if send(TO_ITS_GROUP) < 0 {
        // An older kernel, or one that has nothing of it any more, which is what was wanted.
        send(0);
    }
}

/// Asks a child of this process that was not reaped yet to end.
pub(crate) fn terminate_child(pid: Pid) {
    // A child that has ended and waits to be reaped takes no signal, which is what was wanted.
    let _ = rustix::process::kill_process(pid, Signal::TERM);
}

/// Kills a process group whose leader has not been reaped yet.
pub(crate) fn kill_group(leader: Pid) {
    // ESRCH says that the group is empty, which is what was wanted.
    let _ = rustix::process::kill_process_group(leader, Signal::KILL);
}

/// Puts a process into a group of its own.
pub(crate) fn own_group(pid: Option<Pid>) {
    // Both sides of a fork call this, so whichever comes second may find it done, or the child gone.
    let _ = rustix::process::setpgid(pid, pid);
}

/// Makes orphans of this process's descendants its own children, so that it can reap them.
///
/// # References
///
/// - [PR_SET_CHILD_SUBREAPER(2const)](https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html)
pub(crate) fn adopt_orphans() -> rustix::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
}

/// A child that has ended and is not reaped yet, or `None`.
///
/// It stays a zombie, and so its number and its group stay its own, until [`reap`] takes it.
///
/// # References
///
/// - [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html), `WNOWAIT`
pub(crate) fn next_dead() -> Option<Pid> {
    // SAFETY: zeroed demands that zero bytes are a valid siginfo_t; it is plain integers and pointers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid demands a valid place for its answer; `info` lives on this frame.
    let found = unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) };
    if found != 0 {
        return None;
    }
    // SAFETY: si_pid demands that the union holds a child event; waitid returned 0, so it does, or the field
    // is still the zero from above, which says that no child has ended.
    Pid::from_raw(unsafe { info.si_pid() })
}

/// Reaps one child that has ended; `None` where it is no child or still runs.
///
/// # References
///
/// - [wait4(2)](https://man7.org/linux/man-pages/man2/wait4.2.html), [getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html)
pub(crate) fn reap(pid: Pid) -> Option<ExitStatus> {
    let mut status = 0;
    // SAFETY: zeroed demands that zero bytes are a valid rusage; it is plain integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid_number = pid.as_raw_nonzero().get();
    // SAFETY: wait4 demands valid places for the status and the usage; both live on this frame.
    let reaped = unsafe { libc::wait4(pid_number, &mut status, libc::WNOHANG, &mut usage) };
    (reaped == pid_number).then(|| {
        let (peak_memory, cpu_time) = sum(&usage);
        ExitStatus { ending: ending(status), peak_memory, cpu_time }
    })
}

/// The most memory this process has had resident, in bytes, and the CPU time it has used.
///
/// # References
///
/// - [getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html)
pub(crate) fn own_usage() -> (u64, Duration) {
    // SAFETY: zeroed demands that zero bytes are a valid rusage; it is plain integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: getrusage demands a valid place for its answer; `usage` lives on this frame. With a valid place and
    // RUSAGE_SELF it does not fail.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    sum(&usage)
}

fn sum(usage: &libc::rusage) -> (u64, Duration) {
    let peak_memory = u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024;
    (peak_memory, duration(usage.ru_utime) + duration(usage.ru_stime))
}

fn ending(status: i32) -> Ending {
    if libc::WIFSIGNALED(status) {
        Ending::Signaled { signal: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) }
    } else {
        Ending::Exited { code: libc::WEXITSTATUS(status) }
    }
}

/// The most memory a living process has had resident, in bytes, and the CPU time it has used.
///
/// # References
///
/// - [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html), `VmHWM`
/// - [proc_pid_schedstat](https://docs.kernel.org/scheduler/sched-stats.html)
#[cfg(feature = "actors")]
pub(crate) fn usage(pid: u32) -> (Option<u64>, Option<Duration>) {
    let file = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let peak = file("status").and_then(|status| {
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?.to_owned();
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let ran = file("schedstat").and_then(|stat| stat.split_whitespace().next()?.parse().ok());
    (peak.map(|kib| kib * 1024), ran.map(Duration::from_nanos))
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// The number of a group, by its name or by that number.
///
/// # Errors
///
/// `NotFound` where there is no group of that name.
///
/// # References
///
/// - [getgrnam(3)](https://man7.org/linux/man-pages/man3/getgrnam.3.html)
#[cfg(feature = "actors")]
pub(crate) fn group_number(group: &str) -> std::io::Result<u32> {
    use std::io::{Error, ErrorKind};
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let unknown = || Error::new(ErrorKind::NotFound, format!("there is no group {group:?}"));
    let name = CString::new(group).map_err(|_| unknown())?;
    // SAFETY: zeroed demands that zero bytes are a valid group; it is pointers and an integer.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // Names of members of large groups take room.
    let mut room = vec![0_u8; 1 << 20];
    // SAFETY: getgrnam_r demands a name that ends with a zero, and valid places for entry, texts and answer, with the
    // length of the room for the texts; all live on this frame.
    let error = unsafe {
        libc::getgrnam_r(name.as_ptr(), &mut entry, room.as_mut_ptr().cast(), room.len(), &mut found)
    };
    match (error, found.is_null()) {
        (0, false) => Ok(entry.gr_gid),
        (0, true) => Err(unknown()),
        (error, _) => Err(Error::from_raw_os_error(error)),
    }
}

/// Sets the short name that `ps -o comm` shows: `pool/tail`, the pool's part cut where it is too long.
pub(crate) fn set_short_name(pool: &str, tail: &str) {
    set_name(short_name(pool, tail).as_deref());
}

/// What [`set_short_name`] makes of it.
pub(crate) fn short_name(pool: &str, tail: &str) -> Option<CString> {
    let room = SHORT_NAME.saturating_sub(tail.len() + 1);
    let cut = (0..=room.min(pool.len())).rev().find(|&at| pool.is_char_boundary(at)).unwrap_or(0);
    CString::new(format!("{}/{tail}", &pool[..cut])).ok()
}

/// Gives this process a short name, which is a courtesy to whoever reads `ps`: it works as well without one.
pub(crate) fn set_name(name: Option<&CStr>) {
    if let Some(name) = name {
        let _ = rustix::thread::set_name(name);
    }
}

/// The bytes in which the kernel keeps this process's arguments, found once, before the first fork.
#[derive(Clone, Copy)]
pub(crate) struct TitleSpace {
    start: usize,
    length: usize,
}

impl TitleSpace {
    /// Finds the argument bytes of this process.
    ///
    /// # References
    ///
    /// - [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html), fields 48 and 49
    pub(crate) fn find() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The short name in parentheses may hold blanks; what follows the last parenthesis starts at field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let start = fields.get(48 - 3)?.parse().ok()?;
        let end: usize = fields.get(49 - 3)?.parse().ok()?;
        let length = end.checked_sub(start)?;
        (start != 0).then_some(TitleSpace { start, length })
    }

    /// Writes the long title over the arguments, cut to their length; the environment behind is not touched.
    pub(crate) fn write(self, title: &str) {
        let cut = title.len().min(self.length.saturating_sub(1));
        let place = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        // SAFETY: write_bytes demands `length` writable bytes. The kernel laid the argument strings out there
        // at exec, on this process's stack, and nothing ever unmaps the bottom of the main stack.
        unsafe { place.write_bytes(0, self.length) };
        // SAFETY: copy demands that `cut` bytes are readable at the title and writable at the place, apart from
        // each other; `cut` is within both, and the title is not on the argument bytes.
        unsafe { place.copy_from_nonoverlapping(title.as_ptr(), cut) };
    }
}
