//! Handles of checkouts on other threads and in other runtimes.

use std::time::Duration;

use crate::direct::{millis, opened};
use crate::harness::*;
use forkpool::prelude::*;

/// C4, X3: a call elsewhere fails by name, is reported once, and loses nothing.
#[test]
fn a_direct_call_on_another_thread_fails_by_name() {
    run(async {
        let pool = pool_of_one();
        let (checkout, worker) = opened(&pool).await;
        let here = checkout.call(Slow(millis(30), 1));
        let (context, heard) = listening("elsewhere");
        let there = move || {
            let failed = context.clone().run(|| block_on(checkout.call(Pid)));
            let batch = block_on(checkout.call_batch(vec![Pid, Pid]));
            (checkout, failed, batch)
        };
        let (checkout, failed, batch) = on_a_thread(there).await;
        let failed = failed.expect_err("it is not called there");
        assert_eq!((failed.kind(), failed.call()), (FailureKind::Elsewhere, Some("Pid")));
        assert!(failed.to_string().contains("another thread"), "{failed}");
        assert_eq!(heard.kinds(), [FailureKind::Elsewhere]);
        assert!(batch.len() == 2 && batch.iter().all(|answer| answer.is_err()));
        assert_eq!(answer(here).await, Ok(1));
        assert_eq!(answer(checkout.call(Pid)).await, Ok(worker));
        assert_eq!(pool.stats().failures, [(FailureKind::Elsewhere, 3)]);
        // Before its first call a handle may move, also through a thread that runs no tasks.
        drop(checkout);
        let moves = pool.checkout().open();
        let moves = on_a_thread(move || {
            let failed = block_on(moves.call(Pid)).expect_err("nothing runs here");
            assert_eq!(failed.kind(), FailureKind::Elsewhere, "{failed}");
            moves
        });
        let moves = moves.await;
        let there = on_an_arbiter(move || async move { answer(moves.call(Pid)).await });
        assert_eq!(there.await, Ok(worker));
    });
}

/// C4, C8: on a tokio runtime without an arbiter, inside a local set and outside of one.
#[test]
fn a_tokio_runtime_of_one_thread_runs_direct_checkouts() {
    run(async {
        let pool = pool_of_one();
        let handle = pool.clone();
        on_a_thread(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let calls = async |pool: &PoolHandle<Probe>| {
                let checkout = pool.checkout().timeout(PATIENCE).open();
                for number in 0..100 {
                    assert_eq!(checkout.call(Slow(Duration::ZERO, number)).await, Ok(number));
                }
                let late = checkout.call_within(millis(30), Spin).await.expect_err("it never ends");
                assert_eq!(late.kind(), FailureKind::Timeout);
            };
            runtime.block_on(calls(&handle));
            tokio::task::LocalSet::new().block_on(&runtime, calls(&handle));
            // A thread for blocking work knows the runtime, and runs none of its tasks.
            let checkout = handle.checkout().open();
            let blocking = tokio::task::spawn_blocking;
            let failed = runtime.block_on(async { blocking(move || block_on(checkout.call(Pid))).await });
            let failed = failed.expect("the thread ends").expect_err("nothing runs there");
            assert_eq!(failed.kind(), FailureKind::Elsewhere, "{failed}");
        })
        .await;
        settled(&pool, 1).await;
    });
}

/// C10: a runtime that ends takes its direct checkouts along, and no worker.
#[test]
fn a_direct_checkout_ends_with_its_runtime() {
    run(async {
        let pool = pool_of_one();
        let handle = pool.clone();
        let checkout = on_an_arbiter(move || async move {
            let (checkout, _) = opened(&handle).await;
            drop(checkout.call(Spin));
            checkout
        });
        let checkout = checkout.await;
        assert_eq!(failure(checkout.call(Pid)).await.kind(), FailureKind::Stopped);
        assert!(answer(pool.send(Pid)).await.is_ok());
        settled(&pool, 1).await;
    });
}
