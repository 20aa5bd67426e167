//! How a worker is cleaned between two checkouts, and when it is not.

use std::time::Duration;

use crate::harness::*;
use forkpool::Backoff;
use forkpool::PoolBuilder;
use forkpool::prelude::*;

/// A wait that no test lives to see the end of.
const NEVER: Backoff =
    Backoff::new().first(Duration::from_secs(3600)).most(Duration::from_secs(3600)).jitter(0.0);

fn pool_with(setup: Setup) -> PoolBuilder<Probe> {
    builder::<Probe>(setup)
}

/// W5
#[test]
fn checkout_done_runs_after_every_release_also_without_a_call() {
    run(async {
        let done = Scratch::path();
        let setup = Setup { done_journal: done.some(), ..Setup::default() };
        let pool = pool_with(setup).workers(1..=1).start().expect("the pool starts");
        let pid = answer(pool.send(Pid)).await.expect("a pid").to_string();
        until("the message to the pool is done with", || done.lines().len() == 1).await;
        settled(&pool, 1).await;
        let checkout = pool.checkout().start();
        until("the checkout has its worker", || pool.stats().leased == 1).await;
        drop(checkout);
        until("the checkout without a call is done with", || done.lines().len() == 2).await;
        let checkout = pool.checkout().start();
        for number in 1..=3 {
            assert!(answer(checkout.send(Remember(number))).await.is_ok());
        }
        assert_eq!(done.lines().len(), 2, "it does not run between the calls of one checkout");
        drop(checkout);
        until("the checkout with three calls is done with", || done.lines().len() == 3).await;
        assert!(done.lines().iter().all(|line| *line == pid));
    });
}

/// W5
#[test]
fn the_next_checkouts_first_call_waits_behind_checkout_done() {
    run(async {
        let done = Script::Sleep(Duration::from_millis(20));
        let pool = pool_with(Setup { done, ..Setup::default() }).workers(1..=1).start();
        let pool = pool.expect("the pool starts");
        for number in 0..5 {
            let checkout = pool.checkout().start();
            assert_eq!(answer(checkout.send(Remember(number))).await, Ok(vec![number]));
            drop(checkout);
            assert_eq!(answer(pool.send(Remember(100))).await, Ok(vec![100]));
        }
    });
}

/// W5
#[test]
fn checkout_done_never_runs_on_a_worker_whose_checkout_saw_an_error() {
    replaced_without_checkout_done(async |pool| {
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        assert!(answer(checkout.send(Fail("no".to_owned()))).await.is_err());
        pid
    });
}

/// W5
#[test]
fn checkout_done_never_runs_on_a_worker_that_panicked() {
    replaced_without_checkout_done(async |pool| {
        let failure = answer(pool.send(Panic("now".to_owned()))).await.unwrap_err();
        failure.pid().expect("the pid of the worker that panicked")
    });
}

/// W5
#[test]
fn checkout_done_never_runs_on_a_worker_that_timed_out() {
    replaced_without_checkout_done(async |pool| {
        let checkout = pool.checkout().timeout(Duration::from_millis(50)).start();
        answer(checkout.send(Within(PATIENCE, Pid))).await.expect("a pid");
        let failure = answer(checkout.send(Spin)).await.unwrap_err();
        failure.pid().expect("the pid of the worker that span")
    });
}

/// W5
#[test]
fn checkout_done_never_runs_on_a_worker_that_asked_to_be_replaced() {
    replaced_without_checkout_done(async |pool| {
        let checkout = pool.checkout().start();
        answer(checkout.send(StopAfterwards)).await.expect("a pid")
    });
}

/// W5
#[test]
fn checkout_done_never_runs_on_a_worker_that_asked_the_pool_to_be_replaced() {
    replaced_without_checkout_done(async |pool| answer(pool.send(StopAfterwards)).await.expect("a pid"));
}

/// Runs a checkout whose worker is to be replaced, and checks that it was, without a `checkout_done`.
fn replaced_without_checkout_done(end: impl AsyncFnOnce(&PoolHandle<Probe>) -> u32) {
    run(async {
        let done = Scratch::path();
        let setup = Setup { done_journal: done.some(), ..Setup::default() };
        let pool = pool_with(setup).workers(1..=1).start().expect("the pool starts");
        let pid = end(&pool).await;
        gone(pid).await;
        assert_eq!(done.lines(), [""; 0]);
        until("it is replaced", || pool.stats().idle == 1).await;
    });
}

/// W5, P6
#[test]
fn checkout_done_never_runs_on_a_worker_that_is_worn_out() {
    run(async {
        let done = Scratch::path();
        let setup = Setup { done_journal: done.some(), ..Setup::default() };
        let pool = pool_with(setup).workers(1..=1).max_checkouts(1).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        drop(checkout);
        gone(pid).await;
        assert_eq!(done.lines(), [""; 0]);
    });
}

/// W5, P7
#[test]
fn checkout_done_never_runs_on_a_worker_that_is_too_old() {
    run(async {
        let done = Scratch::path();
        let setup = Setup { done_journal: done.some(), ..Setup::default() };
        let age = Duration::from_secs(1);
        let pool = pool_with(setup).workers(1..=1).max_lifetime(age).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        actix_rt::time::sleep(age).await;
        drop(checkout);
        gone(pid).await;
        assert_eq!(done.lines(), [""; 0]);
    });
}

/// W5
#[test]
fn a_panic_in_checkout_done_replaces_the_worker_and_harms_no_later_checkout() {
    run(async {
        let setup = Setup { done_panics: true, ..Setup::default() };
        let pool = pool_with(setup).workers(1..=2).restart(NEVER).start().expect("the pool starts");
        let mut before = 0;
        for number in 0..10 {
            let checkout = pool.checkout().start();
            let pid = answer(checkout.send(Pid)).await.expect("a worker");
            assert_ne!(pid, before);
            assert_eq!(answer(checkout.send(Remember(number))).await, Ok(vec![number]));
            before = pid;
        }
        gone(before).await;
    });
}

/// W5
#[test]
fn a_checkout_done_that_ends_the_process_harms_no_later_checkout() {
    run(async {
        let setup = Setup { done: Script::Exit(1), ..Setup::default() };
        let pool = pool_with(setup).workers(1..=1).restart(NEVER).start().expect("the pool starts");
        for number in 0..10 {
            assert_eq!(answer(pool.send(Remember(number))).await, Ok(vec![number]));
            let checkout = pool.checkout().start();
            assert_eq!(answer(checkout.send(Remember(number))).await, Ok(vec![number]));
        }
    });
}

/// W5, C4
#[test]
fn the_answer_to_a_message_to_the_pool_does_not_wait_for_checkout_done() {
    run(async {
        let setup = Setup { done: Script::Hang, ..Setup::default() };
        let limit = Duration::from_secs(1);
        let pool = pool_with(setup).workers(1..=1).timeout(limit).start().expect("the pool starts");
        assert_eq!(answer(pool.send(Setups)).await, Ok(1));
    });
}

/// W5, T1
#[test]
fn a_checkout_done_that_hangs_is_killed_at_its_checkouts_limit() {
    run(async {
        let setup = Setup { done: Script::Hang, ..Setup::default() };
        let pool = pool_with(setup).workers(1..=1).restart(NEVER).start().expect("the pool starts");
        let checkout = pool.checkout().timeout(Duration::from_millis(50)).start();
        // The worker has to be forked first, which may take longer than that.
        let pid = answer(checkout.send(Within(PATIENCE, Pid))).await.expect("a pid");
        drop(checkout);
        let next = pool.checkout().timeout(None).start();
        let other = answer(next.send(Pid)).await.expect("another worker");
        assert_ne!(pid, other);
        gone(pid).await;
        answer(next.send(Abort("enough".to_owned()))).await;
    });
}
