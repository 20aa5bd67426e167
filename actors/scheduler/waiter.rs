//! What the desk tells a checkout that waits for a worker or holds one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::exit::ExitReport;
use super::lease::Lease;
use crate::failure::Failure;

/// What has happened since the checkout last looked.
#[derive(Default)]
pub(crate) struct Notice {
    /// It has a worker.
    pub(crate) lease: Option<Lease>,
    /// It will get none.
    pub(crate) refusal: Option<Failure>,
    /// Its worker is dead.
    pub(crate) exit_report: Option<ExitReport>,
    /// The pool is stopping: what is queued may still run.
    pub(crate) closing: bool,
    /// The pool has stopped: what still runs is killed.
    pub(crate) stopped: bool,
}

/// A checkout's place at the desk, from its asking to its release.
pub(crate) struct Waiter {
    pub(crate) id: u64,
    /// Whether it has something to run, so that a failed set-up has somebody to be told to.
    pub(crate) has_call: AtomicBool,
    fresh: AtomicBool,
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
            fresh: AtomicBool::new(false),
            mailbox: Mutex::new(Mailbox::default()),
        })
    }

    /// Leaves news and returns whom to wake, which is to be done without a lock held.
    #[must_use = "the checkout sleeps until it is woken"]
    pub(crate) fn tell(&self, write: impl FnOnce(&mut Notice)) -> Option<Waker> {
        let mut mailbox = self.mailbox.lock();
        write(&mut mailbox.notice);
        self.fresh.store(true, Ordering::Release);
        mailbox.waker.clone()
    }

    /// From now on news wakes this task.
    pub(crate) fn wake_with(&self, waker: &Waker) {
        self.mailbox.lock().waker = Some(waker.clone());
    }

    /// Takes the news, if there is any.
    pub(crate) fn take_notice(&self) -> Option<Notice> {
        if !self.fresh.load(Ordering::Acquire) {
            return None;
        }
        let mut mailbox = self.mailbox.lock();
        self.fresh.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut mailbox.notice))
    }
}
