//! What an actix-web application needs: failures as responses, calls that end with their request, and uploads that go where
//! they are read.

mod client;
mod connection;

pub use client::{ClientGone, ClientPolicy, on_connect};
