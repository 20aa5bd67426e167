//! Sockets: creating and connecting them, and the credentials of their peers.

use std::ffi::OsStr;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketType;

use super::faults;
use super::faults::Call;

/// Creates a connected pair of close-on-exec stream sockets.
///
/// # References
///
/// - [socketpair(2)](https://man7.org/linux/man-pages/man2/socketpair.2.html)
#[cfg(feature = "actors")]
pub(crate) fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags};
    faults::point(Call::Socketpair)?;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Connects to the Unix socket at `path`. It does not wait for a busy listener: it fails with `AGAIN`.
#[cfg(feature = "actors")]
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

/// Starts to connect to a TCP port. Neither the connecting nor later reads and writes block.
#[cfg(feature = "actors")]
pub(crate) fn connect_tcp(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::AsFd as _;

    use rustix::net::{AddressFamily, SocketFlags};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    faults::point(Call::Socket)?;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    configure_tcp(socket.as_fd())?;
    faults::point(Call::Connect)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Keepalive of a TCP connection: idle time before the first probe, time between probes, and how many may be
/// unanswered.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// A TCP connection ends if sent bytes stay unacknowledged for this long, in milliseconds.
const USER_TIMEOUT_MILLIS: u32 = 25_000;

/// Makes a TCP connection send at once, and detect a peer that is gone without notice.
///
/// # References
///
/// - [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html), `TCP_KEEPIDLE`, `TCP_USER_TIMEOUT`
pub(crate) fn configure_tcp(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    faults::point(Call::Setsockopt)?;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, idle)?;
    sockopt::set_tcp_keepintvl(fd, interval)?;
    sockopt::set_tcp_keepcnt(fd, count)?;
    sockopt::set_tcp_user_timeout(fd, USER_TIMEOUT_MILLIS)
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
    pub(crate) pid: u32,
    pub(crate) user: u32,
    /// Its primary and supplementary groups.
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
    let credentials = rustix::net::sockopt::socket_peercred(fd)?;
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
    groups.push(credentials.gid.as_raw());
    let pid = u32::try_from(credentials.pid.as_raw_nonzero().get()).map_err(|_| Errno::SRCH)?;
    Ok(PeerCredentials { pid, user: credentials.uid.as_raw(), groups })
}

/// The effective user of this process.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
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
