//! Descriptors that the application's reactor watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current thread's reactor, for reading and, if asked, for writing.
///
/// A socket that is watched for writing wakes its task whenever its peer has read something, so that is asked
/// for only while something is to be written and does not fit.
///
/// # Errors
///
/// What the system said; the descriptor is closed.
pub(crate) fn register(descriptor: OwnedFd, writing: bool) -> io::Result<AsyncFd<OwnedFd>> {
    let interest = if writing { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
    // SAFETY: register_with_interest demands that the descriptor is open and is neither closed nor replaced while it is
    // registered; an `OwnedFd` is open, the `AsyncFd` owns it, and it lends it out by shared reference alone.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}
