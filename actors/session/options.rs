//! What was agreed for a checkout, and how long its calls take.

use std::time::{Duration, Instant};

use super::CallQueue;
use crate::config::{OnCancel, Options};

/// What was agreed for one checkout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_timeout: Option<Duration>,
    pub(crate) idle_checkout_timeout: Option<Duration>,
    pub(crate) on_cancel: OnCancel,
    pub(crate) keep_after_error: bool,
    /// One call sent to the pool itself: it holds nothing, and the checkout ends with it.
    pub(crate) single: bool,
}

impl CallOptions {
    /// What the pool's options say.
    pub(crate) fn of(options: &Options) -> Self {
        CallOptions {
            timeout: options.timeout,
            wait_timeout: options.wait_timeout,
            idle_checkout_timeout: options.idle_checkout_timeout,
            on_cancel: options.on_cancel,
            keep_after_error: options.keep_after_error,
            single: false,
        }
    }

    /// The same for one call to the pool itself.
    pub(crate) fn single(options: &Options) -> Self {
        CallOptions { single: true, ..CallOptions::of(options) }
    }
}

/// How long a call waited for its worker, and how long the worker has had it.
#[derive(Clone, Copy)]
pub(super) struct CallTimes {
    pub(super) waited: Duration,
    pub(super) ran: Duration,
}

impl CallTimes {
    /// The times of the first call so far; `waited` is what it had waited when it was written.
    pub(super) fn of_first(calls: &CallQueue, waited: Duration, now: Instant) -> Self {
        let both = calls.wait(now);
        if calls.open() == 0 {
            return CallTimes { waited: both, ran: Duration::ZERO };
        }
        CallTimes { waited, ran: both.saturating_sub(waited) }
    }
}
