//! Descriptors that the application's reactor watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current thread's reactor.
///
/// # Errors
///
/// What the system said; the descriptor is closed.
pub(crate) fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: register demands that the descriptor is open and is neither closed nor replaced while it is
    // registered; an `OwnedFd` is open, the `AsyncFd` owns it, and it lends it out by shared reference alone.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
