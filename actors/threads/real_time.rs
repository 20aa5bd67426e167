//! Timers that keep to the system's clock, whatever the clock of their runtime does, and that do not count the time in
//! which the application was frozen.
//!
//! A test may pause the clock of its runtime, and the runtime then moves it forward whenever it has nothing else to do.
//! Workers are processes that compute in real time, so a timer that fires early there is not taken at its word.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, SpawnHandle};
use actix_rt::time::{Sleep, sleep_until, timeout};
use tokio::sync::oneshot;

use super::frozen::frozen_since;
use super::own_arbiter::supervision;
use crate::clock::Instant;

/// A timer that is set anew only if it would fire too late, so that most calls set none.
///
/// Most calls are answered long before their limit. Moving the timer for each of them would cost more than an
/// occasional wake-up that finds nothing due.
#[derive(Default)]
pub(crate) struct LazyTimer {
    timer: Option<Timer>,
    elsewhere: ElsewhereTimer,
}

impl LazyTimer {
    /// Returns whether `due` has passed; if not, the task is woken when it has.
    pub(crate) fn poll(&mut self, due: Instant, cx: &mut TaskContext<'_>) -> bool {
        loop {
            let timer = match &mut self.timer {
                Some(timer) if timer.due <= due => timer,
                Some(timer) => {
                    timer.reset(due);
                    timer
                }
                None => self.timer.insert(Timer::new(due)),
            };
            if timer.sleep.as_mut().poll(cx) == Poll::Pending {
                return false;
            }
            let now = Instant::now();
            if now >= due {
                *self = LazyTimer::default();
                return true;
            }
            if now < timer.due {
                // The clock of this runtime is ahead of the system's.
                if self.elsewhere.poll(due, cx).is_pending() {
                    return false;
                }
                continue;
            }
            timer.reset(due);
        }
    }
}

/// A timer of the runtime, and what it was set for.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    due: Instant,
}

impl Timer {
    fn new(due: Instant) -> Self {
        Timer { sleep: Box::pin(sleep_until(due.to_std().into())), due }
    }

    fn reset(&mut self, due: Instant) {
        self.sleep.as_mut().reset(due.to_std().into());
        self.due = due;
    }
}

/// A timer on the thread of supervision, whose clock no test moves.
#[derive(Default)]
struct ElsewhereTimer(Option<(Instant, oneshot::Receiver<()>)>);

impl ElsewhereTimer {
    fn poll(&mut self, due: Instant, cx: &mut TaskContext<'_>) -> Poll<()> {
        let (_, fired) = match &mut self.0 {
            Some(running) if running.0 <= due => running,
            other => match fire_at(due) {
                Some(fired) => other.insert((due, fired)),
                None => {
                    // There is no thread for it, so the task looks at the clock again and again.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            },
        };
        // The other end is dropped unsent only together with the thread; then a new one is started.
        let polled = Pin::new(fired).poll(cx).map(drop);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

fn fire_at(due: Instant) -> Option<oneshot::Receiver<()>> {
    let own = supervision().ok()?;
    let (mut sender, fired) = oneshot::channel();
    let arbiter = own.handle().clone();
    arbiter.spawn(async move {
        let left = due.saturating_duration_since(Instant::now());
        if timeout(left, sender.closed()).await.is_err() {
            // The timer may just have been dropped.
            let _ = sender.send(());
        }
        drop(own);
    });
    Some(fired)
}

/// Waits until the application has run for this time.
pub(crate) async fn run_for(time: Duration) {
    let (began, mut timer) = (Instant::now(), LazyTimer::default());
    std::future::poll_fn(|cx| {
        // Beyond the range of the clock it never passes.
        while let Some(due) = began.checked_add(time.saturating_add(frozen_since(began))) {
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            if !timer.poll(due, cx) {
                return Poll::Pending;
            }
        }
        Poll::Pending
    })
    .await;
}

/// Waits for a future, but not longer than the application runs for this time. Returns `None` after that.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let (mut future, mut limit) = (pin!(future), pin!(run_for(limit)));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        limit.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// Runs `then` in the actor once the application has run for `wait`, as [`AsyncContext::run_later`] does on the clock of
/// the runtime.
pub(crate) fn run_after<A: Actor<Context = Context<A>>>(
    ctx: &mut Context<A>,
    wait: Duration,
    then: impl FnOnce(&mut A, &mut Context<A>) + 'static,
) -> SpawnHandle {
    ctx.spawn(wrap_future::<_, A>(run_for(wait)).map(|(), actor, ctx| then(actor, ctx)))
}
