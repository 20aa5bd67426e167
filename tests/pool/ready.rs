//! Waiting for the first workers of a pool.

use std::time::Duration;

use crate::harness::*;
use forkpool::prelude::*;

/// P14
#[test]
fn ready_waits_for_the_fewest_workers() {
    run(async {
        let setup = Setup { script: Script::Sleep(Duration::from_millis(50)), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(3..=4).start().expect("the pool starts");
        assert_eq!(pool.stats().idle, 0);
        bounded("the workers", pool.ready()).await.expect("workers");
        assert_eq!(pool.stats().idle, 3);
        // Workers that are lent are set up as well.
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        bounded("the workers", pool.ready()).await.expect("workers");
    });
}

/// P14
#[test]
fn where_the_fewest_are_none_a_pool_is_ready_at_once() {
    run(async {
        let pool = pool().workers(0..=1).start().expect("the pool starts");
        bounded("nothing", pool.ready()).await.expect("none are needed");
        assert_eq!(pool.stats().idle, 0);
    });
}

/// P14
#[test]
fn a_failing_set_up_answers_ready_and_the_pool_keeps_trying() {
    run(async {
        let fails = Scratch::file();
        let script = Script::Error("no licence".to_owned());
        let setup = Setup { script, only_while: fails.some(), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let failure = bounded("a failure", pool.ready()).await.expect_err("the set-up fails");
        assert_eq!(failure.kind(), FailureKind::Setup);
        assert!(failure.to_string().ends_with("returned an error: no licence"), "{failure}");
        fails.remove();
        while bounded("an attempt", pool.ready()).await.is_err() {}
        assert_eq!(pool.stats().idle, 1);
    });
}

/// P14
#[test]
fn a_failing_preload_answers_ready() {
    run(async {
        let setup = Setup { preload: Script::Panic("no model".to_owned()), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let failure = bounded("a failure", pool.ready()).await.expect_err("the preload fails");
        assert!(failure.to_string().contains("no model"), "{failure}");
    });
}

/// P14
#[test]
fn a_server_that_is_not_there_answers_ready_with_its_address() {
    run(async {
        let path = Scratch::path();
        let address = format!("unix:{}", path.get().display());
        let pool = Pool::<Probe>::connect(&address).workers(1..=1).start().expect("the pool starts");
        let failure = bounded("a failure", pool.ready()).await.expect_err("no server");
        assert_eq!(failure.kind(), FailureKind::NoServer);
        assert!(failure.to_string().contains(&path.get().display().to_string()), "{failure}");
    });
}

/// P14, P12
#[test]
fn a_pool_that_stops_is_never_ready() {
    run(async {
        let setup = Setup { script: Script::Hang, ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let waiting = pool.ready();
        bounded("the end", pool.stop(Duration::ZERO)).await;
        for ready in [waiting.await, pool.ready().await] {
            assert_eq!(ready.expect_err("it has stopped").kind(), FailureKind::Stopped);
        }
    });
}

/// P14
#[test]
fn ready_that_is_given_up_changes_nothing() {
    run(async {
        let pool = pool().workers(1..=1).start().expect("the pool starts");
        drop(pool.ready());
        bounded("the worker", pool.ready()).await.expect("a worker");
        assert_eq!(answer(pool.send(Setups)).await.expect("an answer"), 1);
    });
}
