//! Idle workers that die, and whoever would have had them next.
mod harness;

use forkpool::prelude::*;
use harness::*;

/// Waits until the pool has this many idle workers and no others.
async fn settled(pool: &PoolHandle<Probe>, idle: usize) {
    until(&format!("there are {idle} idle workers"), || {
        let stats = pool.stats();
        stats.idle == idle && stats.workers() == idle
    })
    .await;
}

/// P8
#[test]
fn no_checkout_ever_sees_an_idle_worker_that_died() {
    run(async {
        let pool = pool().workers(1..=2).start().expect("the pool starts");
        let mut before = answer(pool.send(Pid)).await.expect("a pid");
        for _ in 0..200 {
            until("it is given back", || pool.stats().leased == 0).await;
            kill(before);
            let checkout = pool.checkout().start();
            let pid = answer(checkout.send(Pid)).await.expect("a worker that lives");
            assert_ne!(pid, before);
            before = pid;
        }
    });
}

/// P8
#[test]
fn no_message_to_the_pool_ever_sees_an_idle_worker_that_died() {
    run(async {
        let pool = pool().workers(1..=2).start().expect("the pool starts");
        let mut before = answer(pool.send(Pid)).await.expect("a pid");
        for _ in 0..200 {
            until("it is given back", || pool.stats().leased == 0).await;
            kill(before);
            let pid = answer(pool.send(Pid)).await.expect("a worker that lives");
            assert_ne!(pid, before);
            before = pid;
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
