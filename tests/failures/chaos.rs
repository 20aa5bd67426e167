//! Workers die at random under load, and every call gets its own answer all the same.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use crate::harness::*;
use forkpool::Ending;
use forkpool::prelude::*;

/// Calls of every client.
const CALLS: u64 = 150;

/// Clients of each of the three sorts.
const CLIENTS: u64 = 8;

/// Kills in all.
const KILLS: usize = 120;

/// Knuth's 64-bit linear congruential generator: the same numbers at every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// What the clients have seen.
#[derive(Default)]
struct Tally {
    answered: Cell<u64>,
    died: Cell<u64>,
    cleared: Cell<u64>,
}

impl Tally {
    /// Waits for the answer to a call that carries this number.
    async fn take<R: Answered<Answer = Result<u64, Failure>>>(
        &self,
        number: u64,
        request: impl Future<Output = R>,
    ) {
        let count = match answer(request).await {
            Ok(back) => {
                assert_eq!(back, number, "another call's answer");
                &self.answered
            }
            Err(failure) if is_of_a_kill(&failure) => &self.died,
            Err(failure) => {
                assert_eq!(failure.kind(), FailureKind::Cleared, "{failure}");
                assert!(cause(&failure).is_some_and(is_of_a_kill), "{failure}");
                &self.cleared
            }
        };
        count.set(count.get() + 1);
    }

    fn total(&self) -> u64 {
        self.answered.get() + self.died.get() + self.cleared.get()
    }
}

/// Whether a worker was killed, in a call or before it was set up for one.
fn is_of_a_kill(failure: &Failure) -> bool {
    let killed = Ending::Signaled { signal: 9, core_dumped: false };
    matches!(failure.kind(), FailureKind::Died | FailureKind::Setup) && failure.ending() == Some(killed)
}

fn call(number: u64) -> Slow {
    // Some find the worker busy when it is killed, some find it idle.
    Slow(Duration::from_micros(number % 4 * 250), number)
}

/// One call after the other to whichever worker is free.
async fn single(pool: PoolHandle<Probe>, tally: Rc<Tally>, base: u64) {
    for number in base..base + CALLS {
        tally.take(number, pool.send(call(number))).await;
    }
}

/// A checkout for every few calls, each awaited.
async fn sequential(pool: PoolHandle<Probe>, tally: Rc<Tally>, base: u64) {
    let numbers: Vec<u64> = (base..base + CALLS).collect();
    for few in numbers.chunks(5) {
        let checkout = pool.checkout().start();
        for &number in few {
            tally.take(number, checkout.send(call(number))).await;
        }
    }
}

/// A checkout for every few calls, all sent ahead.
async fn pipelined(pool: PoolHandle<Probe>, tally: Rc<Tally>, base: u64) {
    let numbers: Vec<u64> = (base..base + CALLS).collect();
    for few in numbers.chunks(15) {
        let checkout = pool.checkout().start();
        let requests: Vec<_> = few.iter().map(|&number| (number, checkout.send(call(number)))).collect();
        drop(checkout);
        for (number, request) in requests {
            tally.take(number, request).await;
        }
    }
}

/// Kills a worker now and then, at whatever it is.
async fn havoc(server: u32, mut chance: Chance) -> usize {
    let mut killed = 0;
    while killed < KILLS {
        actix_rt::time::sleep(Duration::from_micros(200 + chance.below(4000) as u64)).await;
        let workers = children(server);
        if !workers.is_empty() {
            killed += usize::from(kill_if_there(workers[chance.below(workers.len())]));
        }
    }
    killed
}

/// Kills a worker, unless it has ended meanwhile.
fn kill_if_there(pid: u32) -> bool {
    let id = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(id, rustix::process::Signal::KILL).is_ok()
}

async fn survive(seed: u64) {
    let pool = pool().workers(4..=4).start().expect("the pool starts");
    let server = the_server().await;
    let tally = Rc::new(Tally::default());
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let base = |sort: u64| (client * 3 + sort) * CALLS;
        clients.push(actix_rt::spawn(single(pool.clone(), tally.clone(), base(0))));
        clients.push(actix_rt::spawn(sequential(pool.clone(), tally.clone(), base(1))));
        clients.push(actix_rt::spawn(pipelined(pool.clone(), tally.clone(), base(2))));
    }
    let havoc = actix_rt::spawn(havoc(server, Chance(seed)));
    for client in clients {
        client.await.expect("a client");
    }
    assert_eq!(havoc.await.expect("kills"), KILLS);
    assert_eq!(tally.total(), 3 * CLIENTS * CALLS, "each call has one answer");
    assert!(tally.answered.get() > 0);
    until("the pool is at its fewest again", || {
        let stats = pool.stats();
        stats.idle == 4 && stats.workers() == 4 && stats.waiting == 0 && children(server).len() == 4
    })
    .await;
    assert_eq!(servers(), [server]);
    let checkouts: Vec<_> = (0..4).map(|_| pool.checkout().start()).collect();
    for checkout in &checkouts {
        assert_eq!(answer(checkout.send(Slow(Duration::ZERO, seed))).await, Ok(seed));
    }
}

/// C4, E5, W3
#[test]
fn every_call_gets_its_one_answer_while_workers_are_killed() {
    for seed in [1, 2, 3] {
        run(survive(seed));
    }
}
