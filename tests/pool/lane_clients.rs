//! Who makes single calls: many tasks beside checkouts, many arbiters, threads without one, and code that a lane runs.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use super::lanes::{Yard, warm};
use crate::harness::*;
use forkpool::prelude::*;

/// P4
#[test]
fn a_checkout_is_not_starved_by_tasks_that_never_stop_to_call() {
    run(async {
        let pool = warm(pool().workers(1..=1), 1).await;
        let is_over = Arc::new(AtomicBool::new(false));
        let tasks = Vec::from_iter((0..64).map(|_| {
            let (pool, is_over) = (pool.clone(), is_over.clone());
            actix_rt::spawn(async move {
                let mut calls = 0;
                while !is_over.load(Ordering::Relaxed) {
                    assert!(answer(pool.send(Pid)).await.is_ok());
                    calls += 1;
                }
                calls
            })
        }));
        let before = pool.stats().succeeded;
        until("they are at it", || pool.stats().succeeded > before + 100).await;
        for _ in 0..10 {
            assert!(answer(pool.checkout().start().send(Pid)).await.is_ok());
        }
        is_over.store(true, Ordering::Relaxed);
        for task in tasks {
            assert!(bounded("a task", task).await.expect("a task") > 0);
        }
    });
}

/// P4, P11
#[test]
fn eight_arbiters_get_on_with_two_workers() {
    const ENOUGH: u32 = 50;
    run(async {
        let pool = warm(pool().workers(2..=2), 2).await;
        let counts: Arc<[AtomicU32; 8]> = Arc::default();
        let arbiters = Vec::from_iter((0..counts.len()).map(|number| {
            let (pool, counts) = (pool.clone(), counts.clone());
            // None stops before all have got on.
            actix_rt::spawn(on_an_arbiter(move || async move {
                while counts.iter().any(|count| count.load(Ordering::Relaxed) < ENOUGH) {
                    let calls = [(); 8].map(|()| pool.send(Pid));
                    for call in calls {
                        assert!(answer(call).await.is_ok());
                        counts[number].fetch_add(1, Ordering::Relaxed);
                    }
                }
            }))
        }));
        for arbiter in arbiters {
            within(PATIENCE * 2, "an arbiter", arbiter).await.expect("it does not panic");
        }
    });
}

/// Sends a call when it is woken and when it is dropped.
struct Sender {
    pool: PoolHandle<Probe>,
    yard: Arc<Yard>,
    inner: Waker,
}

impl Wake for Sender {
    fn wake(self: Arc<Self>) {
        self.pool.do_send(self.yard.task(100));
        self.inner.wake_by_ref();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.pool.do_send(self.yard.task(200));
    }
}

/// P11: a waker runs within the lane, which is at work then.
#[test]
fn a_requesters_waker_may_send_calls_itself() {
    run(async {
        let yard = Arc::new(Yard::new());
        let pool = warm(pool().workers(1..=1), 1).await;
        for number in 0..10 {
            let mut call = Box::pin(pool.send(yard.task(number)));
            let answer = std::future::poll_fn(|cx| {
                let (pool, yard, inner) = (pool.clone(), yard.clone(), cx.waker().clone());
                let waker = Waker::from(Arc::new(Sender { pool, yard, inner }));
                call.as_mut().poll(&mut Context::from_waker(&waker))
            });
            assert!(bounded("an answer", answer).await.is_ok());
        }
        until("each waker has sent its call", || {
            let numbers = yard.numbers();
            let count = |sought| numbers.iter().filter(|&&number| number == sought).count();
            count(100) >= 10 && count(200) >= 10
        })
        .await;
        until("they are done", || pool.stats().leased == 0).await;
        let first = Vec::from_iter(yard.numbers().into_iter().filter(|number| *number < 100));
        assert_eq!(first, Vec::from_iter(0..10));
    });
}

/// X3, P11: a handler of failures runs within the lane as well.
#[test]
fn each_of_many_calls_written_ahead_fails_in_its_own_context_whose_handler_may_send_calls() {
    run(async {
        let yard = Arc::new(Yard::new());
        let pool = warm(pool().workers(1..=1), 1).await;
        let told = Arc::new(Mutex::new(Vec::new()));
        for number in 0..10_u64 {
            let (here, told, yard) = (pool.clone(), told.clone(), yard.clone());
            let context = ErrorContext::named("a call").on_failure(move |failure: ContextFailure| {
                told.lock().expect("no panic").push((number, failure.failure().to_string()));
                here.do_send(yard.task(number));
            });
            context.run(|| pool.do_send(FailAndKeep(format!("failure {number}"))));
        }
        until("all have failed", || yard.numbers().len() == 10).await;
        for (number, text) in told.lock().expect("no panic").iter() {
            assert!(text.contains(&format!("failure {number}")), "{number}: {text}");
        }
        assert_eq!(yard.sorted(), Vec::from_iter(0..10));
    });
}

/// P11
#[test]
fn threads_with_and_without_runtimes_share_the_workers_with_arbiters() {
    const CALLS: u64 = 50;
    run(async {
        let yard = Arc::new(Yard::new());
        let pool = warm(pool().workers(2..=2), 2).await;
        let (plain, tokio, arbiter) =
            ((pool.clone(), yard.clone()), (pool.clone(), yard.clone()), (pool.clone(), yard.clone()));
        let plain = actix_rt::spawn(on_a_thread(move || {
            for number in 0..CALLS {
                assert!(block_on(plain.0.send(plain.1.task(number))).is_ok());
            }
        }));
        let tokio = actix_rt::spawn(on_a_thread(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            let calls = (CALLS..CALLS * 2).map(|number| {
                let (pool, yard) = tokio.clone();
                runtime.spawn(async move { answer(pool.send(yard.task(number))).await })
            });
            for call in Vec::from_iter(calls) {
                assert!(runtime.block_on(call).expect("a task").is_ok());
            }
        }));
        let arbiter = actix_rt::spawn(on_an_arbiter(move || async move {
            let calls = (CALLS * 2..CALLS * 3).map(|number| arbiter.0.send(arbiter.1.task(number)));
            for call in Vec::from_iter(calls) {
                assert!(answer(call).await.is_ok());
            }
        }));
        for client in [plain, tokio, arbiter] {
            within(PATIENCE * 2, "a client", client).await.expect("it does not panic");
        }
        assert_eq!(yard.sorted(), Vec::from_iter(0..CALLS * 3));
    });
}

/// P8, P12
#[test]
fn an_arbiter_that_ends_with_calls_open_gives_its_worker_up() {
    run(async {
        let yard = Arc::new(Yard::new());
        let pool = warm(pool().workers(1..=1), 1).await;
        let (here, there) = (pool.clone(), yard.clone());
        let calls = on_an_arbiter(move || async move {
            assert!(answer(here.send(Pid)).await.is_ok());
            let calls = [1, 2, 3].map(|number| here.send(there.gated(number, Act::Answer)));
            there.begun(1).await;
            calls
        })
        .await;
        let first = yard.began()[0].1;
        for call in calls {
            let failure = failure(call).await;
            assert!(matches!(failure.kind(), FailureKind::Aborted | FailureKind::Stopped), "{failure}");
        }
        gone(first).await;
        assert!(answer(pool.send(yard.task(4))).await.is_ok_and(|pid| pid != first));
        assert_eq!(yard.numbers(), [1, 4]);
    });
}

/// P7: no worker has begun them, although workers are lent for them at once.
#[test]
fn calls_on_their_way_to_a_lane_are_counted_as_waiting() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let file = Scratch::path();
        // This thread has no lane yet.
        let calls = [(); 2].map(|()| pool.send(AwaitFile(file.get().to_owned())));
        assert_eq!((pool.stats().leased, pool.stats().waiting), (2, 2));
        until("they run", || (pool.stats().leased, pool.stats().waiting) == (2, 0)).await;
        let stop = actix_rt::spawn(pool.stop(PATIENCE));
        std::fs::write(file.get(), "").expect("a file");
        for call in calls {
            assert!(answer(call).await.is_ok(), "calls that run may finish");
        }
        bounded("the end", stop).await.expect("a task");
    });
}
