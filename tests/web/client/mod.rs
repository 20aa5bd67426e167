//! Clients that leave: what actix-web makes of it, and what `ClientGone` sees.

mod descriptors;
mod facts;
mod gone;
pub mod h2;
mod hook;
pub mod stage;
#[cfg(feature = "tls")]
mod tls;
