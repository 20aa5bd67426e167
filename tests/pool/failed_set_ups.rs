//! A checkout that waits while set-ups fail keeps its place, and a pool that ends waits for it.

use std::path::PathBuf;
use std::time::Duration;

use actix::Addr;

use crate::harness::*;
use forkpool::Backoff;
use forkpool::prelude::*;

/// A pool of at most one worker, whose set-up fails while the file exists.
fn broken_while(file: Option<PathBuf>) -> PoolHandle<Probe> {
    let script = Script::Error("no licence".to_owned());
    let setup = Setup { script, only_while: file, ..Setup::default() };
    let short = Duration::from_millis(1);
    let restart = Backoff::new().first(short).most(short).jitter(0.0);
    builder::<Probe>(setup).workers(0..=1).restart(restart).start().expect("the pool starts")
}

fn assert_failed<T: std::fmt::Debug>(answer: Result<T, Failure>) {
    let failure = answer.expect_err("the set-up has failed");
    assert_eq!(failure.kind(), FailureKind::Setup, "{failure}");
}

/// Waits until the checkout has a worker. An attempt that began while the file was there may still fail a call.
async fn served(checkout: &Addr<Checkout<Probe>>) {
    loop {
        match answer(checkout.send(Setups)).await {
            Ok(setups) => return assert_eq!(setups, 1),
            failed => assert_failed(failed),
        }
    }
}

async fn nothing_is_left() {
    until("nothing is left", || descendants(std::process::id()).is_empty()).await;
}

/// P12, W3
#[test]
fn after_the_last_handle_a_checkout_whose_set_up_failed_is_served_until_it_is_released() {
    run(async {
        for closes_before in [true, false] {
            let broken = Scratch::file();
            let pool = broken_while(broken.some());
            let checkout = pool.checkout().start();
            let call = checkout.send(Pid);
            let pool = Some(pool).filter(|_| !closes_before);
            assert_failed(answer(call).await);
            drop(pool);
            assert_failed(answer(checkout.send(Pid)).await);
            broken.remove();
            served(&checkout).await;
            assert_eq!(answer(checkout.send(Remember(1))).await, Ok(vec![1]));
            assert_eq!(answer(checkout.send(Remember(2))).await, Ok(vec![1, 2]), "until it is released");
            drop(checkout);
            nothing_is_left().await;
        }
    });
}

/// P12, W3
#[test]
fn after_the_last_handle_an_opened_checkout_whose_set_up_failed_is_served() {
    run(async {
        let broken = Scratch::file();
        let pool = broken_while(broken.some());
        let checkout = pool.checkout().open();
        drop(pool);
        assert_failed(answer(checkout.call(Pid)).await);
        broken.remove();
        while let Err(failure) = answer(checkout.call(Setups)).await {
            assert_eq!(failure.kind(), FailureKind::Setup, "{failure}");
        }
        drop(checkout);
        nothing_is_left().await;
    });
}

/// P12, W3
#[test]
fn a_closing_pool_ends_with_the_checkout_whose_set_ups_fail() {
    run(async {
        let broken = Scratch::file();
        let pool = broken_while(broken.some());
        let checkout = pool.checkout().start();
        let batch = pool.send_batch(vec![Pid, Pid]);
        drop(pool);
        assert_failed(answer(checkout.send(Pid)).await);
        drop(checkout);
        let kinds: Vec<_> =
            answer(batch).await.into_iter().map(|answer| answer.unwrap_err().kind()).collect();
        assert_eq!(kinds, [FailureKind::Setup, FailureKind::Cleared]);
        nothing_is_left().await;
    });
}

/// P4, W3
#[test]
fn a_checkout_whose_set_up_failed_keeps_its_place() {
    run(async {
        let broken = Scratch::file();
        let pool = broken_while(broken.some());
        let [first, second] = [(); 2].map(|()| pool.checkout().start());
        assert_failed(answer(first.send(Pid)).await);
        broken.remove();
        served(&first).await;
        assert_eq!(pool.stats().waiting, 1, "the second one waits until the first one is released");
        let behind = second.send(Setups);
        drop(first);
        assert_eq!(answer(behind).await, Ok(1));
    });
}

/// W3
#[test]
fn each_failed_set_up_fails_the_call_of_another_checkout() {
    run(async {
        let broken = Scratch::file();
        let pool = broken_while(broken.some());
        let checkouts = [(); 3].map(|()| pool.checkout().start());
        for call in checkouts.each_ref().map(|checkout| checkout.send(Pid)) {
            assert_failed(answer(call).await);
        }
        assert_eq!(pool.stats().waiting, 3);
    });
}

/// P12, W3
#[test]
fn a_stop_refuses_a_checkout_whose_set_up_failed() {
    run(async {
        let broken = Scratch::file();
        let pool = broken_while(broken.some());
        let checkout = pool.checkout().start();
        assert_failed(answer(checkout.send(Pid)).await);
        bounded("the end", pool.stop(Duration::from_secs(3600))).await;
        assert_eq!(answer(checkout.send(Pid)).await.unwrap_err().kind(), FailureKind::Stopped);
    });
}
