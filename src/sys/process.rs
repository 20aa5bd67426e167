//! Processes: fork, reap, groups and names.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

pub(crate) use rustix::process::Pid;
use rustix::process::PidfdFlags;

use super::descriptors::last_errno;
use super::faults;
use super::faults::{Call, Role};
use crate::failure::Ending;

/// Longest short name of a process, in bytes (`TASK_COMM_LEN` without the final zero).
const MAX_SHORT_NAME: usize = 15;

/// Which side of a fork this process is.
pub(crate) enum ForkSide {
    /// The new process.
    Child,
    /// The process that called fork, with the pid of its child.
    Parent(Pid),
}

/// How a child ended, and the resources it used.
pub(crate) struct ExitStatus {
    pub(crate) ending: Ending,
    /// The most resident memory it had, in bytes.
    pub(crate) peak_memory: u64,
    pub(crate) cpu_time: Duration,
}

/// Forks this process, which must have a single thread: a lock held by another one would stay locked in the child.
///
/// # Errors
///
/// The system's error, such as `AGAIN` or `NOMEM`; there is no child then.
///
/// # References
///
/// - [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html)
pub(crate) fn fork() -> rustix::io::Result<ForkSide> {
    faults::point(Call::Fork)?;
    // SAFETY: fork demands that the child touches nothing another thread may have held. The fork server has
    // one thread: it is refused if another one is left after its preload, and it starts none itself.
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => {
            faults::enter(Role::Worker);
            Ok(ForkSide::Child)
        }
        pid => Pid::from_raw(pid).map(ForkSide::Parent).ok_or(rustix::io::Errno::SRCH),
    }
}

/// The pid of this process.
pub(crate) fn own_pid() -> Pid {
    rustix::process::getpid()
}

/// Returns the same as a number. Async-signal-safe.
pub(super) fn own_number() -> i32 {
    own_pid().as_raw_nonzero().get()
}

/// The process that has made something which a copy of it, made by a fork, is not to end for both.
#[cfg(feature = "actors")]
#[derive(Clone, Copy)]
pub(crate) struct Owner(i32);

#[cfg(feature = "actors")]
impl Owner {
    /// Returns this process.
    pub(crate) fn this() -> Self {
        Owner(own_number())
    }

    /// Returns whether it is this process.
    pub(crate) fn is_this(self) -> bool {
        self.0 == own_number()
    }
}

/// Returns whether a process has ended; `None` if the system refuses to tell.
#[cfg(feature = "actors")]
pub(crate) fn has_exited(process: std::os::fd::BorrowedFd<'_>) -> Option<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut entry = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    faults::point(Call::Poll).ok()?;
    poll(&mut entry, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok().map(|ready| ready > 0)
}

/// Exits at once: runs no destructor and no exit handler, and writes no buffer a second time.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit demands nothing; it does not return.
    unsafe { libc::_exit(code) }
}

unsafe extern "C" {
    #[link_name = "stdout"]
    static mut C_STDOUT: *mut libc::FILE;
}

/// Makes the C library write its standard output line by line, as to a terminal, and not only when a buffer is full.
///
/// # References
///
/// - [setvbuf(3)](https://man7.org/linux/man-pages/man3/setvbuf.3.html)
pub(crate) fn line_buffer_c_stdout() {
    // SAFETY: reading a `static mut` demands that it is not written at the same time; the C library sets it up before
    // any of our code runs, and a fork server has one thread.
    let stdout = unsafe { C_STDOUT };
    // SAFETY: setvbuf demands an open stream, which the C library's own is; it allocates the buffer itself. If it
    // fails, the buffering stays as it was.
    unsafe { libc::setvbuf(stdout, std::ptr::null_mut(), libc::_IOLBF, 0) };
}

/// Writes the buffers of the C library's streams.
pub(crate) fn flush_c_streams() {
    // SAFETY: fflush demands an open stream or null, which means all of them.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// The processor that this thread runs on; it may have changed by the time this returns.
pub(crate) fn current_processor() -> u32 {
    // SAFETY: sched_getcpu demands nothing. This is the C library's, which reads memory that the kernel keeps up to
    // date; rustix would have to look up the kernel's own function first, in each worker anew.
    let here = unsafe { libc::sched_getcpu() };
    u32::try_from(here).unwrap_or(0)
}

/// Whether this process was permitted to use more than one processor when this was first called.
pub(crate) fn may_use_several_processors() -> bool {
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    *SEVERAL.get_or_init(|| rustix::thread::sched_getaffinity(None).is_ok_and(|allowed| allowed.count() > 1))
}

/// Moves this thread to another processor, if it may run on more than one; it may come back at any time.
///
/// # References
///
/// - [sched_setaffinity(2)](https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html)
pub(crate) fn move_to_other_processor() {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
        return;
    };
    let mut others = allowed;
    others.unset(current_processor() as usize);
    // Staying is not an error: there may be only one processor, or the others were taken away.
    if others.count() > 0 && rustix::thread::sched_setaffinity(None, &others).is_ok() {
        let _ = rustix::thread::sched_setaffinity(None, &allowed);
    }
}

/// How often another thread has been given this thread's processor so far, while this thread wanted to run.
///
/// # References
///
/// - [getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html), `ru_nivcsw`
pub(crate) fn preemption_count() -> u64 {
    // SAFETY: zeroed demands that zero bytes are a valid rusage; it is integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: getrusage demands a valid pointer to an rusage, which lives on this frame. It cannot fail for this
    // thread.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nivcsw.unsigned_abs()
}

/// Whether a processor is idle, as far as /proc shows: fewer threads are runnable than the machine has processors, or as
/// many, of which two are known to share one (`is_shared`).
///
/// # References
///
/// - [proc_loadavg(5)](https://man7.org/linux/man-pages/man5/proc_loadavg.5.html), the fourth field
pub(crate) fn has_idle_processor(is_shared: bool) -> bool {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = text.split(' ').nth(3).and_then(|threads| threads.split('/').next()?.parse().ok());
    running.is_some_and(|running: usize| running < online_processors() + usize::from(is_shared))
}

/// The number of online processors of the machine.
fn online_processors() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        // SAFETY: sysconf demands nothing of its number.
        let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
        usize::try_from(count).unwrap_or(1)
    })
}

/// Opens a descriptor that refers to exactly this process, even after its pid is used again.
///
/// # References
///
/// - [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)
pub(crate) fn open_pidfd(pid: Pid) -> rustix::io::Result<OwnedFd> {
    faults::point(Call::PidfdOpen)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
}

/// Moves a process, or this one if `None`, into a process group of its own.
pub(crate) fn move_to_own_group(pid: Option<Pid>) {
    // Both sides of a fork call this, so the second call may find it done, or the child gone.
    let _ = rustix::process::setpgid(pid, pid);
}

/// Makes this process the subreaper: orphaned descendants become its children, so that it can reap them.
///
/// # References
///
/// - [PR_SET_CHILD_SUBREAPER(2const)](https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html)
pub(crate) fn become_subreaper() -> rustix::io::Result<()> {
    faults::point(Call::Prctl)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
}

/// A child that has exited and was not reaped yet.
pub(crate) struct Zombie {
    pub(crate) pid: Pid,
    /// Whether SIGKILL has ended it.
    pub(crate) is_killed: bool,
}

/// Returns a child that has exited and was not reaped yet, or `None` if there is none.
///
/// It stays a zombie until [`reap`], and until then no other process can get its pid or its process group.
///
/// # References
///
/// - [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html), `WNOWAIT`
pub(crate) fn next_zombie() -> Option<Zombie> {
    // SAFETY: zeroed demands that zero bytes are a valid siginfo_t; it is plain integers and pointers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let found = rustix::io::retry_on_intr(|| {
        faults::point(Call::Waitid)?;
        // SAFETY: waitid demands a valid pointer for its result; `info` lives on the frame around this.
        match unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    });
    found.ok()?;
    // SAFETY: si_pid demands that the union holds a child event; waitid returned 0, so it does, or the field
    // is still the zero from above, which means that no child has exited.
    let pid = Pid::from_raw(unsafe { info.si_pid() })?;
    // SAFETY: si_status demands the same.
    let is_killed = info.si_code == libc::CLD_KILLED && unsafe { info.si_status() } == libc::SIGKILL;
    Some(Zombie { pid, is_killed })
}

/// Reaps a child that has exited; `None` if it still runs or is not a child of this process.
///
/// # References
///
/// - [wait4(2)](https://man7.org/linux/man-pages/man2/wait4.2.html), [getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html)
pub(crate) fn reap(pid: Pid) -> Option<ExitStatus> {
    let mut status = 0;
    // SAFETY: zeroed demands that zero bytes are a valid rusage; it is plain integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid_number = pid.as_raw_nonzero().get();
    let reaped = rustix::io::retry_on_intr(|| {
        faults::point(Call::Wait4)?;
        // SAFETY: wait4 demands valid pointers for the status and the usage; both live on the frame around this.
        match unsafe { libc::wait4(pid_number, &mut status, libc::WNOHANG, &mut usage) } {
            -1 => Err(last_errno()),
            reaped => Ok(reaped),
        }
    });
    (reaped == Ok(pid_number)).then(|| {
        let (peak_memory, cpu_time) = sum(&usage);
        ExitStatus { ending: ending(status), peak_memory, cpu_time }
    })
}

/// Reaps the child with this pidfd if it has exited. One that was reaped already is not an error.
///
/// # References
///
/// - [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html), `P_PIDFD`
pub(crate) fn discard(child: std::os::fd::BorrowedFd<'_>) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    // Without the call, the next pass over all children reaps it.
    let _ = faults::point(Call::Waitid)
        .and_then(|()| waitid(WaitId::PidFd(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG));
}

/// The most resident memory this process has had, in bytes, and the CPU time it has used.
///
/// # References
///
/// - [getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html)
pub(crate) fn own_usage() -> (u64, Duration) {
    // SAFETY: zeroed demands that zero bytes are a valid rusage; it is plain integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: getrusage demands a valid pointer for its result; `usage` lives on this frame. With a valid pointer and
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

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// Returns the number of a group, given its name or that number.
///
/// # Errors
///
/// `NotFound` if there is no group of that name, or the system's error.
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
    // The members of a large group need space for their names.
    let mut texts = vec![0_u8; 1 << 20];
    // SAFETY: getgrnam_r demands a name that ends with a zero, and valid pointers for entry, texts and result, with the
    // length of the buffer for the texts; all live on this frame.
    let error = unsafe {
        libc::getgrnam_r(name.as_ptr(), &mut entry, texts.as_mut_ptr().cast(), texts.len(), &mut found)
    };
    match (error, found.is_null()) {
        (0, false) => Ok(entry.gr_gid),
        (0, true) => Err(unknown()),
        (error, _) => Err(Error::from_raw_os_error(error)),
    }
}

/// Sets the short name that `ps -o comm` shows: `pool/tail`, with the pool's name cut if it is too long.
pub(crate) fn set_short_name(pool: &str, tail: &str) {
    set_name(short_name(pool, tail).as_deref());
}

/// The name that [`set_short_name`] sets; `None` if it contains a zero byte.
pub(crate) fn short_name(pool: &str, tail: &str) -> Option<CString> {
    let space = MAX_SHORT_NAME.saturating_sub(tail.len() + 1);
    let cut = (0..=space.min(pool.len())).rev().find(|&at| pool.is_char_boundary(at)).unwrap_or(0);
    CString::new(format!("{}/{tail}", &pool[..cut])).ok()
}

/// Sets the short name of this process. Failure is ignored, because the name only helps readers of `ps`.
pub(crate) fn set_name(name: Option<&CStr>) {
    if let Some(name) = name {
        let _ = rustix::thread::set_name(name);
    }
}

/// The bytes in which the kernel keeps this process's arguments, found once before the first fork.
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
        faults::point(Call::Open).ok()?;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The short name in parentheses may contain blanks; after the last parenthesis follows field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let start = fields.get(48 - 3)?.parse().ok()?;
        let end: usize = fields.get(49 - 3)?.parse().ok()?;
        let length = end.checked_sub(start)?;
        (start != 0).then_some(TitleSpace { start, length })
    }

    /// Writes the long title over the arguments, cut to their length; the environment behind them is not touched.
    pub(crate) fn write(self, title: &str) {
        let cut = title.len().min(self.length.saturating_sub(1));
        let target = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        // SAFETY: write_bytes demands `length` writable bytes. The kernel laid the argument strings out there
        // at exec, on this process's stack, and nothing ever unmaps the bottom of the main stack.
        unsafe { target.write_bytes(0, self.length) };
        // SAFETY: copy demands that `cut` bytes are readable at the title and writable at the target, and that the two
        // do not overlap; `cut` is within both, and the title is not on the argument bytes.
        unsafe { target.copy_from_nonoverlapping(title.as_ptr(), cut) };
    }
}
