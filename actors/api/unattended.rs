//! Requests to a supervisor whose arbiter, which is the application's, stands still: they are answered all the same.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;

use super::stop_report::{LeftProcess, StopReport};
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::command::{INSPECT_TIMEOUT, STOP_TIMEOUT};
use crate::actors::threads;
use crate::actors::threads::real_time::within;
use crate::failure::{Failure, FailureKind};
use crate::sys::figures;
use crate::wire::control::ServerReport;

/// How much later than the supervisor's own limit a request is answered here (100 ms).
const MARGIN: Duration = Duration::from_millis(100);

/// Waits for the supervisor's answer or for the one that is given instead. Returns `None` if the supervisor is gone.
pub(super) async fn answer<T>(
    mut supervisor: oneshot::Receiver<T>,
    mut instead: Option<oneshot::Receiver<T>>,
) -> Option<T> {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(answer) = Pin::new(&mut supervisor).poll(cx) {
            return Poll::Ready(answer.ok());
        }
        match instead.as_mut().map(|instead| Pin::new(instead).poll(cx)) {
            Some(Poll::Ready(Ok(answer))) => return Poll::Ready(Some(answer)),
            Some(Poll::Ready(Err(_))) => instead = None,
            Some(Poll::Pending) | None => {}
        }
        Poll::Pending
    })
    .await
}

/// Stops the pool from another thread if its supervisor runs on an arbiter of the application, and reports what is left
/// after `drain` and a fixed time. What the supervisor does as well does no harm.
pub(super) fn stop(scheduler: &Arc<Scheduler>, drain: Duration) -> Option<oneshot::Receiver<StopReport>> {
    let stopping = scheduler.clone();
    on_own_thread(scheduler, async move |mut answer: oneshot::Sender<StopReport>| {
        stopping.stop();
        if within(drain, answer.closed()).await.is_some() {
            return;
        }
        stopping.stop_now();
        stopping.living_workers().iter().for_each(|worker| stopping.kill(worker));
        if within(STOP_TIMEOUT + MARGIN, answer.closed()).await.is_none() {
            // The requester has just given it up.
            let _ = answer.send(report(&stopping));
        }
    })
}

/// Answers a request for the server's statistics if the supervisor runs on an arbiter of the application.
pub(super) fn inspect(
    scheduler: &Arc<Scheduler>,
) -> Option<oneshot::Receiver<Result<ServerReport, Failure>>> {
    let name = scheduler.options.name.clone();
    on_own_thread(scheduler, async move |mut answer: oneshot::Sender<_>| {
        if within(INSPECT_TIMEOUT + MARGIN, answer.closed()).await.is_none() {
            let text = format!("{STANDS_STILL} for {INSPECT_TIMEOUT:?}");
            let failure = Failure::of(FailureKind::NoServer, "").with_chain(&[text]);
            // The requester has just given it up.
            let _ = answer.send(Err(failure.in_pool(&name)));
        }
    })
}

const STANDS_STILL: &str = "the arbiter that the pool was started in has not moved";

/// Runs what gives an answer on the library's own thread, which is started for it if no other pool runs there. `None` if
/// the supervisor runs there, or the system has no thread left.
fn on_own_thread<T: Send + 'static, F: Future<Output = ()>>(
    scheduler: &Arc<Scheduler>,
    work: impl FnOnce(oneshot::Sender<T>) -> F + Send + 'static,
) -> Option<oneshot::Receiver<T>> {
    if !scheduler.is_supervised_by_application() {
        return None;
    }
    let own = threads::supervision().ok()?;
    let (sender, answer) = oneshot::channel();
    let arbiter = own.handle().clone();
    arbiter.spawn_fn(move || {
        actix_rt::spawn(async move {
            work(sender).await;
            drop(own);
        });
    });
    Some(answer)
}

fn report(scheduler: &Scheduler) -> StopReport {
    let mut workers = scheduler.living_workers();
    workers.sort_unstable_by_key(|worker| worker.number);
    let workers = workers.into_iter().map(|worker| (Some(worker.number), worker.pid, worker.state()));
    let server = scheduler.own_server_pid().map(|pid| (None, pid, figures::state_of_child(pid)));
    let left = workers.chain(server).filter_map(|(worker, pid, state)| {
        Some(LeftProcess { worker, pid: Some(pid), state: state?.to_owned() })
    });
    let reason = format!("{STANDS_STILL} for {STOP_TIMEOUT:?} after the drain");
    StopReport { left: left.collect(), reason: Some(reason) }
}
