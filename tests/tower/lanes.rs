//! Services at bulkheads, and on the threads of several arbiters.

use std::time::Duration;

use forkpool::prelude::*;
use tokio::sync::oneshot;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Service, ServiceExt};

use crate::harness::*;
use crate::yard::Yard;

/// V2, P4: calls without a bulkhead have room while those of a message wait at theirs.
#[test]
fn a_service_at_its_bulkhead_is_passed_over() {
    run(async {
        let pool = pool().workers(2..=2).max_waiting(1).most_for::<Task>(1).start().expect("the pool starts");
        let (yard, service) = (Yard::new(), pool.service().expect("its queue has a bound"));
        let (mut tasks, mut waiting, mut other) = (service.clone(), service.clone(), service);
        let running =
            ServiceExt::<Task>::ready(&mut tasks).await.expect("it is ready").call(yard.task(1, "gated"));
        yard.begun(1).await;
        settled_but_one(&pool).await;
        let behind =
            ServiceExt::<Task>::ready(&mut tasks).await.expect("it is ready").call(yard.task(2, "answer"));
        let mut waiting = task::spawn(ServiceExt::<Task>::ready(&mut waiting));
        assert_pending!(waiting.poll());
        let other = bounded("readiness", ServiceExt::<Pid>::ready(&mut other)).await.expect("it is ready");
        answer(other.call(Pid)).await.expect("another worker is free");
        assert!(!waiting.is_woken());

        yard.open();
        until("there is room at the bulkhead", || waiting.is_woken()).await;
        assert_ready!(waiting.poll()).expect("it is ready");
        answer(running).await.expect("an answer");
        answer(behind).await.expect("an answer");
    });
}

/// Waits until one of two workers runs a call and the other one is idle.
async fn settled_but_one(pool: &PoolHandle<Probe>) {
    until("one worker is idle", || (pool.stats().idle, pool.stats().leased) == (1, 1)).await;
}

/// V1, P4
#[test]
fn the_calls_of_a_class_are_those_of_its_service() {
    run(async {
        let pool = pool().workers(2..=2).max_waiting(1).start().expect("the pool starts");
        let yard = Yard::new();
        let class = pool.class("tasks").most(1).expect("a class");
        let mut service = class.service().expect("its queue has a bound");
        let running =
            ServiceExt::<Task>::ready(&mut service).await.expect("it is ready").call(yard.task(1, "gated"));
        yard.begun(1).await;
        settled_but_one(&pool).await;
        let behind =
            ServiceExt::<Task>::ready(&mut service).await.expect("it is ready").call(yard.task(2, "answer"));
        let mut waiting = task::spawn(ServiceExt::<Task>::ready(&mut service));
        assert_pending!(waiting.poll());
        drop(waiting);
        answer(pool.send(Pid)).await.expect("the class has one of two workers");
        assert_eq!(yard.numbers(), [1]);
        yard.open();
        answer(running).await.expect("an answer");
        answer(behind).await.expect("an answer");
    });
}

/// V2: what a thread's calls had taken is free for services on other threads once that thread has ended.
#[test]
fn the_end_of_a_thread_makes_room() {
    run(async {
        let pool = pool().workers(1..=1).max_waiting(1).start().expect("the pool starts");
        let yard = Yard::new();
        let (arbiter, of_arbiter) = (actix::Arbiter::new(), pool.clone());
        let tasks = [yard.task(1, "gated"), yard.task(2, "answer")];
        arbiter.spawn(async move {
            for task in tasks {
                of_arbiter.do_send(task);
            }
        });
        yard.begun(1).await;
        until("one waits", || pool.stats().waiting == 1).await;
        let mut service = pool.service().expect("its queue has a bound");
        let mut waiting = task::spawn(ServiceExt::<Pid>::ready(&mut service));
        assert_pending!(waiting.poll());

        arbiter.stop();
        until("there is room", || waiting.is_woken()).await;
        let service = assert_ready!(waiting.poll()).expect("it is ready");
        answer(service.call(Pid)).await.expect("the worker is replaced");
        let join = actix_rt::task::spawn_blocking(move || arbiter.join());
        bounded("the thread", join).await.expect("it does not panic").expect("it ends well");
    });
}

/// V1, V2: lanes of several threads take turns at one worker and one place, and no wake-up is lost.
#[test]
fn services_on_several_arbiters_share_one_place() {
    run(async {
        let pool = pool().workers(1..=1).max_waiting(1).start().expect("the pool starts");
        let arbiters: Vec<_> = (0..4).map(|_| actix::Arbiter::new()).collect();
        let done = arbiters.iter().zip(0_u64..).map(|(arbiter, number)| {
            let (done, is_done) = oneshot::channel();
            let service = pool.service().expect("its queue has a bound");
            arbiter.spawn(async move {
                let rounds = [service.clone(), service].map(|mut service| {
                    actix_rt::spawn(async move {
                        for round in 0..100 {
                            let ready = ServiceExt::<Slow>::ready(&mut service).await.expect("it runs");
                            let answered = ready.call(Slow(Duration::ZERO, round + number)).await;
                            assert_eq!(answered.expect("it has a permit"), round + number);
                        }
                    })
                });
                for rounds in rounds {
                    rounds.await.expect("it does not panic");
                }
                done.send(()).expect("the test waits");
            });
            is_done
        });
        for done in done.collect::<Vec<_>>() {
            bounded("the rounds of a thread", done).await.expect("its calls are answered");
        }
        assert_eq!(pool.stats().succeeded, 800);
        for arbiter in arbiters {
            arbiter.stop();
            let join = actix_rt::task::spawn_blocking(move || arbiter.join());
            bounded("the thread", join).await.expect("it does not panic").expect("it ends well");
        }
    });
}
