//! What was agreed for a checkout, and how long its calls take.

use std::time::{Duration, Instant};

use super::Calls;
use crate::config::{OnCancel, Options};

/// What was agreed for one checkout.
#[derive(Clone, Copy, Debug)]
pub(in crate::actors) struct Terms {
    pub(in crate::actors) timeout: Option<Duration>,
    pub(in crate::actors) wait_timeout: Option<Duration>,
    pub(in crate::actors) idle_checkout_timeout: Option<Duration>,
    pub(in crate::actors) on_cancel: OnCancel,
    pub(in crate::actors) keep_after_error: bool,
    /// One call sent to the pool itself: it holds nothing, and the checkout ends with it.
    pub(in crate::actors) single: bool,
}

impl Terms {
    /// What the pool's options say.
    pub(in crate::actors) fn of(options: &Options) -> Self {
        Terms {
            timeout: options.timeout,
            wait_timeout: options.wait_timeout,
            idle_checkout_timeout: options.idle_checkout_timeout,
            on_cancel: options.on_cancel,
            keep_after_error: options.keep_after_error,
            single: false,
        }
    }

    /// The same for one call to the pool itself.
    pub(in crate::actors) fn single(options: &Options) -> Self {
        Terms { single: true, ..Terms::of(options) }
    }
}

/// How long a call waited for its worker, and how long the worker has had it.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) waited: Duration,
    pub(super) ran: Duration,
}

impl Times {
    /// The times of the first call so far; `waited` is what it had waited when it was written.
    pub(super) fn of_first(calls: &Calls, waited: Duration, now: Instant) -> Self {
        let both = calls.wait(now);
        if calls.open() == 0 {
            return Times { waited: both, ran: Duration::ZERO };
        }
        Times { waited, ran: both.saturating_sub(waited) }
    }
}
