//! The same actor on the threads of actix's `SyncArbiter` and in the processes of a pool.
//!
//! What changes is the context, the three items that a process needs, and the line that starts it. What is
//! gained: a panic ends a thread of `SyncArbiter` for good, and its callers learn only that the mailbox has
//! closed; a pool replaces the worker and tells the caller what happened. (The panic that appears on stderr
//! is that of the thread.)
//!
//! ```sh
//! cargo run --example from_sync_arbiter
//! ```

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// For the pool, a message needs serde, and its error a `From<Failure>`. Here `Failure` is the error itself.
#[derive(Clone, Copy, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
struct Divide(u32, u32);

/// Before.
mod threads {
    use super::*;

    pub struct Divider;

    impl Actor for Divider {
        type Context = SyncContext<Self>;
    }

    impl Handler<Divide> for Divider {
        type Result = Result<u32, Failure>;

        fn handle(&mut self, Divide(a, b): Divide, _: &mut SyncContext<Self>) -> Self::Result {
            Ok(a / b) // panics for b = 0
        }
    }

    pub fn start() -> Addr<Divider> {
        SyncArbiter::start(1, || Divider)
    }
}

/// After.
mod processes {
    use super::*;

    pub struct Divider;

    impl Actor for Divider {
        type Context = WorkerContext<Self>;
    }

    impl Handler<Divide> for Divider {
        type Result = Result<u32, Failure>;

        fn handle(&mut self, Divide(a, b): Divide, _: &mut WorkerContext<Self>) -> Self::Result {
            Ok(a / b) // panics for b = 0
        }
    }

    impl Worker for Divider {
        type Config = ();

        fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
            Ok(Divider)
        }
    }

    forkpool::interface!(Divider { Divide });
    forkpool::boot!(Divider);

    pub fn start() -> Result<PoolHandle<Divider>, forkpool::StartError> {
        Pool::<Divider>::builder(()).workers(1..=1).start()
    }
}

/// What both are sent, in this order.
const CALLS: [Divide; 3] = [Divide(84, 2), Divide(1, 0), Divide(84, 2)];

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("--- SyncArbiter");
    let threads = threads::start();
    for call in CALLS {
        show(call, threads.send(call).await);
    }

    println!("\n--- forkpool");
    let processes = processes::start()?;
    for call in CALLS {
        show(call, processes.send(call).await);
    }
    processes.stop(Duration::from_secs(1)).await;
    Ok(())
}

fn show(Divide(a, b): Divide, answer: Result<Result<u32, Failure>, MailboxError>) {
    match answer {
        Ok(Ok(quotient)) => println!("{a} / {b}: {quotient}"),
        Ok(Err(failure)) => println!("{a} / {b}: {failure}"),
        Err(mailbox) => println!("{a} / {b}: {mailbox}"),
    }
}
