//! The output and the log records of workers, and their way into the application's logs.

pub(crate) mod callsite;
pub(crate) mod event_forwarder;
pub(crate) mod line_buffer;
pub(crate) mod request_log_sink;
pub(crate) mod stdio;
pub(crate) mod teller;
