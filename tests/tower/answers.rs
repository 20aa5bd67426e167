//! What a service responds, on any thread, and what becomes of a future that is dropped.

use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};
use tower::{Service, ServiceExt};

use crate::harness::*;
use crate::yard::Yard;

/// A cashier, who has an error of their own.
struct Cashier;

#[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
enum CashError {
    #[error("{0} too little")]
    Short(u32),
    #[error(transparent)]
    Failed(#[from] Failure),
}

#[derive(Clone, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, CashError>")]
struct Pay(u32);

impl Actor for Cashier {
    type Context = WorkerContext<Self>;
}

impl Worker for Cashier {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Cashier)
    }
}

impl Handler<Pay> for Cashier {
    type Result = Result<u32, CashError>;

    fn handle(&mut self, Pay(sum): Pay, _: &mut WorkerContext<Self>) -> Self::Result {
        match sum {
            0 => std::process::abort(),
            1..10 => Err(CashError::Short(10 - sum)),
            _ => Ok(sum - 10),
        }
    }
}

forkpool::interface!(Cashier { Pay });
forkpool::boot!(Cashier);

/// V3: the handler's own error and a worker's death are variants of the message's error.
#[test]
fn answers_keep_their_types() {
    run(async {
        let pool = builder::<Cashier>(()).workers(1..=1).max_waiting(1).start().expect("the pool starts");
        let service = pool.service().expect("its queue has a bound");
        assert_eq!(bounded("an answer", service.clone().oneshot(Pay(12))).await, Ok(2));
        let short = bounded("an answer", service.clone().oneshot(Pay(7))).await;
        assert_eq!(short, Err(CashError::Short(3)));
        match bounded("an answer", service.clone().oneshot(Pay(0))).await {
            Err(CashError::Failed(failure)) => assert_eq!(failure.kind(), FailureKind::Died),
            other => panic!("the worker died, and the answer is {other:?}"),
        }
        assert_eq!(bounded("an answer", service.oneshot(Pay(10))).await, Ok(0));
    });
}

/// V3, C9: one that waits never runs, and its place is free at once.
#[test]
fn a_future_that_is_dropped_cancels_its_call() {
    run(async {
        let pool = pool().workers(1..=1).max_waiting(1).on_cancel(OnCancel::Kill);
        let pool = pool.start().expect("the pool starts");
        let yard = Yard::new();
        let mut service = pool.service().expect("its queue has a bound");
        ServiceExt::<Task>::ready(&mut service).await.expect("it is ready");
        let running = service.call(yard.task(1, "gated"));
        let killed = yard.begun(1).await;
        ServiceExt::<Task>::ready(&mut service).await.expect("it is ready");
        drop(service.call(yard.task(2, "answer")));
        bounded("room", ServiceExt::<Task>::ready(&mut service)).await.expect("it is ready");
        let behind = service.call(yard.task(3, "answer"));
        drop(running);
        gone(killed).await;
        bounded("an answer", behind).await.expect("it runs on another worker");
        assert_eq!(yard.numbers(), [1, 3]);
    });
}

/// V1, V2, V3: clones on the threads of a runtime compete for few places, with senders that take no permits beside them.
#[test]
fn no_call_behind_a_permit_is_refused_on_many_threads() {
    run(async {
        let pool = pool().workers(1..=2).max_waiting(3).start().expect("the pool starts");
        let of_runtime = pool.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build();
            runtime.expect("a runtime").block_on(async move {
                let service = of_runtime.service().expect("its queue has a bound");
                let clones = (0..32_u64).map(|number| {
                    let mut service = service.clone();
                    tokio::spawn(async move {
                        for round in 0..20 {
                            let number = number * 100 + round;
                            let ready = ServiceExt::<Slow>::ready(&mut service).await.expect("it runs");
                            let answer = ready.call(Slow(Duration::ZERO, number)).await;
                            assert_eq!(answer.expect("it has a permit"), number);
                        }
                    })
                });
                let others = (0..4_u64).map(|number| {
                    let pool = of_runtime.clone();
                    tokio::spawn(async move {
                        for _ in 0..50 {
                            match pool.send(Slow(Duration::ZERO, number)).await {
                                Ok(answer) => assert_eq!(answer, number),
                                Err(failure) => assert_eq!(failure.kind(), FailureKind::Overloaded),
                            }
                        }
                    })
                });
                for task in clones.chain(others).collect::<Vec<_>>() {
                    task.await.expect("it does not panic");
                }
            });
        });
        until("all have their answers", || thread.is_finished()).await;
        thread.join().expect("it does not panic");
    });
}
