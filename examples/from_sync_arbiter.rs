//! An actor on the threads of actix's `SyncArbiter`, and the same actor in the processes of a pool.
//!
//! Both get the same calls. The second one panics: with `SyncArbiter` that ends the only thread, and its callers get a
//! closed mailbox from then on; a pool answers that call with the panic and replaces the worker. (The panic that
//! appears on stderr is the thread's.) docs/MIGRATING.md shows the marked parts and explains what changes.
//!
//! ```sh
//! cargo run --example from_sync_arbiter
//! ```

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

/// Before.
pub mod threads {
    use std::error::Error;

    // shown: before
    use actix::prelude::*;

    #[derive(Message)]
    #[rtype(result = "Result<u32, DivideError>")]
    pub struct Divide(pub u32, pub u32);

    #[derive(Debug, thiserror::Error)]
    pub enum DivideError {
        #[error("{0} is larger than {1}")]
        TooLarge(u32, u32),
    }

    pub struct Divider {
        largest: u32,
    }

    impl Actor for Divider {
        type Context = SyncContext<Self>;
    }

    impl Handler<Divide> for Divider {
        type Result = Result<u32, DivideError>;

        fn handle(&mut self, Divide(a, b): Divide, _: &mut SyncContext<Self>) -> Self::Result {
            if a > self.largest {
                return Err(DivideError::TooLarge(a, self.largest));
            }
            Ok(a / b) // panics for b = 0
        }
    }

    pub fn start(threads: usize, largest: u32) -> Addr<Divider> {
        SyncArbiter::start(threads, move || Divider { largest })
    }
    // end: before

    pub async fn divide(divider: &Addr<Divider>, a: u32, b: u32) -> Result<u32, Box<dyn Error>> {
        // shown: call before
        let quotient = divider.send(Divide(a, b)).await??;
        // end: call before
        Ok(quotient)
    }
}

/// After.
pub mod processes {
    use std::error::Error;
    use std::time::Duration;

    // shown: after
    use actix::prelude::*;
    use forkpool::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Message, Serialize, Deserialize)]
    #[rtype(result = "Result<u32, DivideError>")]
    pub struct Divide(pub u32, pub u32);

    #[derive(Debug, thiserror::Error, Serialize, Deserialize)]
    pub enum DivideError {
        #[error("{0} is larger than {1}")]
        TooLarge(u32, u32),
        #[error(transparent)]
        Worker(#[from] Failure),
    }

    pub struct Divider {
        largest: u32,
    }

    impl Actor for Divider {
        type Context = WorkerContext<Self>;
    }

    impl Worker for Divider {
        type Config = u32;

        fn setup(largest: u32, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
            Ok(Divider { largest })
        }
    }

    impl Handler<Divide> for Divider {
        type Result = Result<u32, DivideError>;

        fn handle(&mut self, Divide(a, b): Divide, _: &mut WorkerContext<Self>) -> Self::Result {
            if a > self.largest {
                return Err(DivideError::TooLarge(a, self.largest));
            }
            Ok(a / b) // panics for b = 0
        }
    }

    forkpool::interface!(Divider { Divide });
    forkpool::boot!(Divider);

    pub fn start(processes: usize, largest: u32) -> Result<PoolHandle<Divider>, StartError> {
        Pool::<Divider>::builder(largest).workers(processes..=processes).start()
    }
    // end: after

    pub async fn divide(pool: &PoolHandle<Divider>, a: u32, b: u32) -> Result<u32, Box<dyn Error>> {
        // shown: call after
        let quotient = pool.send(Divide(a, b)).await?;
        // end: call after
        Ok(quotient)
    }

    /// The same through an address, as code that needs a `Recipient` does.
    pub async fn divide_at(pool: &PoolHandle<Divider>, a: u32, b: u32) -> Result<u32, Box<dyn Error>> {
        // shown: address
        let divider: Recipient<Divide> = pool.addr().recipient();
        let quotient = divider.send(Divide(a, b)).await??;
        // end: address
        Ok(quotient)
    }

    /// Two calls that one worker runs.
    pub async fn divide_twice(pool: &PoolHandle<Divider>, a: u32, b: u32) -> Result<u32, Box<dyn Error>> {
        // shown: checkout
        let checkout = pool.checkout().keep_after_error(true).start();
        let once = checkout.send(Divide(a, b)).await??;
        let twice = checkout.send(Divide(once, b)).await??;
        // end: checkout
        Ok(twice)
    }

    pub async fn explain(pool: &PoolHandle<Divider>, a: u32, b: u32) -> String {
        // shown: failures
        match pool.send(Divide(a, b)).await {
            Ok(quotient) => quotient.to_string(),
            Err(DivideError::Worker(failure)) => match failure.kind() {
                FailureKind::Panic | FailureKind::Died => format!("a bug: {failure}"),
                FailureKind::Timeout | FailureKind::Overloaded => format!("try later: {failure}"),
                _ => failure.to_string(),
            },
            Err(error) => error.to_string(),
        }
        // end: failures
    }

    /// For calls that may take an hour.
    pub fn start_for_long_calls(largest: u32) -> Result<PoolHandle<Divider>, StartError> {
        // shown: limits
        let pool = Pool::<Divider>::builder(largest)
            .workers(2..=20)
            .timeout(None) // default: 30 s
            .hung_worker_timeout(Duration::from_secs(60 * 60)) // default: 5 min
            .start()?;
        // end: limits
        Ok(pool)
    }
}

/// After, with methods in place of messages.
pub mod methods {
    use std::error::Error;
    use std::time::Duration;

    use super::processes::DivideError;

    // shown: methods
    use forkpool::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, Worker)]
    #[worker(config = Self)]
    pub struct Divider {
        pub largest: u32,
    }

    #[forkpool::methods]
    impl Divider {
        pub fn divide(&mut self, a: u32, b: u32) -> Result<u32, DivideError> {
            if a > self.largest {
                return Err(DivideError::TooLarge(a, self.largest));
            }
            Ok(a / b) // panics for b = 0
        }
    }

    forkpool::boot!(Divider);
    // end: methods

    pub fn start(processes: usize, largest: u32) -> Result<PoolHandle<Divider>, StartError> {
        Pool::<Divider>::builder(Divider { largest }).workers(processes..=processes).start()
    }

    pub async fn divide(pool: &PoolHandle<Divider>, a: u32, b: u32) -> Result<u32, Box<dyn Error>> {
        // shown: method
        let quotient = pool.divide(a, b).await?;
        // end: method
        Ok(quotient)
    }

    pub async fn divide_twice(pool: &PoolHandle<Divider>, a: u32, b: u32) -> Result<u32, Box<dyn Error>> {
        let limit = Duration::from_secs(5);
        // shown: message of a method
        let once = pool.send_within(limit, divider::Divide::new(a, b)).await?;
        let addressed: actix::Recipient<divider::Divide> = pool.addr().recipient();
        let twice = addressed.send(divider::Divide::new(once, b)).await??;
        // end: message of a method
        Ok(twice)
    }
}

/// On the way there or back: one message is a method, and another one is written by hand.
pub mod both {
    use super::processes::DivideError;

    // shown: both
    use actix::prelude::*;
    use forkpool::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Message, Serialize, Deserialize)]
    #[rtype(result = "Result<u32, DivideError>")]
    pub struct Divide {
        pub a: u32,
        pub b: u32,
    }

    #[derive(Worker)]
    pub struct Divider;

    impl Handler<Divide> for Divider {
        type Result = Result<u32, DivideError>;

        fn handle(&mut self, Divide { a, b }: Divide, _: &mut WorkerContext<Self>) -> Self::Result {
            Ok(a / b)
        }
    }

    #[forkpool::methods(also(Divide))]
    impl Divider {
        pub fn remainder(&mut self, a: u32, b: u32) -> Result<u32, DivideError> {
            Ok(a % b)
        }
    }

    forkpool::boot!(Divider);
    // end: both
}

/// A worker that keeps nothing between its calls.
pub mod functions {
    use super::processes::DivideError;

    // shown: function
    use forkpool::prelude::*;

    #[forkpool::function]
    pub fn divide(a: u32, b: u32) -> Result<u32, DivideError> {
        Ok(a / b) // panics for b = 0
    }

    forkpool::functions!(pub Arithmetic { divide });
    forkpool::boot!(Arithmetic);

    pub async fn half(pool: &PoolHandle<Arithmetic>, of: u32) -> Result<u32, DivideError> {
        pool.call(divide::with(of, 2)).await
    }
    // end: function
}

/// What both are sent, in this order.
const CALLS: [(u32, u32); 3] = [(84, 2), (1, 0), (84, 2)];

/// The largest number that both divide.
const LARGEST: u32 = 1000;

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("--- SyncArbiter");
    let divider = threads::start(1, LARGEST);
    for (a, b) in CALLS {
        show(a, b, threads::divide(&divider, a, b).await);
    }

    println!("\n--- forkpool");
    let pool = processes::start(1, LARGEST)?;
    for (a, b) in CALLS {
        show(a, b, processes::divide(&pool, a, b).await);
    }
    println!("1 / 0, looked at: {}", processes::explain(&pool, 1, 0).await);
    show(84, 2, processes::divide_at(&pool, 84, 2).await);
    println!("84 / 2 / 2: {}", processes::divide_twice(&pool, 84, 2).await?);
    pool.stop(Duration::from_secs(1)).await;

    println!("\n--- forkpool, for long calls");
    let pool = processes::start_for_long_calls(LARGEST)?;
    show(LARGEST, 5, processes::divide(&pool, LARGEST, 5).await);
    pool.stop(Duration::from_secs(1)).await;

    println!("\n--- forkpool, with methods");
    let pool = methods::start(1, LARGEST)?;
    for (a, b) in CALLS {
        show(a, b, methods::divide(&pool, a, b).await);
    }
    pool.stop(Duration::from_secs(1)).await;
    Ok(())
}

fn show(a: u32, b: u32, answer: Result<u32, Box<dyn Error>>) {
    match answer {
        Ok(quotient) => println!("{a} / {b}: {quotient}"),
        Err(error) => println!("{a} / {b}: {error}"),
    }
}
