//! How one side of the rings wakes the other: a byte in a pipe, one pipe for each direction.
//!
//! A pipe costs the sleeping and the waking side half of what a socket does, and its end-of-file also reports that the
//! other side is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::passing::retry;
use crate::sys::{Errno, descriptors};

/// The worker's ends of both doorbells.
#[derive(Debug)]
pub(crate) struct WorkerDoorbells {
    /// Receives notifications; reads block.
    pub(crate) rx: OwnedFd,
    /// Sends notifications.
    pub(crate) tx: OwnedFd,
}

impl WorkerDoorbells {
    /// Waits for a notification; returns `false` if the host is gone.
    pub(super) fn wait(&self) -> io::Result<bool> {
        Ok(retry(|| descriptors::read_and_discard(self.rx.as_fd()))? > 0)
    }

    /// Notifies the host. A host that is gone is not an error.
    pub(super) fn notify(&self) -> io::Result<()> {
        retry(|| match descriptors::write(self.tx.as_fd(), &[0]) {
            // A full pipe holds enough notifications already.
            Ok(_) | Err(Errno::PIPE | Errno::AGAIN) => Ok(()),
            Err(error) => Err(error),
        })
    }
}

/// The host's ends of both doorbells.
#[cfg(any(feature = "actors", test))]
#[derive(Debug)]
pub(crate) struct HostDoorbells {
    /// Receives notifications; reads do not block.
    pub(crate) rx: OwnedFd,
    /// Sends notifications.
    pub(crate) tx: DoorbellSender,
}

/// The host's sending end of a doorbell.
#[cfg(any(feature = "actors", test))]
#[derive(Debug)]
pub(crate) struct DoorbellSender(OwnedFd);

#[cfg(any(feature = "actors", test))]
impl DoorbellSender {
    /// Notifies the worker. Never blocks, whatever the worker has done to its own end.
    pub(crate) fn notify(&self) -> rustix::io::Result<()> {
        match descriptors::write(self.0.as_fd(), &[0]) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Creates both doorbells.
///
/// # Errors
///
/// The system's error; all descriptors are closed then.
#[cfg(any(feature = "actors", test))]
pub(crate) fn doorbells() -> rustix::io::Result<(HostDoorbells, WorkerDoorbells)> {
    let (rx, worker_tx) = descriptors::pipe()?;
    descriptors::set_nonblocking(worker_tx.as_fd())?;
    let (worker_rx, tx) = descriptors::blocking_pipe()?;
    // This end is open for reading as well: writing to a pipe that has a reader raises no SIGPIPE. The flags are those
    // of this end alone, so the worker cannot change them.
    let tx = DoorbellSender(descriptors::reopen_read_write(tx.as_fd())?);
    Ok((HostDoorbells { rx, tx }, WorkerDoorbells { rx: worker_rx, tx: worker_tx }))
}
