//! How one side of the rings wakes the other: a byte in a pipe, of which there is one in each direction.
//!
//! A pipe costs half of what a socket does, for whoever sleeps as well as for whoever wakes, and its end says as well that
//! the other side is gone.

use std::os::fd::{AsFd, OwnedFd};

use crate::sys::{Errno, descriptors};

/// Bytes taken at once from what was rung: more than ever wait there.
const RINGS: usize = 64;

/// The worker's ends of both.
#[derive(Debug)]
pub(crate) struct WorkerDoorbells {
    /// What it hears; reading waits.
    pub(crate) rx: OwnedFd,
    /// What it rings.
    pub(crate) tx: OwnedFd,
}

impl WorkerDoorbells {
    /// Waits until it rings; `false` where it never will again.
    pub(super) fn hear(&self) -> rustix::io::Result<bool> {
        let mut rings = Vec::with_capacity(RINGS);
        Ok(descriptors::read(self.rx.as_fd(), &mut rings)? > 0)
    }

    /// Rings for the host; where it is gone that is nobody's loss.
    pub(super) fn ring(&self) -> rustix::io::Result<()> {
        match descriptors::write(self.tx.as_fd(), &[0]) {
            // Enough rings that were not heard yet do as well.
            Ok(_) | Err(Errno::PIPE | Errno::AGAIN) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The host's ends of both.
#[cfg(any(feature = "actors", test))]
#[derive(Debug)]
pub(crate) struct HostDoorbells {
    /// What it hears; reading does not wait.
    pub(crate) rx: OwnedFd,
    pub(crate) tx: DoorbellSender,
}

/// What the host rings.
#[cfg(any(feature = "actors", test))]
#[derive(Debug)]
pub(crate) struct DoorbellSender(OwnedFd);

#[cfg(any(feature = "actors", test))]
impl DoorbellSender {
    /// Rings for the worker, and never waits, whatever it has done to its own end.
    pub(crate) fn ring(&self) -> rustix::io::Result<()> {
        match descriptors::write(self.0.as_fd(), &[0]) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Both bells.
///
/// # Errors
///
/// What the system said; nothing is left behind.
#[cfg(any(feature = "actors", test))]
pub(crate) fn doorbells() -> rustix::io::Result<(HostDoorbells, WorkerDoorbells)> {
    let (rx, theirs) = descriptors::pipe()?;
    descriptors::set_nonblocking(theirs.as_fd())?;
    let (their_ear, tx) = descriptors::blocking_pipe()?;
    // One end that could be read from as well: a pipe that somebody may read from kills nobody who writes to it, and how
    // this end is open is no business of whoever has the other.
    let tx = DoorbellSender(descriptors::reopen_both_ways(tx.as_fd())?);
    Ok((HostDoorbells { rx, tx }, WorkerDoorbells { rx: their_ear, tx: theirs }))
}
