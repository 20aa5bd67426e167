//! Sockets: making them, finding somebody at the other end, and knowing who that is.

#[cfg(feature = "actors")]
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketType;

/// A connected pair of close-on-exec stream sockets.
///
/// # References
///
/// - [socketpair(2)](https://man7.org/linux/man-pages/man2/socketpair.2.html)
#[cfg(feature = "actors")]
pub(crate) fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// A connection to whoever listens at a path; it does not wait for a listener that is busy.
#[cfg(feature = "actors")]
pub(crate) fn connect(path: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = rustix::net::SocketAddrUnix::new(path)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
    Ok(socket)
}

/// A connection to a port, on its way or made: it does not wait for the other side, and neither do reads and writes.
#[cfg(feature = "actors")]
pub(crate) fn connect_net(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::AsFd as _;

    use rustix::net::{AddressFamily, SocketFlags};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    set_up_net(socket.as_fd())?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Idle time after which a peer over a network is asked whether it is still there, how long between two questions, and how
/// many may stay unanswered.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// What was sent and not confirmed for so long ends a connection, in milliseconds.
const UNCONFIRMED: u32 = 25_000;

/// Has a connection over a network send at once, and notice a peer that is gone without a word.
///
/// # References
///
/// - [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html), `TCP_KEEPIDLE`, `TCP_USER_TIMEOUT`
pub(crate) fn set_up_net(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, idle)?;
    sockopt::set_tcp_keepintvl(fd, interval)?;
    sockopt::set_tcp_keepcnt(fd, count)?;
    sockopt::set_tcp_user_timeout(fd, UNCONFIRMED)
}

/// A connection to whoever listens at a path, whose connecting, reading and writing wait for at most so long each.
///
/// # References
///
/// - [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html), `SO_RCVTIMEO`
pub(crate) fn connect_waiting(path: &std::path::Path, patience: Duration) -> rustix::io::Result<OwnedFd> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags};
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, timeout, Some(patience))?;
    }
    let address = SocketAddrUnix::new(path)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
    Ok(socket)
}

/// Whose the other end of a Unix socket is: of whoever connected, or at their end of whoever listened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCredentials {
    pub(crate) pid: u32,
    pub(crate) user: u32,
    /// Its own group and its supplementary ones.
    pub(crate) groups: Vec<u32>,
}

/// The most groups that are asked for.
const MOST_GROUPS: usize = 1024;

/// Tells who is at the other end of a Unix socket.
///
/// # References
///
/// - [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SO_PEERCRED`
/// - [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html), `SO_PEERGROUPS`
pub(crate) fn peer(fd: BorrowedFd<'_>) -> rustix::io::Result<PeerCredentials> {
    let credentials = rustix::net::sockopt::socket_peercred(fd)?;
    let mut groups = vec![0_u32; MOST_GROUPS];
    let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(|_| Errno::INVAL)?;
    // SAFETY: getsockopt demands room for as many bytes as `length` says, and a valid length; both live on this frame,
    // and any bytes are numbers.
    let told = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &mut length,
        )
    };
    // Somebody with more groups than that is known by the first of them alone.
    groups.truncate(if told == 0 { length as usize / size_of::<u32>() } else { 0 });
    groups.push(credentials.gid.as_raw());
    let pid = u32::try_from(credentials.pid.as_raw_nonzero().get()).map_err(|_| Errno::SRCH)?;
    Ok(PeerCredentials { pid, user: credentials.uid.as_raw(), groups })
}

/// The user this process acts as.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether a stream socket is what stands at this number.
pub(crate) fn is_stream_socket(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_type(fd) == Ok(SocketType::STREAM)
}

/// Whether this is a stream socket that listens.
pub(crate) fn listens(fd: BorrowedFd<'_>) -> bool {
    is_stream_socket(fd) && rustix::net::sockopt::socket_acceptconn(fd) == Ok(true)
}

/// The same, and for whoever is on this machine.
pub(crate) fn is_unix_listener(fd: BorrowedFd<'_>) -> bool {
    use rustix::net::{AddressFamily, sockopt};
    listens(fd) && sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
}
