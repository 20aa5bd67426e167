//! Clients of a pool: bounded waits for answers, and threads that have no arbiter.

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use actix::prelude::*;
use forkpool::prelude::*;

use super::{Answered, PATIENCE, Pid, Probe, answer};

/// The failure a call is answered with.
///
/// # Panics
///
/// Where it succeeded, and as [`answer`].
pub async fn failure<R: Answered<Answer = Result<T, E>>, T, E>(request: impl Future<Output = R>) -> E {
    match answer(request).await {
        Ok(_) => panic!("the call succeeded"),
        Err(failure) => failure,
    }
}

/// The process a checkout has.
pub async fn pid(checkout: &Addr<Checkout<Probe>>) -> u32 {
    answer(checkout.send(Pid)).await.expect("a pid")
}

/// Polls a future once, for nobody.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs a future on a thread that has neither an arbiter nor any other runtime.
///
/// # Panics
///
/// After [`PATIENCE`].
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    let until = Instant::now() + PATIENCE;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let left = until.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "a future is ready in bounded time");
        std::thread::park_timeout(left);
    }
}

/// Runs a closure on a thread of its own that has no runtime, while this thread's arbiter goes on.
///
/// # Panics
///
/// Where the closure panicked.
pub async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(work);
    super::until("the thread is done", || thread.is_finished()).await;
    thread.join().expect("the thread does not panic")
}

/// Runs a future on an arbiter of its own, which ends with it.
///
/// # Panics
///
/// Where the future panicked.
pub async fn on_an_arbiter<F>(work: impl FnOnce() -> F + Send + 'static) -> F::Output
where
    F: Future + 'static,
    F::Output: Send + 'static,
{
    let arbiter = Arbiter::new();
    let (done, result) = tokio::sync::oneshot::channel();
    arbiter.spawn_fn(move || {
        actix_rt::spawn(async move {
            // Whoever waits for it has given up if it is gone.
            let _ = done.send(work().await);
        });
    });
    let result =
        actix_rt::time::timeout(PATIENCE, result).await.expect("the arbiter is done in bounded time");
    arbiter.stop();
    on_a_thread(move || arbiter.join().expect("the arbiter ends")).await;
    result.expect("the future does not panic")
}

/// An error and whatever stands behind it, as texts.
pub fn chain(error: &dyn Error) -> Vec<String> {
    std::iter::successors(Some(error), |error: &&dyn Error| (*error).source())
        .map(ToString::to_string)
        .collect()
}

/// The failure that stands behind another.
pub fn cause(failure: &Failure) -> Option<&Failure> {
    failure.source().and_then(|source| source.downcast_ref())
}
