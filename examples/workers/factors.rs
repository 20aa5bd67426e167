//! What `axum_service` and `tonic_service` run: numbers are factored, which keeps a processor busy.

use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, actix::Message, Serialize, Deserialize)]
#[rtype(result = "Result<Factored, FactorError>")]
pub struct Factor(pub u64);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Factored {
    /// The prime factors, in order.
    pub factors: Vec<u64>,
    /// The process that has found them.
    pub worker: u32,
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum FactorError {
    #[error("zero has no factors")]
    Zero,
    #[error(transparent)]
    Worker(#[from] Failure),
}

pub struct Factors;

impl actix::Actor for Factors {
    type Context = WorkerContext<Self>;
}

impl Worker for Factors {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Factors)
    }
}

impl actix::Handler<Factor> for Factors {
    type Result = Result<Factored, FactorError>;

    fn handle(&mut self, Factor(number): Factor, _: &mut WorkerContext<Self>) -> Self::Result {
        if number == 0 {
            return Err(FactorError::Zero);
        }
        Ok(Factored { factors: factors(number), worker: std::process::id() })
    }
}

fn factors(mut number: u64) -> Vec<u64> {
    let (mut found, mut candidate) = (Vec::new(), 2);
    while candidate <= number / candidate {
        if number.is_multiple_of(candidate) {
            found.push(candidate);
            number /= candidate;
        } else {
            candidate += 1;
        }
    }
    found.extend((number > 1).then_some(number));
    found
}

forkpool::interface!(Factors { Factor });
forkpool::boot!(Factors);
