//! A message that the worker handles and its interface does not name.
use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), Failure>")]
struct Known;

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), Failure>")]
struct Forgotten;

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

impl Handler<Known> for Hasher {
    type Result = Result<(), Failure>;
    fn handle(&mut self, _: Known, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(())
    }
}

forkpool::interface!(Hasher { Known });
forkpool::boot!(Hasher);

async fn ask(checkout: Addr<Checkout<Hasher>>) {
    let _ = checkout.send(Forgotten).await;
}

fn main() {}
