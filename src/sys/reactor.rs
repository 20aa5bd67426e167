//! Registers descriptors with the application's reactor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::faults;
use super::faults::Call;

/// Registers a descriptor with the current thread's reactor, for reading.
///
/// A socket registered for writing wakes its task each time its peer has read something, mostly for nothing. A task
/// that writes much uses [`register_read_write`].
///
/// # Errors
///
/// The system's error; the descriptor is closed then.
pub(crate) fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    with_interest(descriptor, Interest::READABLE)
}

/// Registers a descriptor with the current thread's reactor, for reading and writing.
///
/// # Errors
///
/// Those of [`register`].
pub(crate) fn register_read_write(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    with_interest(descriptor, Interest::READABLE | Interest::WRITABLE)
}

/// Registers a descriptor that other tasks read from as well, for reading.
///
/// # Errors
///
/// Those of [`register`].
pub(crate) fn register_shared(descriptor: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    faults::point(Call::EpollCtl)?;
    // SAFETY: register_with_interest demands that the descriptor is open and is neither closed nor replaced while it is
    // registered; the `AsyncFd` holds a share of an `OwnedFd`, which lives as long as any share, and a shared value
    // cannot be replaced.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

fn with_interest(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    faults::point(Call::EpollCtl)?;
    // SAFETY: register_with_interest demands that the descriptor is open and is neither closed nor replaced while it is
    // registered; an `OwnedFd` is open, the `AsyncFd` owns it, and gives access to it by shared reference alone.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}
