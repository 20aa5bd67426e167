//! Which errors each kernel call may fail with and succeed the next time.

/// The errors that pass, for each kind of call, by the names that `src/sys/faults.rs` knows.
///
/// An error that says something about the state of the other end which is not so cannot be told from a lie: a
/// doorbell that is full (`EAGAIN`), or one whose reader is gone (`EPIPE`). Those are left out.
const ERRORS: &[(&str, &[&str])] = &[
    ("accept", &["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "ECONNABORTED", "EPROTO", "EINTR", "EAGAIN"]),
    ("close_range", &["ENOMEM"]),
    ("connect", &["EAGAIN", "ECONNREFUSED", "EINTR", "ENOMEM"]),
    ("dup", &["EMFILE"]),
    ("dup2", &["EBUSY", "EINTR"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("fcntl", &["ENOMEM"]),
    ("fork", &["EAGAIN", "ENOMEM"]),
    ("ftruncate", &["ENOMEM", "EINTR"]),
    ("getrandom", &["EAGAIN", "EINTR"]),
    ("kill", &["EAGAIN"]),
    ("madvise", &["EAGAIN", "ENOMEM"]),
    ("memfd_create", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("mmap", &["EAGAIN", "ENFILE", "ENOMEM"]),
    ("mprotect", &["ENOMEM"]),
    ("open", &["EMFILE", "ENFILE", "ENOMEM", "EINTR"]),
    ("pidfd_open", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("pidfd_send_signal", &["EAGAIN"]),
    ("pipe", &["EMFILE", "ENFILE"]),
    ("poll", &["EAGAIN", "EINTR", "ENOMEM"]),
    ("prctl", &["EPERM"]),
    ("read", &["EINTR", "ENOMEM"]),
    ("recv", &["EINTR", "ENOMEM", "ECONNRESET"]),
    ("recvmsg", &["EINTR", "ENOMEM", "ECONNRESET"]),
    ("send", &["EINTR", "ENOBUFS", "ENOMEM", "EPIPE", "ECONNRESET"]),
    ("sendmsg", &["EINTR", "ENOBUFS", "ENOMEM", "EPIPE", "ECONNRESET", "ETOOMANYREFS"]),
    ("setsockopt", &["ENOBUFS", "ENOMEM"]),
    ("signalfd", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]),
    ("socketpair", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("spawn", &["EAGAIN", "EMFILE", "ENOMEM"]),
    ("timer_create", &["EAGAIN", "ENOMEM"]),
    ("wait4", &["EINTR"]),
    ("waitid", &["EINTR"]),
    ("write", &["EINTR", "ENOMEM"]),
];

/// How failures print these errors.
const TEXTS: &[(&str, i32)] = &[
    ("EAGAIN", 11),
    ("EBUSY", 16),
    ("ECONNABORTED", 103),
    ("ECONNREFUSED", 111),
    ("ECONNRESET", 104),
    ("EINTR", 4),
    ("EMFILE", 24),
    ("ENFILE", 23),
    ("ENOBUFS", 105),
    ("ENOMEM", 12),
    ("ENOSPC", 28),
    ("EPERM", 1),
    ("EPIPE", 32),
    ("EPROTO", 71),
    ("ETOOMANYREFS", 109),
];

/// The errors with which a call of this kind may fail. The server waits for its sockets by level and not by edge, so a
/// call there may say as well that it has to wait.
pub fn of(role: &str, call: &str) -> Vec<&'static str> {
    let (_, errors) =
        ERRORS.iter().find(|(kind, _)| *kind == call).unwrap_or_else(|| panic!("no errors of {call}"));
    let may_wait = role == "server" && ["read", "recvmsg", "send", "sendmsg"].contains(&call);
    errors.iter().copied().chain(may_wait.then_some("EAGAIN")).collect()
}

/// The system's text for an error.
pub fn text(error: &str) -> String {
    let (_, number) =
        TEXTS.iter().find(|(name, _)| *name == error).unwrap_or_else(|| panic!("no text of {error}"));
    let text = std::io::Error::from_raw_os_error(*number).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
