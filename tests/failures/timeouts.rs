//! Every call has its own clock, and what happens when it runs out.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::harness::*;
use actix::prelude::*;
use forkpool::Phase;
use forkpool::prelude::*;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Waits until a worker has this many calls, of those that were first in their queue.
async fn written(pool: &PoolHandle<Probe>, calls: u64) {
    until("the call is written", || pool.stats().waited.count() == calls).await;
}

/// Keeps this thread's event loop from doing anything.
fn block_the_event_loop(time: Duration) {
    std::thread::sleep(time);
}

/// T1
#[test]
fn the_clock_of_a_call_is_its_own_before_its_checkouts_before_its_pools() {
    run(async {
        let pool = pool().workers(3..=3).timeout(millis(150)).start().expect("the pool starts");
        let spin = pool.send(Spin);
        let checkout = pool.checkout().timeout(millis(100)).start();
        let shorter = failure(checkout.send(Spin)).await;
        assert_eq!((shorter.kind(), shorter.limit()), (FailureKind::Timeout, Some(millis(100))));
        assert_eq!(failure(spin).await.limit(), Some(millis(150)));
        let checkout = pool.checkout().start();
        assert_eq!(failure(checkout.send(Spin)).await.limit(), Some(millis(150)));
        let checkout = pool.checkout().timeout(millis(1)).start();
        assert_eq!(failure(checkout.send(Within(millis(50), Spin))).await.limit(), Some(millis(50)));
        let checkout = pool.checkout().start();
        let longer = checkout.send(Within(millis(20_000), Slow(millis(300), 1)));
        assert_eq!(answer(longer).await, Ok(1));
        assert_eq!(failure(pool.addr().send(Within(millis(50), Spin))).await.limit(), Some(millis(50)));
    });
}

/// T1
#[test]
fn no_limit_is_no_limit() {
    run(async {
        let pool = pool().workers(2..=2).timeout(millis(50)).start().expect("the pool starts");
        let checkout = pool.checkout().timeout(None).start();
        let slow = || Slow(millis(250), 1);
        let unlimited = checkout.send(slow());
        let pooled = pool.addr().send(Within(None::<Duration>, slow()));
        assert_eq!(answer(unlimited).await, Ok(1));
        assert_eq!(answer(pooled).await, Ok(1));
        assert_eq!(answer(checkout.send(TimeLeft)).await, Ok(None));
        let limited = pool.checkout().start();
        assert_eq!(answer(limited.send(Within(None::<Duration>, slow()))).await, Ok(1));
        // A limit beyond all clocks is none, and zero is over at once.
        let endless = pool.send(Pid);
        drop((checkout, limited));
        assert!(answer(endless).await.is_ok());
        let checkout = pool.checkout().start();
        assert_eq!(answer(checkout.send(Within(Duration::MAX, slow()))).await, Ok(1));
        let over = failure(checkout.send(Within(Duration::ZERO, slow()))).await;
        assert_eq!((over.kind(), over.limit()), (FailureKind::Timeout, Some(Duration::ZERO)));
    });
}

/// T1
#[test]
fn pipelined_calls_have_a_full_clock_each() {
    run(async {
        let pool = pool().workers(1..=1).timeout(millis(400)).start().expect("the pool starts");
        pool.ready().await.expect("a worker");
        let checkout = pool.checkout().start();
        let began = Instant::now();
        let requests: Vec<_> = (0..8).map(|number| checkout.send(Slow(millis(100), number))).collect();
        for (number, request) in (0..8).zip(requests) {
            assert_eq!(answer(request).await, Ok(number));
        }
        assert!(began.elapsed() >= millis(800));
    });
}

/// T1
#[test]
fn the_clock_of_a_pipelined_call_starts_when_it_is_the_first() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        let began = Instant::now();
        let first = checkout.send(Slow(millis(200), 1));
        let second = checkout.send(Within(millis(150), Spin));
        let failure = failure(second).await;
        assert!(began.elapsed() >= millis(350), "{:?}", began.elapsed());
        assert_eq!((failure.limit(), failure.phase()), (Some(millis(150)), Some(Phase::Running)));
        assert_eq!(answer(first).await, Ok(1));
    });
}

/// T1
#[test]
fn the_clock_of_the_first_call_covers_its_wait_for_a_worker() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        pid(&holder).await;
        let next = pool.checkout().start();
        holder.do_send(Slow(millis(200), 1));
        let began = Instant::now();
        let request = next.send(Within(millis(1000), Spin));
        drop(holder);
        let failure = failure(request).await;
        assert!(began.elapsed() >= millis(1000));
        assert_eq!((failure.limit(), failure.phase()), (Some(millis(1000)), Some(Phase::Running)));
        let (waited, ran) = (failure.waited().unwrap_or_default(), failure.ran().unwrap_or_default());
        assert!(waited >= millis(150), "{waited:?}");
        // It did not run while it waited.
        assert!(waited + ran <= began.elapsed(), "{waited:?} and {ran:?} of {:?}", began.elapsed());
    });
}

/// T1, T5
#[test]
fn a_worker_knows_how_much_of_its_clock_a_call_has_left() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        pid(&holder).await;
        let next = pool.checkout().timeout(millis(10_000)).start();
        let left = next.send(TimeLeft);
        holder.do_send(Slow(millis(200), 1));
        drop(holder);
        let left = answer(left).await.expect("milliseconds").expect("a deadline");
        // The two actors may begin in any order.
        assert!(left <= 9_900, "{left}");
        // Behind another call the clock is still full.
        next.do_send(Slow(millis(200), 1));
        let left = answer(next.send(TimeLeft)).await.expect("milliseconds").expect("a deadline");
        assert!((9_900..=10_000).contains(&left), "{left}");
    });
}

/// Sends the next call from the handler of the last reply.
struct Chain {
    checkout: Addr<Checkout<Probe>>,
    replies: Rc<RefCell<Vec<Result<u64, Failure>>>>,
}

impl Chain {
    fn next(&mut self, number: u64, ctx: &mut Context<Self>) {
        let request = self.checkout.send(Slow(millis(100), number)).into_actor(self);
        ctx.spawn(request.map(move |reply, chain, ctx| {
            chain.replies.borrow_mut().push(reply.expect("an answer"));
            if number < 6 {
                chain.next(number + 1, ctx);
            } else {
                ctx.stop();
            }
        }));
    }
}

impl Actor for Chain {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.next(1, ctx);
    }
}

/// T1
#[test]
fn calls_sent_from_inside_a_reply_handler_have_a_full_clock_each() {
    run(async {
        let pool = pool().workers(1..=1).timeout(millis(300)).start().expect("the pool starts");
        let replies = Rc::new(RefCell::new(Vec::new()));
        let chain = Chain { checkout: pool.checkout().start(), replies: replies.clone() }.start();
        until("the chain ends", || !chain.connected()).await;
        assert_eq!(*replies.borrow(), [Ok(1), Ok(2), Ok(3), Ok(4), Ok(5), Ok(6)]);
    });
}

/// T2
#[test]
fn no_clock_runs_while_nothing_is_queued() {
    run(async {
        let limit = millis(250);
        let pool = pool().workers(1..=1).timeout(limit).wait_timeout(limit).start().expect("the pool starts");
        let holder = pool.checkout().start();
        let worker = pid(&holder).await;
        let waiting = pool.checkout().start();
        actix_rt::time::sleep(limit * 4).await;
        // Neither the one that held its worker for that long has lost it, nor the one that waited.
        assert_eq!(pid(&holder).await, worker);
        drop(holder);
        until("the next has it", || pool.stats().waiting == 0).await;
        assert_eq!(pid(&waiting).await, worker);
        assert!(pool.stats().failures.is_empty());
    });
}

/// T3, E5
#[test]
fn a_call_that_runs_out_of_time_is_told_and_its_worker_killed_and_the_next_checkout_served() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().timeout(millis(100)).start();
        let worker = answer(checkout.send(Within(PATIENCE, Pid))).await.expect("a pid");
        let began = Instant::now();
        let request = checkout.send(Spin);
        let next = pool.checkout().start();
        let of_next = next.send(Pid);
        let timed_out = failure(request).await;
        assert!(began.elapsed() >= millis(100));
        assert_eq!(timed_out.kind(), FailureKind::Timeout);
        assert_eq!((timed_out.limit(), timed_out.phase()), (Some(millis(100)), Some(Phase::Running)));
        assert_eq!((timed_out.pid(), timed_out.call()), (Some(worker), Some("Spin")));
        let text = timed_out.to_string();
        assert!(text.contains("100ms") && text.contains("running"), "{text}");
        // The one that timed out still has its address.
        let replacement = answer(of_next).await.expect("a pid");
        assert_ne!(replacement, worker);
        gone(worker).await;
        assert_eq!(failure(checkout.send(Pid)).await, timed_out);
    });
}

/// T3
#[test]
fn a_worker_that_was_killed_for_its_time_is_replaced_though_nobody_waits() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        until("both workers are there", || pool.stats().idle == 2).await;
        let timed_out = failure(pool.addr().send(Within(millis(50), Spin))).await;
        assert_eq!(timed_out.kind(), FailureKind::Timeout);
        gone(timed_out.pid().expect("a pid")).await;
        until("both workers are there again", || pool.stats().idle == 2).await;
        assert_eq!(pool.stats().forked, 3);
    });
}

/// T3
#[test]
fn a_call_that_runs_out_of_time_in_line_says_so_and_harms_nobody() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        let worker = pid(&holder).await;
        let began = Instant::now();
        let timed_out = failure(pool.checkout().timeout(millis(100)).start().send(Pid)).await;
        assert!(began.elapsed() >= millis(100));
        assert_eq!(timed_out.kind(), FailureKind::Timeout);
        assert_eq!((timed_out.limit(), timed_out.phase()), (Some(millis(100)), Some(Phase::Waiting)));
        let text = timed_out.to_string();
        assert!(text.contains("100ms") && text.contains("waiting for a worker"), "{text}");
        assert_eq!(pool.stats().waiting, 0);
        assert_eq!(pid(&holder).await, worker);
        let next = pool.checkout().start();
        drop(holder);
        assert_eq!(pid(&next).await, worker);
    });
}

/// T3
#[test]
fn a_call_that_runs_out_of_time_while_its_worker_starts_says_so() {
    run(async {
        let hangs = Setup { script: Script::Hang, ..Setup::default() };
        let pool = builder::<Probe>(hangs).workers(1..=1).start().expect("the pool starts");
        until("the worker is forked", || pool.stats().forked == 1).await;
        let began = Instant::now();
        let timed_out = failure(pool.checkout().timeout(millis(100)).start().send(Pid)).await;
        assert!(began.elapsed() >= millis(100));
        assert_eq!(timed_out.kind(), FailureKind::Timeout);
        assert_eq!((timed_out.limit(), timed_out.phase()), (Some(millis(100)), Some(Phase::Starting)));
        assert!(timed_out.to_string().contains("start"), "{timed_out}");
    });
}

/// T3
#[test]
fn calls_that_run_out_of_time_at_once_are_all_told() {
    run(async {
        let pool = pool().workers(4..=4).start().expect("the pool starts");
        let checkouts: Vec<_> = (0..12).map(|_| pool.checkout().timeout(millis(150)).start()).collect();
        let requests: Vec<_> = checkouts.iter().map(|checkout| checkout.send(Spin)).collect();
        let mut killed = Vec::new();
        for request in requests {
            let timed_out = failure(request).await;
            assert_eq!((timed_out.kind(), timed_out.limit()), (FailureKind::Timeout, Some(millis(150))));
            killed.extend(timed_out.pid());
        }
        for worker in killed {
            gone(worker).await;
        }
        drop(checkouts);
        until("the pool is as before", || pool.stats().idle == 4 && pool.stats().workers() == 4).await;
    });
}

/// T4
#[test]
fn a_reply_that_can_be_read_when_the_clock_fires_wins() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().timeout(millis(150)).start();
        let worker = pid(&checkout).await;
        let mut calls = 1;
        for round in 0..5 {
            let request = checkout.send(Slow(millis(20), round));
            calls += 1;
            written(&pool, calls).await;
            block_the_event_loop(millis(250));
            assert_eq!(answer(request).await, Ok(round));
        }
        assert_eq!(pid(&checkout).await, worker);
        drop(checkout);
        let request = pool.addr().send(Within(millis(150), Slow(millis(20), 9)));
        written(&pool, calls + 2).await;
        block_the_event_loop(millis(250));
        assert_eq!(answer(request).await, Ok(9));
    });
}

/// T4
#[test]
fn replies_that_can_be_read_when_the_clock_fires_win_however_many_and_large_they_are() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().timeout(millis(500)).start();
        pid(&checkout).await;
        let many: Vec<_> = (0..500).map(|number| checkout.send(Slow(Duration::ZERO, number))).collect();
        written(&pool, 2).await;
        block_the_event_loop(millis(700));
        for (number, request) in (0..).zip(many) {
            assert_eq!(answer(request).await, Ok(number));
        }
        // As large as what a socket holds.
        let large = checkout.send(Echo(vec![1; 100_000]));
        written(&pool, 3).await;
        block_the_event_loop(millis(700));
        assert_eq!(answer(large).await.map(|bytes| bytes.len()), Ok(100_000));
    });
}

/// T4
#[test]
fn a_busy_event_loop_times_no_call_out() {
    run(async {
        let pool = pool().workers(2..=2).timeout(millis(100)).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        let mut requests = Vec::new();
        for number in 0..20 {
            requests.push((number, checkout.send(Slow(millis(1), number))));
            let (pool, checkout) = (pool.clone(), checkout.clone());
            actix_rt::spawn(async move {
                // One after the other, while others keep the loop busy for longer than any limit.
                block_the_event_loop(millis(30));
                assert_eq!(answer(checkout.send(Slow(millis(1), number))).await, Ok(number));
                assert_eq!(answer(pool.send(Slow(millis(1), number))).await, Ok(number));
            });
        }
        for (number, request) in requests {
            assert_eq!(answer(request).await, Ok(number));
        }
        until("every call is answered", || pool.stats().succeeded == 61).await;
        assert!(pool.stats().failures.is_empty());
    });
}

/// T4
#[test]
fn a_worker_that_is_ready_when_the_clock_fires_is_no_timeout() {
    run(async {
        let slow = Setup { script: Script::Sleep(millis(100)), ..Setup::default() };
        let pool = builder::<Probe>(slow).workers(0..=1).start().expect("the pool starts");
        let server = the_server().await;
        let request = pool.addr().send(Within(millis(500), Slow(Duration::ZERO, 1)));
        until("the worker is forked", || !children(server).is_empty()).await;
        block_the_event_loop(millis(700));
        assert_eq!(answer(request).await, Ok(1));
    });
}

/// T6
#[test]
fn wait_timeout_bounds_the_wait_for_a_worker_alone() {
    run(async {
        let pool = pool().workers(1..=1).wait_timeout(millis(100)).start().expect("the pool starts");
        pool.ready().await.expect("a worker");
        let holder = pool.checkout().start();
        // Running is not waiting.
        assert_eq!(answer(holder.send(Slow(millis(300), 1))).await, Ok(1));
        let began = Instant::now();
        let in_line = failure(pool.checkout().start().send(Pid)).await;
        assert!(began.elapsed() >= millis(100));
        assert_eq!((in_line.kind(), in_line.phase()), (FailureKind::Timeout, Some(Phase::Waiting)));
        assert_eq!(in_line.limit(), Some(millis(100)));
        // The checkout's own before the pool's; the shorter of the two clocks fires.
        let shorter = failure(pool.checkout().wait_timeout(millis(50)).start().send(Pid)).await;
        assert_eq!(shorter.limit(), Some(millis(50)));
        let shortest = pool.checkout().wait_timeout(None).timeout(millis(20)).start();
        assert_eq!(failure(shortest.send(Pid)).await.limit(), Some(millis(20)));
        let single = failure(pool.send(Pid)).await;
        assert_eq!((single.phase(), single.limit()), (Some(Phase::Waiting), Some(millis(100))));
        let patient = pool.checkout().wait_timeout(None).start();
        let request = patient.send(Slow(millis(150), 2));
        drop(holder);
        assert_eq!(answer(request).await, Ok(2));
    });
}

/// T7
#[test]
fn without_a_server_a_call_fails_at_its_timeout() {
    run(async {
        let impossible = Setup { preload: Script::Exit(1), ..Setup::default() };
        let pool = builder::<Probe>(impossible).workers(1..=2).start().expect("the pool starts");
        let limits = [millis(200), millis(400), millis(600)];
        let began = Instant::now();
        let requests = limits.map(|limit| pool.checkout().timeout(limit).start().send(Pid));
        let pooled = pool.addr().send(Within(millis(700), Pid));
        for (limit, request) in limits.into_iter().zip(requests) {
            let unreachable = failure(request).await;
            assert!(began.elapsed() >= limit, "{limit:?}: {unreachable}");
            assert_eq!((unreachable.kind(), unreachable.limit()), (FailureKind::NoServer, Some(limit)));
            assert!(!chain(&unreachable)[1].is_empty());
        }
        assert_eq!(failure(pooled).await.kind(), FailureKind::NoServer);
        assert!(began.elapsed() >= millis(700));
    });
}

/// T7
#[test]
fn a_server_that_is_killed_again_and_again_fails_a_call_at_its_timeout_and_no_other() {
    run(async {
        let slow = Setup { preload: Script::Sleep(millis(300)), ..Setup::default() };
        let pool = builder::<Probe>(slow).workers(1..=1).start().expect("the pool starts");
        let limit = millis(800);
        let began = Instant::now();
        let request = actix_rt::spawn(failure(pool.checkout().timeout(limit).start().send(Pid)));
        let mut killed = Vec::new();
        while !request.is_finished() {
            // Each is killed before it has forked anything.
            let new: Vec<u32> = servers().into_iter().filter(|server| !killed.contains(server)).collect();
            new.iter().for_each(|&server| kill(server));
            killed.extend(new);
            actix_rt::time::sleep(millis(1)).await;
        }
        let unreachable = request.await.expect("a client");
        assert!(began.elapsed() >= limit);
        assert_eq!(unreachable.limit(), Some(limit));
        // At that moment the last server was dead, or was alive and about to be killed.
        let (kind, phase) = (unreachable.kind(), unreachable.phase());
        assert!(
            kind == FailureKind::NoServer || (kind, phase) == (FailureKind::Timeout, Some(Phase::Starting)),
            "{unreachable}"
        );
        assert!(killed.len() > 1, "{killed:?}");
        // Left alone, the next server serves.
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// T1
#[test]
fn a_call_that_has_no_time_left_is_told_so_at_once_and_costs_nothing() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        let late = failure(checkout.send(Within(Duration::ZERO, Pid))).await;
        assert_eq!((late.kind(), late.limit()), (FailureKind::Timeout, Some(Duration::ZERO)));
        assert_eq!(answer(checkout.send(Pid)).await, Ok(pid));
        drop(checkout);
        let single = answer(pool.send_within(Duration::ZERO, Pid)).await.unwrap_err();
        assert_eq!(single.kind(), FailureKind::Timeout);
        assert_eq!(answer(pool.send(Pid)).await, Ok(pid));
    });
}
