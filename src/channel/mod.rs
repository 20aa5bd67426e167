//! How bytes move between the two ends of a pipe. Nothing here knows what they mean.

mod bell;
mod blocking;
mod buffers;
mod link;
mod notes;
mod parcels;
mod ring;
mod security;
mod spin;
mod stream;
#[cfg(feature = "tls")]
mod tls;

pub(crate) use bell::WorkerBells;
#[cfg(feature = "actors")]
pub(crate) use bell::{Hammer, HostBells, bells};
pub(crate) use blocking::{BlockingEnd, Heard, Link};
pub(crate) use buffers::Inbox;
#[cfg(feature = "actors")]
pub(crate) use buffers::Outbox;
pub(crate) use link::{WorkerEnd, WorkerLink};
pub(crate) use notes::{Doing, Notes};
pub(crate) use parcels::Parcels;
#[cfg(all(any(test, fuzzing), feature = "actors"))]
pub use ring::hostile_rings;
#[cfg(feature = "actors")]
pub(crate) use ring::{Need, Ring};
pub(crate) use security::Security;
#[cfg(feature = "actors")]
pub(crate) use spin::Spin;
#[cfg(feature = "tls")]
pub(crate) use tls::Tls;
