//! Descriptors that the application's reactor watches.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current thread's reactor, for reading.
///
/// A socket that is watched for writing wakes its task whenever its peer has read something, for nothing in most
/// cases; whoever has to write much registers with [`register_both_ways`].
///
/// # Errors
///
/// What the system said; the descriptor is closed.
pub(crate) fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    with_interest(descriptor, Interest::READABLE)
}

/// The same for reading and writing.
///
/// # Errors
///
/// As [`register`].
pub(crate) fn register_both_ways(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    with_interest(descriptor, Interest::READABLE | Interest::WRITABLE)
}

/// Registers a descriptor that others read from, too, for reading.
///
/// # Errors
///
/// As [`register`].
pub(crate) fn register_shared(descriptor: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: register_with_interest demands that the descriptor is open and is neither closed nor replaced while it is
    // registered; the `AsyncFd` owns a share of an `OwnedFd`, which lives as long as any share, and nobody replaces
    // what is shared.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

fn with_interest(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: register_with_interest demands that the descriptor is open and is neither closed nor replaced while it is
    // registered; an `OwnedFd` is open, the `AsyncFd` owns it, and it lends it out by shared reference alone.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}
