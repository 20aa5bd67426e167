//! How bytes move between the two ends of a pipe. Nothing here knows what they mean.

mod blocking;
mod buffers;
mod parcels;
mod ring;
mod spin;

pub(crate) use blocking::{BlockingEnd, Heard, Link};
pub(crate) use buffers::Inbox;
#[cfg(feature = "actors")]
pub(crate) use buffers::Outbox;
pub(crate) use parcels::Parcels;
#[cfg(all(any(test, fuzzing), feature = "actors"))]
pub use ring::hostile_rings;
pub(crate) use ring::{Doing, Notes, RingLink};
#[cfg(feature = "actors")]
pub(crate) use ring::{Need, Ring};
#[cfg(feature = "actors")]
pub(crate) use spin::Spin;
