//! The options of a checkout.

use std::time::Duration;

use crate::actors::scheduler::waiting::BulkheadId;
use crate::config::{OnCancel, Options};

/// The options of one checkout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_timeout: Option<Duration>,
    pub(crate) idle_checkout_timeout: Option<Duration>,
    pub(crate) on_cancel: OnCancel,
    pub(crate) keep_after_error: bool,
    /// The bulkhead that the checkout's worker counts towards, if there is one.
    pub(crate) bulkhead: Option<BulkheadId>,
}

impl CallOptions {
    /// Returns the pool's defaults for a checkout.
    pub(crate) fn of(options: &Options) -> Self {
        CallOptions {
            timeout: options.timeout,
            wait_timeout: options.wait_timeout,
            idle_checkout_timeout: options.idle_checkout_timeout,
            on_cancel: options.on_cancel,
            keep_after_error: options.keep_after_error,
            bulkhead: None,
        }
    }
}
