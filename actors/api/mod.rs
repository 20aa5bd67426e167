//! What an application holds: pools, checkouts, batches, and the builders that start them.

pub(crate) mod batch;
pub(crate) mod calling;
pub(crate) mod checkout;
pub(crate) mod checkout_builder;
pub(crate) mod checkout_call;
pub(crate) mod checkout_handle;
pub(crate) mod class_handle;
pub(crate) mod pool;
pub(crate) mod pool_builder;
pub(crate) mod pool_handle;
pub(crate) mod pool_start;
pub(crate) mod recycling;
pub(crate) mod request;
pub(crate) mod sending;
pub(crate) mod server_builder;
pub(crate) mod server_stats;
#[cfg(feature = "tower")]
pub(crate) mod service;
pub(crate) mod snapshot;
pub(crate) mod stop_report;
mod unattended;
