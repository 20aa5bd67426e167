//! Clients that leave: what actix-web makes of it, and what `ClientGone` sees.

mod descriptors;
mod facts;
mod gone;
mod h2;
mod hook;
mod stage;
#[cfg(feature = "tls")]
mod tls;
