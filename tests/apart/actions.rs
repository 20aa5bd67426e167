//! What one can do to a running pool whose workers another program has forked.

use std::time::Duration;

use forkpool::prelude::*;
use forkpool::{PoolBuilder, Recycle};

use crate::harness::*;
use crate::network::Port;
use crate::*;

tests! {
    workers_of_another_server_are_recycled,
    a_worker_of_another_server_is_killed,
    a_pool_whose_server_is_elsewhere_is_paused,
}

/// A server with the pool that goes there, and the place that is removed at the end.
type Serving = (Option<Place>, Application, PoolBuilder<Probe>);

/// A server at the test's place, and one at a port.
fn each() -> [fn() -> Serving; 2] {
    let near = || {
        let place = Place::new();
        let (server, pool) = (serving(""), place.pool());
        (Some(place), server, pool)
    };
    let far = || {
        let port = Port::new();
        (None, port.serving(""), port.pool())
    };
    [near, far]
}

/// P15, S1
fn workers_of_another_server_are_recycled() {
    run(async {
        for serve in each() {
            let (_place, server, pool) = serve();
            let pool = pool.workers(2..=2).start().expect("the pool starts");
            settled(&pool, 2).await;
            let before = pool.stats().pids;
            let checkout = pool.checkout().start();
            pid(&checkout).await;
            let recycling = pool.recycle(Recycle::All);
            assert_eq!(recycling.workers(), 2);
            assert!(answer(checkout.send(Pid)).await.is_ok());
            drop(checkout);
            bounded("the replacement", recycling).await.expect("they are replaced");
            let after = pool.stats();
            assert!(before.iter().all(|pid| !after.pids.contains(pid) && !runs(*pid)));
            assert_eq!((after.forked, after.failures), (4, vec![]));
            bounded("the end", pool.stop(Duration::ZERO)).await;
            drop(server);
        }
    });
}

/// P16, S1
fn a_worker_of_another_server_is_killed() {
    run(async {
        for serve in each() {
            let (_place, server, pool) = serve();
            let pool = pool.start().expect("the pool starts");
            let checkout = pool.checkout().start();
            let victim = pid(&checkout).await;
            let call = checkout.send(Spin);
            assert!(!pool.kill_worker(7));
            assert!(pool.kill_worker(1));
            let failure = failure(call).await;
            assert_eq!((failure.kind(), failure.pid()), (FailureKind::Aborted, Some(victim)));
            assert!(failure.to_string().contains("kill_worker"), "{failure}");
            until("it has ended", || !runs(victim)).await;
            assert_ne!(served_by(&pool).await, victim);
            settled(&pool, 1).await;
            let idle = pool.stats().pids[0];
            assert!(pool.kill_worker(2));
            until("it has ended", || !runs(idle)).await;
            assert_ne!(served_by(&pool).await, idle);
            bounded("the end", pool.stop(Duration::ZERO)).await;
            drop(server);
        }
    });
}

/// P17, S1
fn a_pool_whose_server_is_elsewhere_is_paused() {
    run(async {
        for serve in each() {
            let (_place, server, pool) = serve();
            let pool = pool.start().expect("the pool starts");
            let worker = served_by(&pool).await;
            settled(&pool, 1).await;
            let running = pool.send(Slow(Duration::from_millis(20), 1));
            assert!(pool.pause());
            let limit = Duration::from_millis(100);
            let waits = pool.send(Pid);
            let failure = failure(pool.send_within(limit, Pid)).await;
            assert_eq!((failure.kind(), failure.limit()), (FailureKind::Timeout, Some(limit)));
            assert!(failure.to_string().ends_with("the pool is paused"), "{failure}");
            assert_eq!(answer(running).await, Ok(1));
            settled(&pool, 1).await;
            assert!(pool.resume());
            assert_eq!(answer(waits).await, Ok(worker));
            bounded("the end", pool.stop(Duration::ZERO)).await;
            drop(server);
        }
    });
}
