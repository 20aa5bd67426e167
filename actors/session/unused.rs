//! A checkout whose handle has made no call: no thread runs its session yet. A task on a thread of the library's own takes
//! care of the worker meanwhile, from the first notice on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use parking_lot::Mutex;

use super::pending::News;
use super::{Host, PendingSession, Session};
use crate::actors::scheduler::Scheduler;
use crate::actors::threads::real_time::run_for;
use crate::failure::Failure;

/// The limit on holding a worker without a call, once it runs.
type IdleTimer = Option<Pin<Box<dyn Future<Output = ()>>>>;

/// A checkout that has made no call.
///
/// It is the waker of its own request for a worker. It drops that request with [`take`](Self::take) alone, which the handle
/// calls at its end at the latest: so neither keeps the other.
pub(crate) struct UnusedCheckout {
    scheduler: Arc<Scheduler>,
    state: Mutex<State>,
    /// Whether the task was started that watches it.
    is_watched: AtomicBool,
}

enum State {
    /// `watcher` is the task that watches it.
    Unused { pending: PendingSession, watcher: Option<Waker> },
    /// The handle has taken its request.
    Taken,
    /// It has lost its worker for good, and calls are answered with this failure.
    Over(Failure),
}

impl UnusedCheckout {
    pub(crate) fn new(pending: PendingSession) -> Arc<Self> {
        let (scheduler, waiter) = (pending.scheduler().clone(), pending.waiter().clone());
        let is_limited = pending.idle_limit().is_some();
        let state = Mutex::new(State::Unused { pending, watcher: None });
        let unused = Arc::new(UnusedCheckout { scheduler, state, is_watched: AtomicBool::new(false) });
        waiter.set_waker(&Waker::from(unused.clone()));
        // A worker that was lent before there was a waker. Without a limit there is nothing to be done for it.
        if waiter.peek(|notice| is_limited || notice.concerns_an_idle_holder()) == Some(true) {
            unused.watch();
        }
        unused
    }

    /// Takes the request for a worker.
    ///
    /// # Errors
    ///
    /// What calls are answered with, if the checkout is over.
    pub(crate) fn take(&self) -> Result<PendingSession, Failure> {
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut *state, State::Taken);
        match before {
            State::Unused { pending, watcher } => {
                drop(state);
                watcher.into_iter().for_each(Waker::wake);
                Ok(pending)
            }
            State::Over(failure) => {
                *state = State::Over(failure.clone());
                Err(failure)
            }
            State::Taken => Err(self.scheduler.stopped_failure()),
        }
    }

    /// Starts the task that watches it, unless that was done before.
    fn watch(self: &Arc<Self>) {
        if self.is_watched.swap(true, Ordering::AcqRel) {
            return;
        }
        let unused = self.clone();
        // An arbiter that has ended drops it: its pool has ended as well.
        self.scheduler.own_arbiter().spawn_fn(move || {
            let mut idle = None;
            actix_rt::spawn(std::future::poll_fn(move |cx| unused.poll(&mut idle, cx)));
        });
    }

    /// Does what the scheduler's notices demand; ready once there is nothing to watch any more.
    fn poll(&self, idle: &mut IdleTimer, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        let State::Unused { pending, watcher } = &mut *state else { return Poll::Ready(()) };
        *watcher = Some(cx.waker().clone());
        let worker_held = loop {
            pending.waiter().set_waker(cx.waker());
            match pending.news() {
                News::WorkerHeld(worker) => break worker,
                News::WorkerLost => pending.replace_worker(),
                News::PoolStops => {
                    end(&mut state, self.scheduler.stopped_failure());
                    return Poll::Ready(());
                }
                News::Nothing => {
                    *idle = None;
                    return Poll::Pending;
                }
            }
            *idle = None;
        };
        let Some(limit) = pending.idle_limit() else { return Poll::Pending };
        ready!(idle.get_or_insert_with(|| Box::pin(run_for(limit))).as_mut().poll(cx));
        end(&mut state, worker_held.reclaimed(&self.scheduler, limit));
        Poll::Ready(())
    }
}

/// The session of a checkout that can make no call, as a task. It ends once the worker is returned.
struct Release(Session);

impl Future for Release {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx, &mut NoMailbox)
    }
}

/// The [`Host`] of a session without an actor: it has no mailbox from which further calls could arrive.
struct NoMailbox;

impl Host for NoMailbox {
    fn is_connected(&self) -> bool {
        false
    }

    fn send_fence(&mut self, _: u64) -> bool {
        false
    }
}

/// Ends the checkout as if its handle was dropped: a session releases the worker.
fn end(state: &mut State, failure: Failure) {
    if let State::Unused { pending, .. } = std::mem::replace(state, State::Over(failure)) {
        actix_rt::spawn(Release(pending.start()));
    }
}

/// Wakes the task that watches it, which is started by that. Wakers are called under locks of other checkouts, so nothing
/// is locked here.
impl Wake for UnusedCheckout {
    fn wake(self: Arc<Self>) {
        self.watch();
    }
}
