//! What is measured of a pool in several benchmarks: calls one after the other, and births.

use std::time::Instant;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler};
use forkpool::prelude::*;

use super::{Apprentice, Echo, Leave, Setting, Whereabouts, echo};

/// Seconds for each of so many calls, one after the other.
pub async fn calls<A>(addr: &Addr<A>, count: usize) -> f64
where
    A: Actor + Handler<Echo>,
    A::Context: ToEnvelope<A, Echo>,
{
    let began = Instant::now();
    for _ in 0..count {
        addr.send(echo()).await.expect("an answer").expect("an echo");
    }
    super::each(count, began)
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
