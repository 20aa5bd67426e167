//! Pools on every kind of runtime, and what the end of a runtime does to them.

use std::sync::mpsc::channel;
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;

/// Runs a test on a thread without an actix system, and checks that it leaves nothing.
fn outside(test: impl FnOnce() + Send + 'static) {
    run(on_a_thread(test));
}

fn multi_threaded() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime")
}

/// P12
#[test]
fn requests_of_a_multi_threaded_runtime_are_answered() {
    outside(|| {
        multi_threaded().block_on(async {
            let pool = pool().workers(1..=2).start().expect("the pool starts");
            pool.ready().await.expect("a worker");
            // As a service does it: each request is a task that may move between threads.
            let requests: Vec<_> = (0..64_u64)
                .map(|number| {
                    let pool = pool.clone();
                    tokio::spawn(async move {
                        let single = pool.send(Slow(Duration::ZERO, number)).await?;
                        let checkout = pool.checkout().start();
                        let held =
                            checkout.send(Slow(Duration::ZERO, number)).await.expect("a live checkout")?;
                        drop(checkout);
                        let batch = pool.send_batch(vec![Slow(Duration::ZERO, number); 3]).await;
                        Ok::<_, Failure>((single, held, batch.into_iter().flatten().sum::<u64>()))
                    })
                })
                .collect();
            for (number, request) in (0..).zip(requests) {
                assert_eq!(request.await.expect("no panic").expect("answers"), (number, number, 3 * number));
            }
            pool.stop(Duration::ZERO).await;
        });
    });
}

/// P12
#[test]
fn a_thread_without_any_runtime_starts_and_uses_a_pool() {
    outside(|| {
        let pool = pool().workers(1..=1).start().expect("the pool starts");
        assert_eq!(block_on(pool.send(Setups)).expect("an answer"), 1);
        let checkout = pool.checkout().start();
        assert_eq!(block_on(checkout.send(Setups)).expect("a live checkout").expect("an answer"), 1);
        drop(checkout);
        let address = pool.addr();
        assert_eq!(block_on(address.send(Setups)).expect("a live pool").expect("an answer"), 1);
        block_on(pool.stop(Duration::ZERO));
    });
}

/// G1
#[test]
fn an_arbiter_that_computes_holds_up_no_calls_from_elsewhere() {
    run(async {
        let pool = pool().workers(1..=1).start().expect("the pool starts");
        let old = answer(pool.send(Pid)).await.expect("a pid");
        let (go_on, gate) = channel::<()>();
        let other = pool.clone();
        let elsewhere = std::thread::spawn(move || {
            kill(old);
            // The worker is replaced although the arbiter that started the pool stands still.
            let new = block_on(other.send(Pid));
            let restarts = (0..3).map(|_| block_on(other.send(Exit(3)))).filter(Result::is_err).count();
            let stats = block_on(other.server_stats());
            block_on(other.stop(Duration::ZERO));
            go_on.send(()).expect("the arbiter waits");
            (new, restarts, stats.is_ok())
        });
        gate.recv_timeout(PATIENCE).expect("all was done while this arbiter stood still");
        let (new, restarts, has_stats) = elsewhere.join().expect("no panic");
        // The first call may have met the killed worker.
        assert!(new.map_or_else(|error| error.kind() == FailureKind::Died, |pid| pid != old));
        assert_eq!((restarts, has_stats), (3, true));
    });
}

/// P12
#[test]
fn when_the_arbiter_of_a_pool_stops_its_handles_know_at_once() {
    run(async {
        let arbiter = Arbiter::new();
        let pool = pool().workers(1..=1).timeout(None).start_in(&arbiter.handle()).expect("the pool starts");
        let worker = answer(pool.send(Pid)).await.expect("a pid");
        let server = the_server().await;
        let checkout = pool.checkout().start();
        let running = checkout.send(Spin);
        until("the call runs", || pool.stats().leased == 1).await;
        let waiting = pool.send(Setups);
        arbiter.stop();
        for failure in [failure(running).await, failure(waiting).await, failure(pool.send(Setups)).await] {
            assert_eq!(failure.kind(), FailureKind::Stopped, "{failure}");
            assert!(failure.to_string().contains("the arbiter it was started in"), "{failure}");
        }
        let ready = pool.ready().await.expect_err("no pool");
        assert_eq!(ready.kind(), FailureKind::Stopped);
        assert!(pool.try_send(Setups).is_err());
        bounded("the end", pool.stop(Duration::ZERO)).await;
        gone(worker).await;
        gone(server).await;
        on_a_thread(move || arbiter.join().expect("the arbiter ends")).await;
    });
}

/// P12
#[test]
fn an_arbiter_that_has_stopped_is_refused() {
    run(async {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        arbiter.stop();
        on_a_thread(move || arbiter.join().expect("the arbiter ends")).await;
        let error = pool().start_in(&handle).expect_err("it cannot start");
        assert!(matches!(error, StartError::ArbiterStopped), "{error:?}");
        assert!(error.to_string().contains("call start"), "{error}");
    });
}

/// P12
#[test]
fn the_end_of_the_system_that_started_a_pool_ends_no_call_from_elsewhere() {
    outside(|| {
        let pool = System::new().block_on(async { pool().workers(1..=1).start().expect("the pool starts") });
        assert_eq!(block_on(pool.send(Setups)).expect("an answer"), 1);
        block_on(pool.stop(Duration::ZERO));
    });
}
