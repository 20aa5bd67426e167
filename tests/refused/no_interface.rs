//! A worker without an interface.
use actix::prelude::*;
use forkpool::prelude::*;

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

fn main() {}
