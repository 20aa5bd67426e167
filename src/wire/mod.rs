//! What is said between host, worker and fork server. Nothing here reads, writes or knows the time.

pub(crate) mod baggage;
pub(crate) mod call;
pub(crate) mod control;
pub(crate) mod frame;
pub(crate) mod log_record;

/// Version of both conversations; raised with every change of a message.
pub(crate) const PROTOCOL: u16 = 6;

/// Version of this library, as both ends tell it in the handshake.
pub(crate) const LIBRARY: &str = env!("CARGO_PKG_VERSION");
