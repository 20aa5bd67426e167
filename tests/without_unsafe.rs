//! A crate that forbids unsafe code has workers all the same, and its tests need no line for them.
#![forbid(unsafe_code)]

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

struct Doubler;

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u64, Failure>")]
struct Double(u64);

impl Actor for Doubler {
    type Context = WorkerContext<Self>;
}

impl Worker for Doubler {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Doubler)
    }
}

impl Handler<Double> for Doubler {
    type Result = Result<u64, Failure>;

    fn handle(&mut self, Double(number): Double, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(number * 2)
    }
}

forkpool::interface!(Doubler { Double });
forkpool::boot!(Doubler);

/// W1, S3
#[actix::test]
async fn an_actix_test_of_a_crate_that_forbids_unsafe_code_starts_a_pool_directly() {
    let pool = Pool::<Doubler>::builder(()).workers(1..=1).start().expect("the pool starts");
    assert_eq!(pool.send(Double(21)).await, Ok(42));
    pool.stop(std::time::Duration::ZERO).await;
}
