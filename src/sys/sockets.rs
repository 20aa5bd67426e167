//! Sockets: creating and connecting them, and the credentials of their peers.

use std::ffi::OsStr;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketType;

use super::descriptors::last_errno;
use super::faults;
use super::faults::Call;
#[cfg(feature = "actors")]
use super::process::Owner;

/// Creates a connected pair of close-on-exec stream sockets.
///
/// # References
///
/// - [socketpair(2)](https://man7.org/linux/man-pages/man2/socketpair.2.html)
pub(crate) fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags};
    faults::point(Call::Socketpair)?;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Connects to the Unix socket at `path`. It does not wait for a busy listener: it fails with `AGAIN`.
pub(crate) fn connect(path: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    faults::point(Call::Socket)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = rustix::net::SocketAddrUnix::new(path)?;
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Connect)?;
        rustix::net::connect(&socket, &address)
    })?;
    Ok(socket)
}

/// Refuses what the other side sends from now on: it gets `PIPE`. What has arrived can still be read.
///
/// # References
///
/// - [shutdown(2)](https://man7.org/linux/man-pages/man2/shutdown.2.html), `SHUT_RD`
pub(crate) fn stop_receiving(socket: BorrowedFd<'_>) {
    // It fails only where the other side is gone.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
}

/// Ends a connection for both sides, although another process may hold this end of it as well. In a copy of its owner
/// it does nothing.
///
/// # References
///
/// - [shutdown(2)](https://man7.org/linux/man-pages/man2/shutdown.2.html)
#[cfg(feature = "actors")]
pub(crate) fn hang_up(socket: BorrowedFd<'_>, owner: Owner) {
    if owner.is_this() {
        // It fails only where the other side has ended it already.
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
    }
}

/// Starts to connect to a TCP port. Neither the connecting nor later reads and writes block. For `patience` see
/// [`configure_tcp`].
#[cfg(feature = "actors")]
pub(crate) fn connect_tcp(address: SocketAddr, patience: Duration) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::AsFd as _;

    use rustix::net::{AddressFamily, SocketFlags};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    faults::point(Call::Socket)?;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    configure_tcp(socket.as_fd(), patience)?;
    faults::point(Call::Connect)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Keepalive of a TCP connection: time between probes, and how many may be unanswered.
const KEEPALIVE: (Duration, u32) = (Duration::from_secs(10), 3);

/// Longest idle time before the first probe that the kernel accepts.
const LONGEST_IDLE: Duration = Duration::from_secs(32_767);

/// Makes a TCP connection send at once, and end some time after the machine of its peer has not answered for `patience`,
/// which is at least a second.
///
/// It sets no `TCP_USER_TIMEOUT`: that also ends a connection whose peer is alive and has not read for as long, such as a
/// worker that gets a large argument while its call before still runs. That a peer is gone while bytes are on their way to
/// it shows on the control connection.
///
/// # References
///
/// - [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html), `TCP_KEEPIDLE`, `TCP_USER_TIMEOUT`
pub(crate) fn configure_tcp(fd: BorrowedFd<'_>, patience: Duration) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    faults::point(Call::Setsockopt)?;
    let (interval, count) = KEEPALIVE;
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, patience.min(LONGEST_IDLE))?;
    sockopt::set_tcp_keepintvl(fd, interval)?;
    sockopt::set_tcp_keepcnt(fd, count)
}

/// What is at the path of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occupant {
    /// A process listens there; its pid, if this process sees it.
    Listener(Option<u32>),
    /// A stream socket that no process listens at.
    Dead,
    /// A socket that is no listening stream socket.
    OtherSocket,
}

/// Finds out whether a process listens at a path where a socket is.
///
/// # Errors
///
/// The error of the connection if it says neither: this process is not permitted to connect, say.
///
/// # References
///
/// - [connect(2)](https://man7.org/linux/man-pages/man2/connect.2.html), [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)
pub(crate) fn occupant_of(path: &std::path::Path) -> rustix::io::Result<Occupant> {
    use std::os::fd::AsFd as _;
    match connect(path) {
        Ok(socket) => Ok(Occupant::Listener(peer_credentials(socket.as_fd())?.pid)),
        // Its backlog is full.
        Err(Errno::AGAIN) => Ok(Occupant::Listener(None)),
        Err(Errno::CONNREFUSED) => Ok(Occupant::Dead),
        Err(Errno::PROTOTYPE) => Ok(Occupant::OtherSocket),
        Err(error) => Err(error),
    }
}

/// Most connections that wait to be accepted. The system may limit it further (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Binds a Unix socket with mode 0600 to `path`, where nothing may be. Its peers may not pass descriptors. Processes can
/// connect once it listens, see [`listen_unix`].
pub(crate) fn bind_unix(path: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::AsFd as _;

    use rustix::fs::Mode;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags};
    faults::point(Call::Socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The name in the file system gets the mode that the socket has when it is bound.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let_pass_descriptors(socket.as_fd(), false);
    Ok(socket)
}

/// The option of a socket whether its peers may pass descriptors to it.
const SO_PASSRIGHTS: libc::c_int =
    if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x5c } else { 83 };

/// Sets whether peers of a Unix socket may pass descriptors to it. Connections inherit that from their listener.
///
/// A descriptor that is not wanted would have to be closed, and closing some waits: a TCP socket with `SO_LINGER`, a file
/// of a file system that does not answer. So it is better not to get it. Kernels before 6.16 cannot refuse it, and nothing
/// is changed there.
///
/// # References
///
/// - [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html), `SO_PASSRIGHTS`
pub(crate) fn let_pass_descriptors(socket: BorrowedFd<'_>, let_pass: bool) {
    let value = libc::c_int::from(let_pass);
    // SAFETY: setsockopt demands a buffer of the given length, which the number on this frame is.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}

/// Has a bound Unix socket listen.
pub(crate) fn listen_unix(socket: OwnedFd) -> rustix::io::Result<UnixListener> {
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Has a Unix socket listen that listens already, so that its peers see the credentials of this process.
pub(crate) fn listen_again(socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::net::listen(socket, BACKLOG)
}

/// Accepts a connection to a Unix socket.
pub(crate) fn accept_unix(listener: &UnixListener) -> std::io::Result<OwnedFd> {
    faults::point(Call::Accept)?;
    listener.accept().map(|(socket, _)| socket.into())
}

/// Accepts a TCP connection.
pub(crate) fn accept_tcp(listener: &TcpListener) -> std::io::Result<(OwnedFd, SocketAddr)> {
    faults::point(Call::Accept)?;
    listener.accept().map(|(socket, from)| (socket.into(), from))
}

/// Connects to the Unix socket at `path`; connecting, each read and each write block for at most `limit`.
///
/// # References
///
/// - [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html), `SO_RCVTIMEO`
pub(crate) fn connect_with_timeout(path: &std::path::Path, limit: Duration) -> rustix::io::Result<OwnedFd> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags};
    faults::point(Call::Socket)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, timeout, Some(limit))?;
    }
    let address = SocketAddrUnix::new(path)?;
    rustix::io::retry_on_intr(|| {
        faults::point(Call::Connect)?;
        rustix::net::connect(&socket, &address)
    })?;
    Ok(socket)
}

/// Credentials of the peer of a Unix socket, as of when it connected or began to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCredentials {
    /// `None` for a process of a PID namespace that this process does not see.
    pub(crate) pid: Option<u32>,
    /// `None` for a user of another user namespace who has no number in this one.
    pub(crate) user: Option<u32>,
    /// Its primary and supplementary groups, as far as they have a number in this user namespace.
    pub(crate) groups: Vec<u32>,
}

/// Most supplementary groups that are read.
const MAX_GROUPS: usize = 1024;

/// Returns the credentials of the peer of a Unix socket.
///
/// # References
///
/// - [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SO_PEERCRED`
/// - [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html), `SO_PEERGROUPS`
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> rustix::io::Result<PeerCredentials> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of_val(&credentials)).map_err(|_| Errno::INVAL)?;
    // SAFETY: getsockopt demands a buffer of `length` bytes, and a valid pointer to that length; both live on this
    // frame, and any bytes are valid numbers.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &mut length,
        )
    };
    if result != 0 {
        return Err(last_errno());
    }
    let mut groups = vec![0_u32; MAX_GROUPS];
    let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(|_| Errno::INVAL)?;
    // SAFETY: getsockopt demands a buffer of `length` bytes, and a valid pointer to that length; both live on this
    // frame, and any bytes are valid numbers.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &mut length,
        )
    };
    // A peer with more groups than that is known by its primary group alone.
    groups.truncate(if result == 0 { length as usize / size_of::<u32>() } else { 0 });
    groups.push(credentials.gid);
    groups.retain(|&group| is_mapped("/proc/self/gid_map", group));
    let user = Some(credentials.uid).filter(|&user| is_mapped("/proc/self/uid_map", user));
    // The number is 0 for a process of a namespace outside of this one.
    let pid = u32::try_from(credentials.pid).ok().filter(|&pid| pid != 0);
    Ok(PeerCredentials { pid, user, groups })
}

/// The option of a Unix socket that opens a descriptor of its peer's process; known since Linux 6.5.
const SO_PEERPIDFD: libc::c_int =
    if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x56 } else { 77 };

/// Opens a descriptor of the process at the other end of a Unix socket: the one that connected, or that made the pair. It
/// becomes readable when that process ends, although another one may hold the socket then.
///
/// # Errors
///
/// `SRCH` if that process is gone or this process does not see it, or the system's error.
///
/// # References
///
/// - [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SO_PEERPIDFD`
pub(crate) fn peer_process(socket: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    faults::point(Call::PidfdOpen)?;
    let mut pidfd: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of_val(&pidfd)).map_err(|_| Errno::INVAL)?;
    // SAFETY: getsockopt demands a buffer of `length` bytes, and a valid pointer to that length; both live on this
    // frame, and any bytes are a valid number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
            &mut length,
        )
    };
    match (result, last_errno()) {
        // SAFETY: from_raw_fd demands an open descriptor with no other owner; the kernel has just made it for this call.
        (0, _) => Ok(unsafe { OwnedFd::from_raw_fd(pidfd) }),
        // Some kernels say this of a process that is reaped.
        (_, Errno::INVAL) => Err(Errno::SRCH),
        (_, Errno::NOPROTOOPT) => {
            let number = peer_credentials(socket)?.pid.and_then(|pid| i32::try_from(pid).ok());
            let pid = number.and_then(super::process::Pid::from_raw).ok_or(Errno::SRCH)?;
            super::process::open_pidfd(pid)
        }
        (_, error) => Err(error),
    }
}

/// What the kernel says in place of a user or group that has no number in this user namespace.
///
/// # References
///
/// - [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html), "Unmapped user and group IDs"
const OVERFLOW: u32 = 65534;

/// Whether a number that the kernel has said is that of a user or group, and not the one for all unmapped ones.
fn is_mapped(map: &str, number: u32) -> bool {
    // Without `/proc` the number is taken as it is: then it is the initial namespace that is set up badly.
    number != OVERFLOW || std::fs::read_to_string(map).map_or(true, |map| maps_all(&map))
}

/// Whether a map has a number for every user or group, as that of the initial namespace.
fn maps_all(map: &str) -> bool {
    let lengths = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    lengths.sum::<u64>() >= u64::from(u32::MAX)
}

/// The effective user of this process.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The effective group of this process.
#[cfg(feature = "actors")]
pub(crate) fn own_group() -> u32 {
    rustix::process::getegid().as_raw()
}

/// Whether this is a stream socket.
pub(crate) fn is_stream_socket(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_type(fd) == Ok(SocketType::STREAM)
}

/// Whether this is a listening stream socket.
pub(crate) fn is_listener(fd: BorrowedFd<'_>) -> bool {
    is_stream_socket(fd) && rustix::net::sockopt::socket_acceptconn(fd) == Ok(true)
}

/// Whether this is a listening Unix socket.
pub(crate) fn is_unix_listener(fd: BorrowedFd<'_>) -> bool {
    use rustix::net::{AddressFamily, sockopt};
    is_listener(fd) && sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
}

/// Sends one datagram to a Unix socket: a path, or an abstract name behind `@`. It never waits.
///
/// # Errors
///
/// `WouldBlock` if the receiver has no room, or the system's error; nothing was sent.
///
/// # References
///
/// - [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)
pub(crate) fn send_datagram(address: &OsStr, bytes: &[u8]) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(bytes, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G10: neither end gives up a peer that is alive and has not read for long, nor one that is paused for as long as it
    /// may be.
    #[cfg(feature = "actors")]
    #[test]
    fn a_connection_lasts_as_long_as_its_peer_answers() {
        use std::os::fd::AsFd as _;

        use rustix::net::sockopt;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        for patience in [Duration::from_secs(30), Duration::from_secs(100_000)] {
            let socket = connect_tcp(address, patience).expect("a connection");
            assert_eq!(
                sockopt::tcp_user_timeout(socket.as_fd()),
                Ok(0),
                "what is unacknowledged may stay so"
            );
            assert_eq!(sockopt::socket_keepalive(socket.as_fd()), Ok(true));
            let idle = sockopt::tcp_keepidle(socket.as_fd()).expect("an option");
            assert_eq!(idle, patience.min(LONGEST_IDLE));
        }
    }

    /// G5
    #[test]
    fn the_process_at_the_other_end_is_seen_to_end_although_another_holds_the_socket() -> std::io::Result<()>
    {
        use std::os::fd::AsFd as _;
        use std::os::unix::net::UnixStream;
        let (ours, theirs) = UnixStream::pair()?;
        let own = peer_process(ours.as_fd())?;
        assert!(!super::super::descriptors::is_readable(own.as_fd()), "this process has made both ends");
        drop(theirs);
        assert!(peer_process(ours.as_fd()).is_ok(), "and runs");
        let (read, write) = std::io::pipe()?;
        assert!(peer_process(read.as_fd()).is_err() && peer_process(write.as_fd()).is_err());
        Ok(())
    }

    /// S10
    #[test]
    fn a_number_for_all_unmapped_users_is_none_of_a_user() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0       1000          1\n"));
        assert!(!maps_all("0 100000 65536\n65536 0 1\n"));
        assert!(!maps_all(""));
        assert!(is_mapped("/no/such/map", OVERFLOW - 1));
    }
}
