//! How bytes move between the two ends of a pipe. Nothing here knows what they mean.

mod blocking;
mod buffers;

pub(crate) use blocking::{BlockingEnd, Link};
pub(crate) use buffers::{Inbox, Outbox};
