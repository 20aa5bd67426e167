//! Moves bytes between the host and a worker, and between the host and a fork server, without knowing their meaning.

mod adaptive_spin;
mod blocking_channel;
mod buffers;
mod doorbell;
mod gate;
mod last_words;
mod ring;
mod send_queue;
mod socket_layer;
mod status_page;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod worker_end;

#[cfg(feature = "actors")]
pub(crate) use adaptive_spin::AdaptiveSpin;
pub(crate) use blocking_channel::{BlockingChannel, Received, WorkerIo};
pub(crate) use buffers::Inbox;
#[cfg(feature = "actors")]
pub(crate) use buffers::Outbox;
pub(crate) use doorbell::WorkerDoorbells;
#[cfg(feature = "actors")]
pub(crate) use doorbell::{DoorbellSender, HostDoorbells, doorbells};
#[cfg(feature = "actors")]
pub(crate) use gate::{CorruptGate, HostGate};
#[cfg(all(any(test, fuzzing), feature = "actors"))]
pub(crate) use gate::{GateWord, begin as begin_gated};
#[cfg(all(any(test, fuzzing), feature = "actors"))]
pub use ring::hostile_rings;
#[cfg(feature = "actors")]
pub(crate) use ring::{Ring, WakeCondition};
pub(crate) use send_queue::SendQueue;
pub(crate) use socket_layer::SocketLayer;
pub(crate) use status_page::{Activity, StatusPage};
#[cfg(feature = "tls")]
pub(crate) use tls::Tls;
pub(crate) use worker_end::{AnyWorkerIo, WorkerEnd, WorkerMemory};

/// Bytes of the memory of a worker's channel, with rings in it or without.
#[cfg(feature = "actors")]
pub(crate) fn memory_length(rings: bool) -> usize {
    if rings { ring::MEMORY_LENGTH } else { status_page::MEMORY_LENGTH }
}
