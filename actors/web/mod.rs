//! What an actix-web application needs: failures as responses, calls that end with their request, and uploads that go where
//! they are read.

mod client;
mod connection;
mod errors;
mod response_error;

pub use client::{ClientGone, ClientPolicy, on_connect};
pub use errors::{json_response, response, status};
#[doc(hidden)]
pub use response_error::__private;
