//! What stands between a store of jobs and a pool: a task of the store becomes a message, and a failure of the pool
//! becomes a verdict of the store.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis::prelude::*;
use forkpool::prelude::*;
use tower::Service;

/// A pool's service, as a worker of apalis calls it.
#[derive(Clone)]
pub struct Adapter<S> {
    pool: S,
    attempts: usize,
}

impl<S> Adapter<S> {
    /// Gives each job this many attempts on the service of a pool, at least one.
    pub fn new(pool: S, attempts: usize) -> Self {
        Adapter { pool, attempts }
    }
}

// shown: adapter
impl<S, M> Service<Task<M>> for Adapter<S>
where
    S: Service<M, Error = Failure>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxDynError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxDynError>> + Send>>;

    /// Waits for a place in the queue of the pool, so that no job is taken from the store which could not be sent.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.pool.poll_ready(cx).map_err(BoxDynError::from)
    }

    fn call(&mut self, task: Task<M>) -> Self::Future {
        // The message is the same in every attempt: by that the pool's quarantine knows it again.
        let (message, task) = task.take();
        let (answer, attempts) = (self.pool.call(message), self.attempts);
        Box::pin(async move { answer.await.map_err(|failure| verdict(&failure, task.attempt() < attempts)) })
    }
}
// end: adapter

// shown: verdict
/// What the store does with a job that failed: dead at once, with the failure's report, or another attempt later.
fn verdict(failure: &Failure, has_attempts: bool) -> BoxDynError {
    use FailureKind::*;
    let report = format!("{failure:#}");
    match failure.kind() {
        // It would fail in the same way again.
        Payload | Quarantined => AbortError::new(report).into(),
        // The job is not to blame, and has not run.
        Setup | NoServer | Overloaded | Stopped => later(report),
        _ if has_attempts => later(report),
        _ => AbortError::new(report).into(),
    }
}

/// A wish for another attempt. The store makes it after as many seconds as the job has had attempts, whatever is wished
/// for here; and unlike the status of any other error, that of this one keeps `vacuum` from removing the job meanwhile.
fn later(report: String) -> BoxDynError {
    RetryAfterError::new(report, Duration::ZERO).into()
}
// end: verdict
