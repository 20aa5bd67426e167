//! What becomes of calls that are written behind one with which its worker ends.

use std::time::{Duration, Instant};

use super::lanes::{Yard, warm};
use crate::harness::*;
use forkpool::prelude::*;

/// Runs a call that ends its worker when the gate opens, with others behind it; returns its answer and the worker.
fn ends_with_calls_behind(act: &Act) -> (Result<u32, Failure>, u32) {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1).max_memory(32 << 20), 1).await;
        let last = pool.send(yard.gated(0, act.clone()));
        let behind = Vec::from_iter((1..=20).map(|number| pool.send(yard.task(number))));
        yard.begun(1).await;
        let ended = yard.began()[0].1;
        yard.open();
        let result = answer(last).await;
        for call in behind {
            assert_ne!(answer(call).await.expect("it runs elsewhere"), ended, "{act:?}");
        }
        gone(ended).await;
        assert_eq!(yard.numbers(), Vec::from_iter(0..=20), "{act:?}");
        assert_eq!(pool.stats().checkouts, 22);
        (result, ended)
    })
}

/// P8, P11
#[test]
fn calls_behind_one_that_ends_its_worker_run_elsewhere_once() {
    let kinds =
        [(Act::Exit, FailureKind::Died), (Act::Abort, FailureKind::Died), (Act::Panic, FailureKind::Panic)];
    for (act, kind) in kinds {
        let (result, ended) = ends_with_calls_behind(&act);
        let failure = result.expect_err("its worker ended");
        assert_eq!((failure.kind(), failure.pid()), (kind, Some(ended)), "{failure}");
    }
}

/// P6, P8
#[test]
fn a_worker_that_is_to_be_replaced_declines_what_stands_behind() {
    for act in [Act::Stop, Act::Hoard(64 << 20)] {
        let (result, ended) = ends_with_calls_behind(&act);
        assert_eq!(result, Ok(ended), "{act:?}");
    }
}

/// E4
#[test]
fn a_call_that_fails_costs_those_behind_it_nothing() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1), 1).await;
        let fails = pool.send(yard.gated(0, Act::Fail));
        let behind = Vec::from_iter((1..=20).map(|number| pool.send(yard.task(number))));
        yard.begun(1).await;
        yard.open();
        assert_eq!(failure(fails).await.kind(), FailureKind::Task);
        for call in behind {
            assert!(answer(call).await.is_ok());
        }
        assert_eq!((yard.numbers(), pool.stats().forked), (Vec::from_iter(0..=20), 1));
    });
}

/// P8
#[test]
fn calls_behind_one_that_is_killed_from_outside_run_elsewhere_once() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(2..=2), 2).await;
        let long = Vec::from_iter((0..2).map(|number| pool.send(yard.gated(number, Act::Answer))));
        yard.begun(2).await;
        let behind = Vec::from_iter((2..20).map(|number| pool.send(yard.task(number))));
        let pids = yard.began().into_iter().map(|(_, pid)| pid);
        pids.for_each(kill);
        for call in long {
            assert_eq!(failure(call).await.kind(), FailureKind::Died);
        }
        for call in behind {
            assert!(answer(call).await.is_ok());
        }
        assert_eq!(yard.sorted(), Vec::from_iter(0..20));
    });
}

/// E9: the count of workers that a message has ended.
#[test]
fn calls_behind_one_that_ends_its_worker_are_not_blamed() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1).max_kills(1), 1).await;
        let deadly = yard.gated(0, Act::Exit);
        let (last, behind) = (pool.send(deadly.clone()), [(); 3].map(|()| pool.send(yard.task(1))));
        yard.begun(1).await;
        yard.open();
        assert_eq!(failure(last).await.kind(), FailureKind::Died);
        for call in behind {
            assert!(answer(call).await.is_ok());
        }
        assert!(answer(pool.send(yard.task(1))).await.is_ok());
        assert_eq!(failure(pool.send(deadly)).await.kind(), FailureKind::Quarantined);
        assert_eq!(yard.numbers(), [0, 1, 1, 1, 1]);
    });
}

/// P12
#[test]
fn a_stop_answers_what_has_not_begun_and_lets_the_rest_finish() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1), 1).await;
        let long = pool.send(yard.gated(1, Act::Answer));
        let behind = [2, 3, 4].map(|number| pool.send(yard.task(number)));
        yard.begun(1).await;
        let stopping = actix_rt::spawn(pool.stop(PATIENCE));
        for call in behind {
            assert_eq!(failure(call).await.kind(), FailureKind::Stopped);
        }
        assert_eq!(failure(pool.send(yard.task(5))).await.kind(), FailureKind::Stopped);
        yard.open();
        assert!(answer(long).await.is_ok());
        bounded("the stop", stopping).await.expect("a task");
        assert_eq!(yard.numbers(), [1]);
    });
}

/// P12
#[test]
fn a_stop_without_a_drain_answers_all() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1), 1).await;
        let calls = [1, 2, 3].map(|number| pool.send(yard.gated(number, Act::Answer)));
        yard.begun(1).await;
        bounded("the stop", pool.stop(Duration::ZERO)).await;
        for call in calls {
            assert_eq!(failure(call).await.kind(), FailureKind::Stopped);
        }
        assert_eq!(yard.numbers(), [1]);
    });
}

/// P8: several workers are granted at once, all are dead by then, and some of the calls were given up.
#[test]
fn workers_that_die_as_they_are_granted_harm_no_request_for_others() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(3..=3), 3).await;
        let (held, here) = (std::sync::mpsc::channel(), pool.clone());
        let (release, released) = std::sync::mpsc::channel::<()>();
        let holder = std::thread::spawn(move || {
            let holders = [(); 3].map(|()| here.checkout().start());
            let calls = holders.each_ref().map(|holder| holder.send(Pid));
            held.0.send(calls.map(|call| block_on(call).answer())).expect("the test waits for it");
            released.recv().expect("the test says so");
            drop(holders);
        });
        let pids = on_a_thread(move || held.1.recv().expect("three workers")).await;
        let before = pool.stats();
        // A worker counts as a checkout when it is granted, before the lane has seen it.
        let granted = || pool.snapshot().workers.iter().map(|worker| worker.checkouts).sum::<u64>();
        let granted_before = granted();
        let mut calls = Vec::from_iter((0..3).map(|number| pool.send(yard.task(number))));
        until("three wait", || pool.stats().waiting == 3).await;
        // This thread does nothing else now, so the lane finds all of it at once.
        calls.truncate(1);
        release.send(()).expect("the thread waits for it");
        stand_still_until("three are granted", || granted() == granted_before + 3);
        pids.into_iter().for_each(|pid| kill(pid.expect("a pid")));
        stand_still_until("they are replaced", || pool.stats().forked == before.forked + 3);
        for call in calls {
            assert!(answer(call).await.is_ok());
        }
        assert_eq!(yard.numbers(), [0]);
        on_a_thread(move || holder.join().expect("it ends")).await;
    });
}

fn stand_still_until(what: &str, condition: impl Fn() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < patience, "still waiting until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
