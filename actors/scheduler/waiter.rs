//! The mailbox through which the scheduler notifies a checkout that waits for a worker or holds one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::exit::ExitReport;
use super::holding::{Holding, Tenant};
use super::lease::Lease;
use crate::failure::Failure;

/// What has happened since the checkout last took its notice.
#[derive(Default)]
pub(crate) struct Notice {
    /// The worker that the checkout was granted.
    pub(crate) lease: Option<Lease>,
    /// Why the checkout gets no worker: it does not wait any more.
    pub(crate) refusal: Option<Failure>,
    /// Why an attempt to start a worker has failed. It fails the checkout's first call, and the checkout waits on.
    pub(crate) failed_start: Option<Failure>,
    /// The process of the checkout's worker has ended; the exit report follows, if there is one.
    pub(crate) worker_ended: bool,
    /// The checkout's worker was killed by a user's action. Set before its process is killed.
    pub(crate) killed: bool,
    /// How the checkout's worker exited.
    pub(crate) exit_report: Option<ExitReport>,
    /// The pool is stopping; queued calls may still run.
    pub(crate) closing: bool,
    /// The pool has stopped; the checkout's worker is to be killed.
    pub(crate) stopped: bool,
}

impl Notice {
    /// Returns whether it concerns a holder that makes no call.
    pub(crate) fn concerns_an_idle_holder(&self) -> bool {
        let Notice {
            lease: _,
            refusal: _,
            failed_start: _,
            worker_ended,
            killed,
            exit_report,
            closing,
            stopped,
        } = self;
        *worker_ended || *killed || *closing || *stopped || exit_report.is_some()
    }
}

/// One checkout as the scheduler knows it, from its request for a worker to its release.
pub(crate) struct Waiter {
    pub(crate) id: u64,
    /// Whether a call waits on the checkout that no failed attempt to start a worker has failed: only such a checkout can be
    /// failed with one.
    pub(crate) has_call: AtomicBool,
    /// What it shows of the worker that it holds.
    pub(crate) holding: Holding,
    has_notice: AtomicBool,
    mailbox: Mutex<Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    notice: Notice,
    waker: Option<Waker>,
}

impl Waiter {
    pub(crate) fn new(id: u64, tenant: Tenant) -> Arc<Self> {
        Arc::new(Waiter {
            id,
            has_call: AtomicBool::new(false),
            holding: Holding::new(tenant),
            has_notice: AtomicBool::new(false),
            mailbox: Mutex::new(Mailbox::default()),
        })
    }

    /// Writes to the checkout's notice and returns its waker. Call the waker without holding a lock.
    #[must_use = "the checkout sleeps until it is woken"]
    pub(crate) fn notify(&self, write: impl FnOnce(&mut Notice)) -> Option<Waker> {
        let mut mailbox = self.mailbox.lock();
        write(&mut mailbox.notice);
        self.has_notice.store(true, Ordering::Release);
        mailbox.waker.clone()
    }

    /// Sets the task that later notices wake.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        self.mailbox.lock().waker = Some(waker.clone());
    }

    /// Returns whether there is something new.
    pub(crate) fn has_notice(&self) -> bool {
        self.has_notice.load(Ordering::Acquire)
    }

    /// Looks at the notice, which stays; returns `None` if there is nothing new.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&mut Notice) -> T) -> Option<T> {
        self.has_notice().then(|| look(&mut self.mailbox.lock().notice))
    }

    /// Takes the notice, or returns `None` if there is nothing new.
    pub(crate) fn take_notice(&self) -> Option<Notice> {
        if !self.has_notice() {
            return None;
        }
        let mut mailbox = self.mailbox.lock();
        self.has_notice.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut mailbox.notice))
    }
}
