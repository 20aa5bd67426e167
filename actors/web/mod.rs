//! What an actix-web application needs: failures as responses, calls that end with their request, and uploads that go where
//! they are read.

mod bound_call;
mod bound_checkout;
mod client;
mod config;
mod connection;
mod pool;
mod requests;

pub use bound_call::BoundCall;
pub use bound_checkout::{BoundCheckout, BoundCheckoutBuilder};
pub use client::{ClientGone, ClientPolicy, on_connect};
pub use config::Config;
pub use pool::Pool;
pub use requests::Requests;
