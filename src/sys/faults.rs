//! Faults for tests: makes one kernel call of one process fail with a chosen error.
//!
//! Every wrapper of a kernel call that can fail for a passing reason passes a [`point`] first. A build with
//! `--cfg forkpool_faults` reads two environment variables, which servers and workers inherit:
//!
//! - `FORKPOOL_FAULT=role:call:number:error:file`, such as `server:sendmsg:3:ENOBUFS:/tmp/fault`: that call of that
//!   kind fails in the first process of that role that makes it and can remove the file. So a replacement for the
//!   process does not fail again.
//! - `FORKPOOL_FAULT_COUNT=file`: each point appends its role, call and number to the file.
//!
//! Calls are numbered from 1 in each process. In other builds a point compiles to nothing.

#[cfg(forkpool_faults)]
pub(crate) use active::{enter, point};

/// What a process is. A process is the application until it enters another role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Worker,
}

/// Declares the kinds of kernel calls with their names.
macro_rules! calls {
    ($($call:ident = $name:literal),+ $(,)?) => {
        /// A kind of kernel call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(
            not(all(feature = "actors", feature = "tls")),
            allow(dead_code, reason = "some calls are made by the host alone")
        )]
        pub(crate) enum Call {
            $($call),+
        }

        #[cfg(forkpool_faults)]
        impl Call {
            const NAMES: &[&str] = &[$($name),+];
        }
    };
}

calls! {
    Accept = "accept",
    CloseRange = "close_range",
    Connect = "connect",
    Dup = "dup",
    Dup2 = "dup2",
    EpollCtl = "epoll_ctl",
    Fcntl = "fcntl",
    Fork = "fork",
    Ftruncate = "ftruncate",
    Getrandom = "getrandom",
    Kill = "kill",
    Madvise = "madvise",
    MemfdCreate = "memfd_create",
    Mmap = "mmap",
    Mprotect = "mprotect",
    Open = "open",
    PidfdOpen = "pidfd_open",
    PidfdSendSignal = "pidfd_send_signal",
    Pipe = "pipe",
    Poll = "poll",
    Prctl = "prctl",
    Read = "read",
    Recv = "recv",
    Recvmsg = "recvmsg",
    Send = "send",
    Sendmsg = "sendmsg",
    Setsockopt = "setsockopt",
    Signalfd = "signalfd",
    Socket = "socket",
    Socketpair = "socketpair",
    Spawn = "spawn",
    TimerCreate = "timer_create",
    TimerfdCreate = "timerfd_create",
    TimerfdSettime = "timerfd_settime",
    Wait4 = "wait4",
    Waitid = "waitid",
    Write = "write",
}

/// Passes a point: fails if a test wants this call to fail.
#[cfg(not(forkpool_faults))]
#[inline(always)]
#[expect(clippy::unnecessary_wraps, reason = "it fails in builds for tests")]
pub(crate) fn point(_: Call) -> rustix::io::Result<()> {
    Ok(())
}

/// Enters a role, and numbers its calls from 1.
#[cfg(not(forkpool_faults))]
#[inline(always)]
pub(crate) fn enter(_: Role) {}

#[cfg(forkpool_faults)]
mod active {
    use std::ffi::{CString, OsStr};
    use std::io::{Cursor, Write};
    use std::os::unix::ffi::OsStrExt;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;

    use super::{Call, Role};

    const ROLES: [&str; 3] = ["application", "server", "worker"];

    const ERRORS: &[(&str, Errno)] = &[
        ("EADDRNOTAVAIL", Errno::ADDRNOTAVAIL),
        ("EAGAIN", Errno::AGAIN),
        ("EBUSY", Errno::BUSY),
        ("ECONNABORTED", Errno::CONNABORTED),
        ("ECONNREFUSED", Errno::CONNREFUSED),
        ("ECONNRESET", Errno::CONNRESET),
        ("EINTR", Errno::INTR),
        ("EMFILE", Errno::MFILE),
        ("ENFILE", Errno::NFILE),
        ("ENOBUFS", Errno::NOBUFS),
        ("ENOMEM", Errno::NOMEM),
        ("ENOSPC", Errno::NOSPC),
        ("EPERM", Errno::PERM),
        ("EPIPE", Errno::PIPE),
        ("EPROTO", Errno::PROTO),
        ("ETOOMANYREFS", Errno::TOOMANYREFS),
    ];

    /// Index into [`ROLES`].
    static ROLE: AtomicU8 = AtomicU8::new(0);

    static COUNTS: [AtomicU32; Call::NAMES.len()] = [const { AtomicU32::new(0) }; Call::NAMES.len()];

    /// What the environment asks for. Read at the first point, which a server passes before it forks.
    static PLAN: OnceLock<Plan> = OnceLock::new();

    struct Plan {
        fault: Option<Fault>,
        count: Option<CString>,
    }

    struct Fault {
        role: u8,
        call: usize,
        number: u32,
        error: Errno,
        /// The file that the process removes in which the call fails.
        once: CString,
    }

    pub(crate) fn enter(role: Role) {
        ROLE.store(role as u8 + 1, Ordering::Relaxed);
        COUNTS.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    // Allocates nothing once the plan is read: workers pass points right after the fork, and in a signal handler.
    pub(crate) fn point(call: Call) -> rustix::io::Result<()> {
        let plan = PLAN.get_or_init(Plan::from_environment);
        let (role, call) = (ROLE.load(Ordering::Relaxed), call as usize);
        let number = COUNTS[call].fetch_add(1, Ordering::Relaxed) + 1;
        plan.record(role, call, number);
        match &plan.fault {
            Some(fault) if fault.is_at(role, call, number) && rustix::fs::unlink(&fault.once).is_ok() => {
                Err(fault.error)
            }
            _ => Ok(()),
        }
    }

    impl Plan {
        fn from_environment() -> Self {
            let fault = std::env::var("FORKPOOL_FAULT").ok().map(|text| {
                Fault::parse(&text).unwrap_or_else(|| {
                    eprintln!("forkpool: FORKPOOL_FAULT={text} is not role:call:number:error:file");
                    crate::sys::process::exit_now(64)
                })
            });
            let count = std::env::var_os("FORKPOOL_FAULT_COUNT").and_then(|file| c_string(&file));
            Plan { fault, count }
        }

        fn record(&self, role: u8, call: usize, number: u32) {
            let Some(file) = &self.count else { return };
            let mut line = Cursor::new([0_u8; 64]);
            let (role, call) = (ROLES[usize::from(role)], Call::NAMES[call]);
            if writeln!(line, "{role} {call} {number}").is_err() {
                return;
            }
            let length = usize::try_from(line.position()).unwrap_or(0);
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
            if let Ok(file) = rustix::fs::open(file, flags, Mode::RUSR | Mode::WUSR) {
                // A line that is missing makes the sweep smaller, and its counts show that.
                let _ = rustix::io::write(file, &line.get_ref()[..length]);
            }
        }
    }

    impl Fault {
        fn parse(text: &str) -> Option<Self> {
            let mut fields = text.splitn(5, ':');
            let role = fields.next()?;
            let role = ROLES.iter().position(|known| *known == role)?;
            let call = fields.next()?;
            let call = Call::NAMES.iter().position(|known| *known == call)?;
            let number = fields.next()?.parse().ok()?;
            let error = fields.next()?;
            let &(_, error) = ERRORS.iter().find(|(known, _)| *known == error)?;
            let once = c_string(OsStr::new(fields.next()?))?;
            Some(Fault { role: u8::try_from(role).ok()?, call, number, error, once })
        }

        fn is_at(&self, role: u8, call: usize, number: u32) -> bool {
            (self.role, self.call, self.number) == (role, call, number)
        }
    }

    fn c_string(text: &OsStr) -> Option<CString> {
        CString::new(text.as_bytes()).ok()
    }
}
