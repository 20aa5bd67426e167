//! The messages between host, worker and fork server. This module does no I/O and does not use the clock.

pub(crate) mod baggage;
pub(crate) mod call;
#[cfg(test)]
mod codec_tests;
pub(crate) mod control;
mod decoder;
mod encoder;
pub(crate) mod frame;
pub(crate) mod handover;
pub(crate) mod log_record;

/// The version of all messages; raised with every change of a message.
pub(crate) const PROTOCOL: u16 = 10;

/// The version of this library, as both ends send it.
pub(crate) const LIBRARY: &str = env!("CARGO_PKG_VERSION");
