//! A library that a program of another language opens: it starts a pool, as it may not.

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
struct Pid;

struct Guest;

impl Actor for Guest {
    type Context = WorkerContext<Self>;
}

impl Worker for Guest {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Guest)
    }
}

impl Handler<Pid> for Guest {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, Pid: Pid, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(std::process::id())
    }
}

forkpool::interface!(Guest { Pid });
forkpool::boot!(Guest);

/// Starts a pool, and prints how that went.
#[expect(unsafe_code, reason = "a foreign program finds the function by its name")]
#[unsafe(no_mangle)]
pub extern "C" fn forkpool_guest() {
    System::new().block_on(async {
        match Pool::<Guest>::builder(()).workers(1..=1).start() {
            Err(error) => println!("refused: {error}"),
            Ok(pool) => println!("served by {:?}", pool.send(Pid).await),
        }
    });
}
