//! What workers print and log, and where it goes in the application.

pub(crate) mod callsite;
pub(crate) mod event_forwarder;
pub(crate) mod line_buffer;
pub(crate) mod request_log_sink;
pub(crate) mod stdio;
