//! A message whose error cannot carry a failure.
use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct HashError;

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), HashError>")]
struct Hash;

struct Hasher;

impl Actor for Hasher {
    type Context = WorkerContext<Self>;
}

impl Worker for Hasher {
    type Config = ();
    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Hasher)
    }
}

impl Handler<Hash> for Hasher {
    type Result = Result<(), HashError>;
    fn handle(&mut self, _: Hash, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(())
    }
}

forkpool::interface!(Hasher { Hash });
forkpool::boot!(Hasher);

fn main() {}
