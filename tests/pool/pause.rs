//! What one can do to a running pool as a whole: pause and resume it.

use std::time::Duration;

use crate::actions::{idle, number_of, pids};
use crate::harness::*;
use crate::lanes::{Yard, warm};
use forkpool::Recycle;
use forkpool::prelude::*;

/// P17
#[test]
fn a_paused_pool_begins_nothing_and_what_runs_goes_on() {
    run(async {
        let pool = idle(pool().workers(2..=2), 2).await;
        let held = pool.checkout().start();
        let first = pid(&held).await;
        assert!(pool.pause());
        let single = pool.send(Pid);
        let checkout = pool.checkout().start();
        let call = checkout.send(Pid);
        let here = pool.clone();
        let plain = std::thread::spawn(move || block_on(here.send(Pid)));
        until("all of them wait", || pool.stats().waiting == 3).await;
        assert_eq!(pid(&held).await, first, "a checkout keeps its worker");
        drop(held);
        until("it is released", || pool.stats().idle == 2).await;
        assert_eq!(pool.stats().waiting, 3);
        assert!(pool.resume());
        assert!(answer(single).await.is_ok());
        assert!(answer(call).await.is_ok());
        assert!(on_a_thread(move || plain.join().expect("it ends")).await.is_ok());
    });
}

/// P17, P11
#[test]
fn calls_behind_one_that_runs_do_not_begin_while_the_pool_is_paused() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1), 1).await;
        let running = pool.send(yard.gated(0, Act::Answer));
        let behind = [1, 2, 3].map(|number| pool.send(yard.task(number)));
        yard.begun(1).await;
        assert!(pool.pause());
        let later = pool.send(yard.task(4));
        yard.open();
        assert!(answer(running).await.is_ok());
        until("the worker is given back", || pool.stats().idle == 1).await;
        assert_eq!((yard.numbers(), pool.stats().waiting), (vec![0], 4));
        assert!(pool.resume());
        for call in behind.into_iter().chain([later]) {
            assert!(answer(call).await.is_ok());
        }
        assert_eq!(yard.numbers(), [0, 1, 2, 3, 4]);
        settled(&pool, 1).await;
    });
}

/// P17, P4
#[test]
fn what_waits_in_a_paused_pool_is_served_in_order() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1), 1).await;
        assert!(pool.pause());
        let mut calls = Vec::new();
        for number in [0, 2, 4] {
            calls.push(actix_rt::spawn(pool.send(yard.task(number))));
            let (checkout, task) = (pool.checkout().start(), yard.task(number + 1));
            calls.push(actix_rt::spawn(async move { answer(checkout.send(task)).await }));
            until("both wait", || pool.stats().waiting == calls.len()).await;
        }
        assert!(pool.resume());
        for call in calls {
            assert!(bounded("an answer", call).await.expect("a task").is_ok());
        }
        assert_eq!(yard.numbers(), [0, 1, 2, 3, 4, 5]);
    });
}

/// P17, T1, T6
#[test]
fn a_timeout_says_that_the_pool_is_paused() {
    run(async {
        let pool = idle(pool().workers(1..=1), 1).await;
        assert!(pool.pause());
        let limit = Duration::from_millis(30);
        let waiting = pool.checkout().wait_timeout(limit).start();
        let single = failure(pool.send_within(limit, Pid)).await;
        let checkout = failure(pool.checkout().timeout(limit).start().send(Pid)).await;
        for failure in [single, checkout, failure(waiting.send(Pid)).await] {
            assert_eq!((failure.kind(), failure.limit()), (FailureKind::Timeout, Some(limit)));
            assert_eq!(failure.phase(), Some(Phase::Waiting));
            assert!(failure.to_string().ends_with("the pool is paused"), "{failure}");
        }
        assert!(pool.resume());
        assert!(answer(pool.send(Pid)).await.is_ok(), "the worker is as it was");
        assert_eq!(pool.stats().forked, 1);
    });
}

/// P17, P9
#[test]
fn max_waiting_holds_in_a_paused_pool() {
    run(async {
        let pool = warm(pool().workers(1..=1).max_waiting(1), 1).await;
        assert!(pool.pause());
        // One for the idle worker, and one that waits.
        let (first, second) = (pool.checkout().start(), pool.send(Pid));
        until("both wait", || pool.stats().waiting == 2).await;
        let checkout = pool.checkout().start();
        for failure in [failure(checkout.send(Pid)).await, failure(pool.send(Pid)).await] {
            assert_eq!(failure.kind(), FailureKind::Overloaded);
            assert!(failure.to_string().contains("because the pool is paused"), "{failure}");
        }
        assert!(pool.resume());
        assert!(answer(first.send(Pid)).await.is_ok());
        drop(first);
        assert!(answer(second).await.is_ok());
    });
}

/// P17, P12
#[test]
fn a_paused_pool_stops_as_any_other() {
    run(async {
        let pool = idle(pool().workers(1..=1), 1).await;
        assert!(pool.pause());
        let (single, checkout) = (pool.send(Pid), pool.checkout().start());
        let call = checkout.send(Pid);
        bounded("the end", pool.stop(PATIENCE)).await;
        for call in [failure(single).await, failure(call).await] {
            assert_eq!(call.kind(), FailureKind::Stopped);
        }
        assert!(!pool.pause() && !pool.resume(), "it has stopped");
    });
}

/// P17, P12
#[test]
fn a_paused_pool_whose_last_handle_is_dropped_serves_those_that_wait() {
    run(async {
        let pool = idle(pool().workers(1..=1), 1).await;
        assert!(pool.pause());
        let checkout = pool.checkout().timeout(None).start();
        let call = checkout.send(Pid);
        drop(pool);
        let worker = answer(call).await.expect("it is served");
        drop(checkout);
        gone(worker).await;
        until("the pool ends", || servers().is_empty()).await;
    });
}

/// P17
#[test]
fn a_pool_is_paused_once_and_resumed_once() {
    run(async {
        let pool = idle(pool().workers(1..=1), 1).await;
        assert!(!pool.resume(), "it is not paused");
        assert!(pool.pause());
        assert!(!pool.pause(), "it is paused already");
        assert!(pool.resume());
        assert!(!pool.resume());
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// P17, P15, P16, P2
#[test]
fn a_paused_pool_keeps_and_replaces_its_fewest_workers() {
    run(async {
        let pool = idle(pool().workers(2..=4), 2).await;
        assert!(pool.pause());
        let calls = [(); 4].map(|()| pool.checkout().start()).map(|checkout| checkout.send(Pid));
        let before = pids(&pool);
        bounded("the replacement", pool.recycle(Recycle::All)).await.expect("they are replaced");
        assert!(before.iter().all(|pid| !exists(*pid)));
        let victim = pids(&pool)[0];
        assert!(pool.kill_worker(number_of(victim)));
        gone(victim).await;
        bounded("the fewest", pool.ready()).await.expect("they are set up");
        let stats = pool.stats();
        assert_eq!(
            (stats.idle, stats.waiting, stats.forked),
            (2, 4, 5),
            "none is forked for those that wait"
        );
        assert!(pool.resume());
        for call in calls {
            assert!(answer(call).await.is_ok());
        }
        assert!(pool.stats().failures.is_empty());
    });
}

/// P17, W3
#[test]
fn a_set_up_that_fails_while_the_pool_is_paused_fails_no_call() {
    run(async {
        let fails = Scratch::file();
        let script = Script::Error("no licence".to_owned());
        let setup = Setup { script, only_while: fails.some(), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        assert!(pool.pause());
        let call = pool.send(Pid);
        bounded("an attempt", pool.ready()).await.expect_err("the set-up fails");
        fails.remove();
        assert!(pool.resume());
        assert!(answer(call).await.is_ok());
    });
}
