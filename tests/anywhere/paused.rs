//! Runtimes whose clock a test has paused: it moves to the next timer whenever the runtime has nothing to do, and workers
//! compute in real time.

use std::time::{Duration, Instant};

use actix::{Arbiter, System};
use forkpool::prelude::*;

use crate::harness::*;

tests! {
    a_paused_clock_ends_no_call_before_its_time,
    a_paused_clock_holds_up_no_limit,
}

/// What each member of the pool takes: far more than the runtime needs to move its clock.
const WORK: u32 = 300;

/// Runs a test in a system whose clock is paused.
fn paused(test: impl Future<Output = ()>) {
    let _alone = alone();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().expect("a runtime")
    };
    System::with_tokio_rt(runtime).block_on(test);
    assert!(children(std::process::id()).is_empty(), "nothing is left");
}

/// G10: each limit, where the supervision runs on the same clock and where it does not.
fn a_paused_clock_ends_no_call_before_its_time() {
    paused(async {
        let setup = Setup { script: Script::Steps(WORK), done: Script::Steps(WORK), ..Setup::default() };
        let builder = || builder::<Probe>(setup.clone()).workers(1..=1);
        let on_its_own = builder().start().expect("the pool starts");
        let on_this = builder().start_in(&Arbiter::current()).expect("the pool starts");
        for pool in [on_its_own, on_this] {
            pool.ready().await.expect("a worker is set up");
            let checkout = pool.checkout().idle_checkout_timeout(Duration::from_secs(60)).start();
            let worker = checkout.send(Pid).await.expect("a checkout").expect("a pid");
            assert_eq!(checkout.send(Steps(WORK)).await.expect("a checkout"), Ok(WORK));
            assert_eq!(checkout.send(Pid).await.expect("a checkout"), Ok(worker));
            drop(checkout);
            assert_eq!(pool.send(Pid).await, Ok(worker), "checkout_done had its time");
            let stats = pool.server_stats().await.expect("the server answers");
            assert_eq!(stats.forked, 1);
            settled(&pool, 1).await;
            let running = actix_rt::spawn(pool.send(Steps(WORK)));
            until("it runs", || pool.stats().leased == 1).await;
            let report = pool.stop(Duration::from_secs(60)).await;
            assert!(report.left.is_empty(), "{report}");
            assert_eq!(running.await.expect("no panic"), Ok(WORK));
        }
    });
}

/// G10, T3
fn a_paused_clock_holds_up_no_limit() {
    paused(async {
        let limit = Duration::from_millis(200);
        let pool = pool().workers(1..=1).timeout(limit).start_in(&Arbiter::current());
        let pool = pool.expect("the pool starts");
        pool.ready().await.expect("a worker");
        let began = Instant::now();
        let late = pool.send(Spin).await.expect_err("it is over its limit");
        assert_eq!((late.kind(), late.limit()), (FailureKind::Timeout, Some(limit)));
        assert!(began.elapsed() >= limit);
        pool.stop(Duration::ZERO).await;
    });
}
