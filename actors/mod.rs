//! The host side: actors that own worker processes and lend them to callers.

mod builder;
mod calls;
mod checkout;
mod claim;
mod desk;
mod handle;
mod host_channel;
mod interface;
mod lease;
mod ledger;
mod life;
mod line;
mod pool;
pub mod prelude;
mod server_link;
mod session;
#[cfg(test)]
mod simulation;
mod slot;
mod stats;
mod supervisor;
mod worker_process;

pub use builder::{Builder, StartError};
pub use checkout::{Abort, Checkout, Within};
pub use handle::{CheckoutBuilder, PoolHandle, PoolRequest};
pub use interface::{Accepts, CallInfo, Interface, Method, Worker, WorkerContext};
#[doc(hidden)]
pub use interface::{NoMessage, last_segment};
pub use pool::{Inspect, Pool, Stop};
pub use stats::{Histogram, Stats};
