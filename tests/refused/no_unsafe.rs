//! Accepted: a crate that forbids unsafe code has workers, in two places.
#![forbid(unsafe_code)]
#![deny(warnings)]
use actix::prelude::*;
use forkpool::prelude::*;

#[derive(Message, serde::Serialize, serde::Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
struct Ask;

macro_rules! worker {
    ($name:ident) => {
        struct $name;
        impl Actor for $name {
            type Context = WorkerContext<Self>;
        }
        impl Worker for $name {
            type Config = ();
            fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
                Ok($name)
            }
        }
        impl Handler<Ask> for $name {
            type Result = Result<u32, Failure>;
            fn handle(&mut self, _: Ask, _: &mut WorkerContext<Self>) -> Self::Result {
                Ok(1)
            }
        }
        forkpool::interface!($name { Ask });
    };
}

worker!(First);
worker!(Second);
forkpool::boot!(First);
forkpool::boot!(Second);

fn main() {
    let _ = (Pool::<First>::builder(()), Pool::<Second>::builder(()));
}
