//! Layers of tower before a pool: what they hold back, retry, drop and share.

use std::future::{Ready, ready};
use std::path::PathBuf;
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};
use tokio_test::{assert_pending, assert_ready, task};
use tower::retry::Policy;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use crate::harness::*;
use crate::yard::Yard;

/// A worker that dies the first time it is asked, as long as it leaves no trace.
struct Fragile;

/// Answers if this file is there, and otherwise makes it and dies.
#[derive(Clone, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
struct Survive(PathBuf);

impl Actor for Fragile {
    type Context = WorkerContext<Self>;
}

impl Worker for Fragile {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Fragile)
    }
}

impl Handler<Survive> for Fragile {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, Survive(trace): Survive, _: &mut WorkerContext<Self>) -> Self::Result {
        if !trace.exists() {
            let made = std::fs::write(trace, "");
            made.map_err(|error| Failure::task(error.to_string()))?;
            std::process::abort();
        }
        Ok(std::process::id())
    }
}

forkpool::interface!(Fragile { Survive });
forkpool::boot!(Fragile);

/// Repeats a call whose worker died.
#[derive(Clone)]
struct AfterDeath;

impl<M: Clone, T> Policy<M, T, Failure> for AfterDeath {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut M, result: &mut Result<T, Failure>) -> Option<Ready<()>> {
        matches!(result, Err(failure) if failure.kind() == FailureKind::Died).then(|| ready(()))
    }

    fn clone_request(&mut self, message: &M) -> Option<M> {
        Some(message.clone())
    }
}

fn narrow() -> PoolHandle<Probe> {
    pool().workers(1..=1).max_waiting(1).start().expect("the pool starts")
}

/// V1: the layer is full although the pool is not, and holds no permit of it meanwhile.
#[test]
fn a_limit_of_concurrency_holds_calls_back() {
    run(async {
        let (pool, yard) =
            (pool().workers(2..=2).max_waiting(1).start().expect("the pool starts"), Yard::new());
        let layered = ServiceBuilder::new().concurrency_limit(1).service(pool.service().expect("a bound"));
        let (mut first, mut second) = (layered.clone(), layered);
        let running =
            ServiceExt::<Task>::ready(&mut first).await.expect("it is ready").call(yard.task(1, "gated"));
        yard.begun(1).await;
        let mut waiting = task::spawn(ServiceExt::<Task>::ready(&mut second));
        assert_pending!(waiting.poll());
        answer(pool.send(Pid)).await.expect("another worker is free");

        yard.open();
        answer(running).await.expect("an answer");
        until("the limit permits another call", || waiting.is_woken()).await;
        let second = assert_ready!(waiting.poll()).expect("it is ready");
        answer(second.call(yard.task(2, "answer"))).await.expect("an answer");
    });
}

/// V1
#[test]
fn a_limit_of_rate_holds_calls_back() {
    run(async {
        let pool = narrow();
        let mut hourly = ServiceBuilder::new()
            .rate_limit(1, Duration::from_secs(3600))
            .service(pool.service().expect("a bound"));
        let first = ServiceExt::<Pid>::ready(&mut hourly).await.expect("it is ready").call(Pid);
        answer(first).await.expect("an answer");
        let mut waiting = task::spawn(ServiceExt::<Pid>::ready(&mut hourly));
        assert_pending!(waiting.poll());
        answer(pool.send(Pid)).await.expect("the pool is not full");
    });
}

/// V1: what is shed is what the pool has no place for.
#[test]
fn a_full_pool_sheds_load() {
    run(async {
        let (pool, yard) = (narrow(), Yard::new());
        let shedding = ServiceBuilder::new().load_shed().service(pool.service().expect("a bound"));
        let running = shedding.clone().oneshot(yard.task(1, "gated"));
        let running = actix_rt::spawn(running);
        yard.begun(1).await;
        let waiting = actix_rt::spawn(shedding.clone().oneshot(yard.task(2, "gated")));
        until("one waits", || pool.stats().waiting == 1).await;
        let shed = shedding.clone().oneshot(yard.task(3, "answer")).await.expect_err("the pool is full");
        assert!(shed.is::<tower::load_shed::error::Overloaded>(), "{shed}");

        yard.open();
        for call in [running, waiting] {
            bounded("an answer", call).await.expect("it does not panic").expect("an answer");
        }
        bounded("an answer", shedding.oneshot(yard.task(4, "answer"))).await.expect("an answer");
        assert_eq!(yard.numbers(), [1, 2, 4]);
    });
}

/// V3: the policy sees the typed failure, and each attempt has a permit of its own.
#[test]
fn a_retry_runs_on_another_worker_after_a_death() {
    run(async {
        let pool = builder::<Fragile>(()).workers(1..=1).max_waiting(1).start().expect("the pool starts");
        let retrying = ServiceBuilder::new().retry(AfterDeath).service(pool.service().expect("a bound"));
        let trace = Scratch::path();
        let pid = bounded("an answer", retrying.oneshot(Survive(trace.get().to_owned()))).await;
        assert_eq!(pid, Ok(pool.snapshot().workers[0].pid));
        let stats = pool.stats();
        assert_eq!((stats.succeeded, stats.failures), (1, vec![(FailureKind::Died, 1)]));
    });
}

/// V3, C9: the future is dropped, and the policy of the pool kills the worker.
#[test]
fn a_timeout_cancels_the_call() {
    run(async {
        let pool = pool().workers(1..=1).max_waiting(1).on_cancel(OnCancel::Kill);
        let (pool, yard) = (pool.start().expect("the pool starts"), Yard::new());
        let mut limit = Duration::from_millis(50);
        let pid = loop {
            let hasty = ServiceBuilder::new().timeout(limit).service(pool.service().expect("a bound"));
            let call = hasty.oneshot(yard.task(1, "spin"));
            let elapsed = bounded("the timeout", call).await.expect_err("it spins");
            assert!(elapsed.is::<tower::timeout::error::Elapsed>(), "{elapsed}");
            // On a slow machine the call may not have begun by then.
            match yard.began().first() {
                Some((_, pid)) => break *pid,
                None => limit *= 2,
            }
        };
        gone(pid).await;
        answer(pool.send(Pid)).await.expect("the worker is replaced");
    });
}

/// V1, V2: many requesters share one service through a buffer, and none is refused.
#[test]
fn a_buffer_hands_calls_to_the_pool_as_it_has_room() {
    run(async {
        let pool = narrow();
        let buffered = ServiceBuilder::new().buffer(4).service(pool.service().expect("a bound"));
        let calls = (0..32_u64).map(|number| {
            let call = buffered.clone().oneshot(Slow(Duration::ZERO, number));
            actix_rt::spawn(async move { (number, call.await) })
        });
        for call in calls.collect::<Vec<_>>() {
            let (number, answered) = bounded("an answer", call).await.expect("it does not panic");
            assert_eq!(answered.expect("it is not refused"), number);
        }
        bounded("the end of the pool", pool.stop(Duration::ZERO)).await;
        let stopped = buffered.oneshot(Slow(Duration::ZERO, 0)).await.expect_err("the pool has stopped");
        let failure = std::iter::successors(Some(&*stopped as &(dyn std::error::Error + 'static)), |error| {
            error.source()
        });
        assert!(failure.map(ToString::to_string).any(|text| text.contains("stopped")), "{stopped}");
    });
}

/// V3: a stack of layers, behind which a request of another kind becomes a message.
#[test]
fn layers_can_be_stacked_and_requests_mapped() {
    run(async {
        struct Job {
            text: String,
        }
        let pool = narrow();
        let service = ServiceBuilder::new()
            .buffer(8)
            .load_shed()
            .concurrency_limit(4)
            .timeout(PATIENCE)
            .map_request(|job: Job| EchoText(job.text))
            .retry(AfterDeath)
            .service(pool.service().expect("a bound"));
        let answered: Result<String, BoxError> = service.oneshot(Job { text: "echo".into() }).await;
        assert_eq!(answered.expect("an answer"), "echo");
    });
}
