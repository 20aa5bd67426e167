//! What is measured of a pool in several benchmarks: calls one after the other, and births.

use std::rc::Rc;
use std::time::Instant;

use actix::Addr;
use forkpool::prelude::*;

use super::{Apprentice, Callee, Echo, Leave, Setting, Whereabouts, echo};

/// Seconds for each of so many calls, one after the other.
pub async fn calls(callee: &impl Callee<Echo>, count: usize) -> f64 {
    let began = Instant::now();
    for _ in 0..count {
        callee.call(echo()).await;
    }
    super::each(count, began)
}

/// So many checkouts, each of them past its first call.
pub async fn hold(pool: &PoolHandle<Apprentice>, count: usize) -> Vec<Addr<Checkout<Apprentice>>> {
    let checkouts: Vec<_> = (0..count).map(|_| pool.checkout().start()).collect();
    for checkout in &checkouts {
        Callee::call(checkout, echo()).await;
    }
    checkouts
}

/// As [`hold`], with checkouts that are called directly.
pub async fn open(pool: &PoolHandle<Apprentice>, count: usize) -> Vec<Rc<CheckoutHandle<Apprentice>>> {
    let checkouts: Vec<_> = (0..count).map(|_| Rc::new(pool.checkout().open())).collect();
    for checkout in &checkouts {
        Callee::call(checkout, echo()).await;
    }
    checkouts
}

/// Waits until all workers of the pool are free.
pub async fn all_free(pool: &PoolHandle<Apprentice>, workers: usize) {
    super::until("the workers are free", || pool.stats().idle == workers).await;
}

/// A pool of so many workers where the placement wants them, and their pids.
pub async fn placed_pool(setting: Setting, workers: usize) -> (PoolHandle<Apprentice>, Vec<u32>) {
    let pool = Pool::<Apprentice>::builder(()).workers(workers..=workers).start().expect("a pool");
    let checkouts: Vec<_> = (0..workers).map(|_| pool.checkout().start()).collect();
    let pids = super::pin_workers(setting, &checkouts).await;
    drop(checkouts);
    all_free(&pool, workers).await;
    (pool, pids)
}

/// Workers run where their server runs, so it is the server that is placed.
pub async fn place_server(setting: Setting, pool: &PoolHandle<Apprentice>) {
    let (_, server) = pool.send(Whereabouts).await.expect("a worker");
    setting.place(server);
    dismiss(pool).await;
}

/// Seconds from no worker to the first reply; there is none afterwards.
pub async fn first_reply(pool: &PoolHandle<Apprentice>) -> f64 {
    let began = Instant::now();
    pool.send(echo()).await.expect("an echo");
    let took = began.elapsed();
    dismiss(pool).await;
    took.as_secs_f64()
}

/// Leaves the pool without a worker. There may be two: a call that follows another at once can come before the
/// first one's worker is free again, and then it has a second forked.
pub async fn dismiss(pool: &PoolHandle<Apprentice>) {
    while pool.stats().workers() > 0 {
        super::until("no worker is at work", || pool.stats().idle == pool.stats().workers()).await;
        if pool.stats().idle > 0 {
            pool.send(Leave).await.expect("a worker");
        }
    }
}

/// Seconds for so many checkouts with one call each, all made before any is answered.
pub async fn surge(pool: &PoolHandle<Apprentice>, count: usize, workers: usize) -> f64 {
    let began = Instant::now();
    let calls: Vec<_> = (0..count).map(|_| pool.checkout().start().send(echo())).collect();
    for call in calls {
        call.await.expect("an answer").expect("an echo");
    }
    let took = began.elapsed();
    super::until("all workers are back", || pool.stats().idle == workers).await;
    took.as_secs_f64()
}
