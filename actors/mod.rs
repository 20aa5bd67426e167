//! The host side: actors that own worker processes and lend them to callers.

mod api;
mod calls;
mod console;
mod context;
#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;
mod lane;
#[cfg(any(feature = "metrics", feature = "prometheus"))]
mod metrics;
pub mod prelude;
mod reply;
mod scheduler;
mod session;
#[cfg(test)]
mod simulation;
mod supervisor;
mod telemetry;
mod threads;
mod transport;
#[cfg(feature = "actix-web")]
#[cfg_attr(docsrs, doc(cfg(feature = "actix-web")))]
pub mod web;
mod worker_api;

/// The parts of a [`Snapshot`](crate::Snapshot).
pub mod snapshot {
    pub use super::api::snapshot::{
        CallTotals, EndReason, FailureSummary, Histogram, Limits, PoolStatus, QueueSnapshot, ServerSnapshot,
        Snapshot, Stats, Totals, WorkerCounts, WorkerSnapshot, WorkerStatus,
    };
}

pub use api::batch::{Batch, SendBatch};
pub use api::calling::{AddressCall, CallMessage, Calls};
pub use api::checkout::{Abort, Checkout, Within};
pub use api::checkout_builder::CheckoutBuilder;
pub use api::checkout_call::CheckoutCall;
pub use api::checkout_handle::CheckoutHandle;
pub use api::class_handle::{ClassBuilder, ClassHandle};
pub use api::pool::{Inspect, Pool, Stop};
pub use api::pool_builder::PoolBuilder;
pub use api::pool_handle::PoolHandle;
pub use api::pool_start::StartError;
pub use api::recycling::{Recycle, Recycling};
pub use api::request::PoolRequest;
pub use api::server_builder::Server;
pub use api::server_stats::ServerStats;
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub use api::service::PoolService;
pub use api::snapshot::{Histogram, Holder, Snapshot, Stats};
pub use api::stop_report::{LeftProcess, StopReport};
pub use console::{Console, ConsoleBuilder, ConsoleError};
pub use context::actor_context::{Here, ProxyContext, here};
pub use context::{
    ActorScope, BaggageError, ContextFailure, ErrorContext, FailureHandler, Trace, TraceFrame, Verdict,
};
#[doc(inline)]
pub use forkpool_macros::{Worker, function, functions, methods};
#[cfg(any(feature = "metrics", feature = "prometheus"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "metrics", feature = "prometheus"))))]
pub use metrics::Metrics;
pub use telemetry::event_forwarder::time_of_record;
#[doc(hidden)]
pub use worker_api::error_text::{ByDebug, ByDisplay, ByName, Describe, Described, Fallible};
#[doc(hidden)]
pub use worker_api::expanded::{self, Function, is_argument, is_result};
pub use worker_api::interface::{Accepts, FromFailure, Interface, Method};
#[doc(hidden)]
pub use worker_api::interface::{NoMessage, last_segment};
pub use worker_api::worker::{CallInfo, Worker, WorkerContext};
