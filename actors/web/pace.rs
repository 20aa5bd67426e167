//! How long an upload may take, and how long it may stand still.

use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::{Error, HttpRequest};

use super::blob_body::BlobConfig;
use super::deadline::Deadline;
use super::upload_error::UploadError;
use crate::actors::threads::frozen_since;
use crate::actors::threads::real_time::LazyTimer;
use crate::clock::Instant;

/// The limits of time of one upload, and where it is.
pub(super) struct Pace {
    deadline: Option<Deadline>,
    /// Longest time without a byte.
    idle: Option<Duration>,
    /// When the last piece arrived, or the upload began.
    moved: Instant,
    /// One timer for both limits. A piece that arrives does not set it anew.
    timer: LazyTimer,
}

impl Pace {
    /// The pace of an upload that begins now.
    ///
    /// # Errors
    ///
    /// The response to a request whose deadline is no time.
    pub(super) fn of(request: &HttpRequest) -> Result<Self, Error> {
        let (deadline, idle) = (Deadline::of(request)?, BlobConfig::of(request).idle_timeout);
        Ok(Pace { deadline, idle, moved: Instant::now(), timer: LazyTimer::default() })
    }

    /// Notes that a piece has arrived.
    ///
    /// # Errors
    ///
    /// [`UploadError::TooSlow`] behind the deadline: a client that never pauses is not waited for, so no timer ends it.
    pub(super) fn note_piece(&mut self) -> Result<(), UploadError> {
        self.moved = Instant::now();
        match self.deadline {
            Some(Deadline { at, limit }) if at <= self.moved => Err(UploadError::TooSlow { limit }),
            _ => Ok(()),
        }
    }

    /// Is ready once the upload has taken too long. Until then the task is woken when it may have.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<UploadError> {
        while let Some((end, error)) = self.end() {
            if end <= Instant::now() {
                return Poll::Ready(error);
            }
            if !self.timer.poll(end, cx) {
                return Poll::Pending;
            }
        }
        Poll::Pending
    }

    /// Returns when and how the upload ends if no further piece arrives.
    fn end(&self) -> Option<(Instant, UploadError)> {
        let late = self.deadline.map(|Deadline { at, limit }| (at, UploadError::TooSlow { limit }));
        let stalled = self.idle.and_then(|limit| {
            // Nothing arrives while the application is frozen. A time beyond the range of the clock never passes.
            let end = self.moved.checked_add(limit.saturating_add(frozen_since(self.moved)))?;
            Some((end, UploadError::Stalled { limit }))
        });
        late.into_iter().chain(stalled).min_by_key(|(end, _)| *end)
    }
}
