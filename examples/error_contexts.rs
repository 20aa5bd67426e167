//! Who hears of a failed call: the handlers of the contexts around the code that made it.
//!
//! An order is processed in three frames. The innermost handler cannot mend what failed and hands it on with a text
//! of its own; the outer one ends it, knows the request by its local and prints the trace: the error, the call and
//! the frames around it, each with the line where it was made. A call that nobody waits for is told of in the same
//! way, and a panic as well as an error. The tenant travels to the worker.
//!
//! ```sh
//! cargo run --example error_contexts
//! ```

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
struct Charge {
    cents: u32,
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), Failure>")]
struct SendReceipt;

/// Kept for whoever runs below its frame, in this process.
struct RequestId(u64);

/// Kept in the same way, and sent along with each call.
#[derive(Serialize, Deserialize)]
struct Tenant(String);

struct Till;

impl Actor for Till {
    type Context = WorkerContext<Self>;
}

impl Worker for Till {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Till)
    }
}

impl Handler<Charge> for Till {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, Charge { cents }: Charge, ctx: &mut WorkerContext<Self>) -> Self::Result {
        let Tenant(tenant) = ctx.baggage().ok_or_else(|| Failure::task("charged for nobody"))?;
        if cents > 1000 {
            return Err(Failure::task(format!("{tenant} has no {cents} cents")));
        }
        Ok(cents)
    }
}

impl Handler<SendReceipt> for Till {
    type Result = Result<(), Failure>;

    fn handle(&mut self, _: SendReceipt, _: &mut WorkerContext<Self>) -> Self::Result {
        panic!("the printer is on fire")
    }
}

forkpool::interface!(Till { Charge, SendReceipt });
forkpool::boot!(Till);

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::<Till>::builder(()).workers(1..=1).start()?;

    let request =
        ErrorContext::named("POST /orders").local(RequestId(7)).on_failure(|failure: ContextFailure| {
            // The locals in force here are those of this frame.
            let id = ErrorContext::local_value::<RequestId>().map(|id| id.0);
            println!("request {id:?} failed ({}): {failure}\n", failure.kind());
        });

    request
        .scope(async {
            let order = ErrorContext::named("order 42").baggage(Tenant("acme".to_owned()))?;
            order.scope(pay(&pool)).await
        })
        .await?;

    pool.stop(Duration::from_secs(1)).await;
    Ok(())
}

async fn pay(pool: &PoolHandle<Till>) -> Result<(), Box<dyn Error>> {
    let payment = ErrorContext::named("payment").on_failure(|failure: ContextFailure| match failure.kind() {
        FailureKind::Task => {
            println!("the payment hands on: {}", failure.failure());
            Err(Failure::task("the order cannot be paid"))
        }
        _ => Err(failure.into_failure()),
    });
    payment
        .scope(async {
            let checkout = pool.checkout().start();
            println!("charged {} cents\n", checkout.send(here(Charge { cents: 500 })).await??);

            // The caller has its own answer in any case.
            if let Err(failure) = checkout.send(here(Charge { cents: 5000 })).await? {
                println!("the caller goes on after: {failure}\n");
            }

            // Nobody waits for this one: without a context its failure would only be logged.
            checkout.do_send(here(SendReceipt));
            drop(checkout);
            // The only worker is free again once the receipt has failed.
            pool.send(Charge { cents: 1 }).await?;
            Ok(())
        })
        .await
}
