//! The mailbox through which the scheduler notifies a checkout that waits for a worker or holds one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::exit::ExitReport;
use super::lease::Lease;
use crate::failure::Failure;

/// What has happened since the checkout last took its notice.
#[derive(Default)]
pub(crate) struct Notice {
    /// The worker that the checkout was granted.
    pub(crate) lease: Option<Lease>,
    /// Why the checkout gets no worker.
    pub(crate) refusal: Option<Failure>,
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

/// One checkout as the scheduler knows it, from its request for a worker to its release.
pub(crate) struct Waiter {
    pub(crate) id: u64,
    /// Whether a call is queued on the checkout: only such a checkout can be failed with a failed set-up.
    pub(crate) has_call: AtomicBool,
    has_notice: AtomicBool,
    mailbox: Mutex<Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    notice: Notice,
    waker: Option<Waker>,
}

impl Waiter {
    pub(crate) fn new(id: u64) -> Arc<Self> {
        Arc::new(Waiter {
            id,
            has_call: AtomicBool::new(false),
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
