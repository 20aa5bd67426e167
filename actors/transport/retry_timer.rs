//! Waits before a call of the kernel is tried again whose error passes.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use actix_rt::time::{Sleep, sleep};

use crate::sys::passing::RETRY_WAIT;

/// A timer of one end of a channel. It is started without a runtime, and runs once it is polled in one.
#[derive(Default)]
pub(super) enum RetryTimer {
    /// Nothing is to be tried again.
    #[default]
    Idle,
    /// A call is to be tried again after the wait.
    Wanted,
    /// The wait runs.
    Running(Pin<Box<Sleep>>),
}

impl RetryTimer {
    /// Notes that a call is to be tried again.
    pub(super) fn start(&mut self) {
        if matches!(self, RetryTimer::Idle) {
            *self = RetryTimer::Wanted;
        }
    }

    /// Returns whether a call is to be tried again.
    pub(super) fn is_started(&self) -> bool {
        !matches!(self, RetryTimer::Idle)
    }

    /// Returns whether no wait runs any more, or registers the task to be woken at its end.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> bool {
        if matches!(self, RetryTimer::Wanted) {
            *self = RetryTimer::Running(Box::pin(sleep(RETRY_WAIT)));
        }
        if let RetryTimer::Running(wait) = self {
            if wait.as_mut().poll(cx).is_pending() {
                return false;
            }
            *self = RetryTimer::Idle;
        }
        true
    }
}
