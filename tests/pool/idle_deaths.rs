//! Idle workers that die, and whoever would have had them next.

use std::time::Duration;

use crate::harness::*;
use forkpool::prelude::*;

/// Kills the only idle worker over and over, and asks for one right behind it.
fn nobody_sees_the_dead(ask: impl AsyncFn(&PoolHandle<Probe>) -> Result<u32, Failure>) {
    run(async {
        let pool = pool().workers(1..=2).start().expect("the pool starts");
        let mut before = ask(&pool).await.expect("a pid");
        for _ in 0..200 {
            until("it is given back", || pool.stats().leased == 0).await;
            kill(before);
            let pid = ask(&pool).await.expect("a worker that lives");
            assert_ne!(pid, before);
            before = pid;
        }
    });
}

/// P8
#[test]
fn no_checkout_ever_sees_an_idle_worker_that_died() {
    nobody_sees_the_dead(async |pool| answer(pool.checkout().start().send(Pid)).await);
}

/// P8
#[test]
fn no_message_to_the_pool_ever_sees_an_idle_worker_that_died() {
    nobody_sees_the_dead(async |pool| answer(pool.send(Pid)).await);
}

/// P8
#[test]
fn what_an_empty_checkout_said_to_a_worker_is_not_said_again_to_its_successor() {
    run(async {
        let pool = pool_of_one();
        for _ in 0..50 {
            settled(&pool, 1).await;
            drop(pool.checkout().start());
            until("it is given back", || pool.stats().leased == 0).await;
            pool.stats().pids.into_iter().for_each(kill);
            assert!(answer(pool.checkout().start().send(Pid)).await.is_ok());
        }
    });
}

/// P8
#[test]
fn all_idle_workers_may_die_at_once() {
    run(async {
        let pool = pool().workers(4..=4).start().expect("the pool starts");
        let server = the_server().await;
        settled(&pool, 4).await;
        let dead = children(server);
        dead.iter().copied().for_each(kill);
        let requests = [(); 8].map(|()| pool.send(Pid));
        for request in requests {
            let pid = answer(request).await.expect("a worker that lives");
            assert!(!dead.contains(&pid));
        }
        settled(&pool, 4).await;
    });
}

/// P8
#[test]
fn an_idle_worker_that_dies_is_noticed_with_nobody_asking() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let dead = children(the_server().await);
        dead.iter().copied().for_each(kill);
        for pid in dead {
            gone(pid).await;
        }
        settled(&pool, 2).await;
    });
}

/// P12
#[test]
fn a_checkout_whose_unused_worker_dies_is_served_also_after_the_last_handle_is_gone() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let checkout = pool.checkout().start();
        until("it has its worker", || pool.stats().leased == 1).await;
        let dead = pool.stats().pids[0];
        drop(pool);
        kill(dead);
        gone(dead).await;
        // Time enough for the pool to take itself for drained.
        actix_rt::time::sleep(Duration::from_millis(50)).await;
        let pid = answer(checkout.send(Pid)).await.expect("another worker");
        assert_ne!(pid, dead);
    });
}
