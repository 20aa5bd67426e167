//! What a call is to its caller: answers, order, payloads, batches, blobs and request logs.

mod batch;
mod blobs;
mod calls;
mod clients;
mod direct;
mod direct_threads;
mod growing;
#[path = "../harness/mod.rs"]
mod harness;
mod order;
mod payloads;
mod request_log;
