//! The host side: actors that own worker processes and lend them to callers.

mod batch;
mod blobs;
mod builder;
mod calls;
mod checkout;
mod claim;
mod context;
mod describe;
mod desk;
mod handle;
mod host_channel;
mod interface;
mod lease;
mod ledger;
mod life;
mod line;
mod output;
mod pool;
pub mod prelude;
mod proxy_context;
mod quarantine;
mod replay;
mod schema;
mod server;
mod server_link;
mod session;
#[cfg(test)]
mod simulation;
mod slot;
mod stats;
mod supervisor;
mod worker_process;

pub use batch::{Batch, SendBatch};
pub use builder::{Builder, StartError};
pub use checkout::{Abort, Checkout, Within};
pub use context::{
    ActorScope, BaggageError, ContextFailure, ErrorContext, FailureHandler, Trace, TraceFrame, Verdict,
};
#[doc(hidden)]
pub use describe::{ByDebug, ByDisplay, ByName, Describe, Described, Fallible};
pub use handle::{CheckoutBuilder, PoolHandle, PoolRequest};
pub use interface::{Accepts, CallInfo, Interface, Method, Worker, WorkerContext};
#[doc(hidden)]
pub use interface::{NoMessage, last_segment};
pub use pool::{Inspect, Pool, Stop};
pub use proxy_context::{Here, ProxyContext, here};
pub use replay::time_of_record;
pub use server::Server;
pub use stats::{Histogram, Stats};
