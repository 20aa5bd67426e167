//! When a service is ready: permits, their order, and what ends the wait for one.

use std::time::Duration;

use forkpool::PoolService;
use forkpool::prelude::*;
use tokio_test::task;
use tokio_test::{assert_pending, assert_ready};
use tower::{Service, ServiceExt};

use crate::harness::*;
use crate::yard::Yard;

/// A pool of one worker, where one more call may wait.
fn narrow() -> PoolHandle<Probe> {
    pool().workers(1..=1).max_waiting(1).start().expect("the pool starts")
}

fn service(pool: &PoolHandle<Probe>) -> PoolService<Probe> {
    pool.service().expect("its queue has a bound")
}

/// Resolves once the service is ready for a task.
async fn ready(service: &mut PoolService<Probe>) -> Result<(), Failure> {
    ServiceExt::<Task>::ready(service).await.map(drop)
}

/// Fills the pool: one call runs and one waits.
async fn fill(pool: &PoolHandle<Probe>, yard: &Yard) -> [forkpool::PoolRequest<Result<u32, Failure>>; 2] {
    let mut service = service(pool);
    ready(&mut service).await.expect("it is ready");
    let running = service.call(yard.task(1, "gated"));
    yard.begun(1).await;
    ready(&mut service).await.expect("it is ready");
    [running, service.call(yard.task(2, "gated"))]
}

/// V1
#[test]
fn a_pool_without_a_bound_is_no_service() {
    run(async {
        let refused = pool_of_one().service().expect_err("its queue has no bound");
        assert_eq!(refused.option(), "max_waiting");
    });
}

/// V1, V2: the third one is woken when the first call ends, since the second one waits no more.
#[test]
fn a_service_before_a_full_queue_is_woken_once_there_is_room() {
    run(async {
        let (pool, yard) = (narrow(), Yard::new());
        let calls = fill(&pool, &yard).await;
        let mut third = service(&pool);
        let mut waiting = task::spawn(ready(&mut third));
        assert_pending!(waiting.poll());
        assert!(!waiting.is_woken());
        let overloaded = answer(pool.send(Pid)).await.expect_err("the queue is full");
        assert_eq!(overloaded.kind(), FailureKind::Overloaded);

        yard.open();
        until("there is room", || waiting.is_woken()).await;
        assert_ready!(waiting.poll()).expect("the pool runs");
        drop(waiting);
        assert!(answer(third.call(yard.task(3, "answer"))).await.is_ok());
        for call in calls {
            answer(call).await.expect("an answer");
        }
    });
}

/// V1: the permit holds the last place, so others are refused and its own call is not.
#[test]
fn a_permit_counts_against_the_bound_until_its_call_does() {
    run(async {
        let (pool, yard) = (narrow(), Yard::new());
        let mut service = service(&pool);
        ready(&mut service).await.expect("it is ready");
        let running = service.call(yard.task(1, "gated"));
        yard.begun(1).await;
        ready(&mut service).await.expect("it is ready");

        let refused = answer(pool.send(Pid)).await.expect_err("a permit has the last place");
        assert_eq!(refused.kind(), FailureKind::Overloaded);
        let checkout = pool.checkout().open();
        let refused = answer(checkout.call(Pid)).await.expect_err("a permit has the last place");
        assert_eq!(refused.kind(), FailureKind::Overloaded);

        let permitted = service.call(yard.task(2, "gated"));
        let refused = answer(pool.send(Pid)).await.expect_err("its call has the last place");
        assert_eq!(refused.kind(), FailureKind::Overloaded);
        yard.open();
        answer(running).await.expect("an answer");
        answer(permitted).await.expect("an answer");
    });
}

/// V1: a clone has no permit, so its call is a `send`, which a full pool refuses.
#[test]
fn a_call_without_a_permit_is_a_send() {
    run(async {
        let (pool, yard) = (narrow(), Yard::new());
        let calls = fill(&pool, &yard).await;
        let mut unready = service(&pool);
        let refused = answer(unready.call(yard.task(3, "answer"))).await.expect_err("the queue is full");
        assert_eq!(refused.kind(), FailureKind::Overloaded);
        yard.open();
        for call in calls {
            answer(call).await.expect("an answer");
        }
        answer(unready.call(yard.task(4, "answer"))).await.expect("there is room");
        assert_eq!(yard.numbers(), [1, 2, 4]);
    });
}

/// V2
#[test]
fn a_permit_that_is_dropped_goes_to_the_one_that_has_waited_longest() {
    run(async {
        let (pool, yard) = (narrow(), Yard::new());
        let mut first = service(&pool);
        ready(&mut first).await.expect("it is ready");
        let running = first.call(yard.task(1, "gated"));
        yard.begun(1).await;
        ready(&mut first).await.expect("it is ready");
        let (mut second, mut third) = (first.clone(), first.clone());
        let mut second = task::spawn(ready(&mut second));
        assert_pending!(second.poll());
        let mut third = task::spawn(ready(&mut third));
        assert_pending!(third.poll());

        drop(first);
        assert!(second.is_woken() && !third.is_woken());
        assert_ready!(second.poll()).expect("the pool runs");
        assert_pending!(third.poll());
        yard.open();
        answer(running).await.expect("an answer");
    });
}

/// V2: one that gives up, woken or not, holds up none behind it.
#[test]
fn a_service_that_is_dropped_while_it_waits_leaves_its_place_to_the_next() {
    run(async {
        let (pool, yard) = (narrow(), Yard::new());
        let mut holder = service(&pool);
        ready(&mut holder).await.expect("it is ready");
        let running = holder.call(yard.task(1, "gated"));
        yard.begun(1).await;
        ready(&mut holder).await.expect("it is ready");
        let mut others: Vec<_> = (0..3).map(|_| holder.clone()).collect();
        let mut waiting = task::spawn(ready(&mut others[0]));
        assert_pending!(waiting.poll());
        drop(waiting);
        let mut granted = task::spawn(ready(&mut others[1]));
        assert_pending!(granted.poll());
        drop(granted);
        let mut last = others.pop().expect("three");
        let mut last = task::spawn(ready(&mut last));
        assert_pending!(last.poll());

        let woken_unseen = others.pop().expect("two");
        drop(others);
        drop(holder);
        assert!(!last.is_woken(), "the place is that of the one before");
        drop(woken_unseen);
        assert!(last.is_woken());
        assert_ready!(last.poll()).expect("the pool runs");
        yard.open();
        answer(running).await.expect("an answer");
    });
}

/// V2: a stop wakes all that wait, and takes the permits of those that do not.
#[test]
fn a_stop_ends_the_wait_for_readiness() {
    run(async {
        let (pool, yard) = (narrow(), Yard::new());
        let calls = fill(&pool, &yard).await;
        let mut services: Vec<_> = (0..3).map(|_| service(&pool)).collect();
        let mut waiting: Vec<_> = services.iter_mut().map(|service| task::spawn(ready(service))).collect();
        for waiting in &mut waiting {
            assert_pending!(waiting.poll());
        }
        let stopped = actix_rt::spawn(pool.stop(Duration::ZERO));
        until("all are woken", || waiting.iter().all(|waiting| waiting.is_woken())).await;
        for waiting in &mut waiting {
            let failure = assert_ready!(waiting.poll()).expect_err("the pool stops");
            assert_eq!(failure.kind(), FailureKind::Stopped);
        }
        bounded("the end of the pool", stopped).await.expect("it does not panic");
        let mut late = service(&pool);
        assert_eq!(ready(&mut late).await.expect_err("it has stopped").kind(), FailureKind::Stopped);
        for call in calls {
            assert_eq!(answer(call).await.expect_err("killed").kind(), FailureKind::Stopped);
        }
    });
}

/// V1: as many permits as the pool has workers to begin with, and as many again as may wait.
#[test]
fn idle_workers_and_those_that_can_be_forked_make_room_beyond_the_bound() {
    run(async {
        let pool = pool().workers(1..=3).max_waiting(2).start().expect("the pool starts");
        let mut services: Vec<_> = (0..6).map(|_| service(&pool)).collect();
        let last = &mut services.pop().expect("six");
        for service in &mut services {
            let mut ready = task::spawn(ready(service));
            assert_ready!(ready.poll()).expect("there is room");
        }
        let mut waiting = task::spawn(ready(last));
        assert_pending!(waiting.poll());
        services.pop();
        assert!(waiting.is_woken());
    });
}
