//! Wakes a task at a time that is exact to microseconds, where the runtime's timers are exact to a millisecond.

use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use tokio::io::unix::AsyncFd;

use crate::clock::Instant;
use crate::sys::{alarm, reactor};

/// A timer that is made when it is needed first.
#[derive(Default)]
pub(crate) struct Alarm {
    timer: Option<AsyncFd<OwnedFd>>,
    set_for: Option<Instant>,
    /// Whether the system has refused to make one.
    is_refused: bool,
}

impl Alarm {
    /// Has the task woken at this time; returns `false` if that cannot be done.
    pub(crate) fn wake_at(&mut self, at: Instant, now: Instant, cx: &mut Context<'_>) -> bool {
        if self.timer.is_none() && !self.is_refused {
            self.timer = alarm::create().ok().and_then(|timer| reactor::register(timer).ok());
            self.is_refused = self.timer.is_none();
        }
        let Some(timer) = &self.timer else { return false };
        if self.set_for == Some(at) {
            return true;
        }
        if alarm::set(timer.get_ref(), at.saturating_duration_since(now)).is_err() {
            return false;
        }
        self.set_for = Some(at);
        // Setting it has discarded that it had fired before.
        while let Poll::Ready(Ok(mut guard)) = timer.poll_read_ready(cx) {
            guard.clear_ready();
        }
        true
    }
}
