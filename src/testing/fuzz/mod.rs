//! What strangers' bytes are decoded by, as functions of bytes alone, for the fuzzers in `tests/fuzz` and their
//! bounded run among the tests. Each panics where a promise is broken: nothing is kept beyond what has arrived,
//! however bytes arrive the frames are the same, and what decodes is encoded to what decodes to the same.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::channel::Inbox;
pub use crate::channel::hostile_rings;
use crate::wire::call::{FromWorker, ToWorker};
use crate::wire::control::{FromServer, ToServer};
use crate::wire::frame;

#[cfg(test)]
mod messages;
#[cfg(test)]
mod smoke;

/// Longest body, in bytes: small, so that lengths beyond it are tried.
const LIMIT: usize = 1 << 16;

/// What the host hears from workers and from the fork server.
pub fn heard_by_the_host(data: &[u8]) {
    for body in bodies(data) {
        if let Ok((header, payload)) = frame::split::<FromWorker>(&body) {
            survives(&header);
            users(payload);
        }
        if let Ok(message) = frame::whole::<FromServer>(&body) {
            survives(&message);
        }
    }
}

/// What workers and the fork server hear from the host.
pub fn heard_from_the_host(data: &[u8]) {
    for body in bodies(data) {
        if let Ok((header, payload)) = frame::split::<ToWorker>(&body) {
            survives(&header);
            users(payload);
        }
        if let Ok(message) = frame::whole::<ToServer>(&body) {
            survives(&message);
        }
    }
}

/// The bodies of a stream whose first byte says in which pieces it arrives, and all of it as one more body.
fn bodies(data: &[u8]) -> Vec<Vec<u8>> {
    let Some((&pieces, stream)) = data.split_first() else { return Vec::new() };
    let mut bodies = arrive(stream, usize::MAX);
    assert_eq!(bodies, arrive(stream, usize::from(pieces) + 1), "frames do not depend on how bytes arrive");
    bodies.push(stream.to_vec());
    bodies
}

fn arrive(stream: &[u8], most: usize) -> Vec<Vec<u8>> {
    let (mut inbox, mut bodies, mut rest) = (Inbox::default(), Vec::new(), stream);
    loop {
        loop {
            match inbox.next(LIMIT) {
                Ok(Some(body)) => bodies.push(body.to_vec()),
                Ok(None) => break,
                Err(_) => return bodies,
            }
        }
        if rest.is_empty() {
            return bodies;
        }
        let filled: Result<_, ()> = inbox.fill(|buffer| {
            let room = buffer.capacity() - buffer.len();
            let (now, later) = rest.split_at(rest.len().min(most).min(room));
            buffer.extend_from_slice(now);
            rest = later;
            Ok(now.len())
        });
        assert!(filled.is_ok_and(|(count, _)| count > 0), "there is always room for more");
        // Twice what arrived, and what is asked of the kernel at once: never what a length only says.
        assert!(
            inbox.capacity() <= 2 * stream.len() + (64 << 10),
            "nothing is kept for what has not arrived"
        );
    }
}

/// What was decoded is encoded to what decodes to the same.
fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) {
    let mut bytes = Vec::new();
    frame::append(&mut bytes, message);
    let again = frame::whole::<T>(&bytes[frame::LENGTH..]);
    assert_eq!(again.as_ref(), Ok(message));
}

/// A user's value with something of everything that travels.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Sample {
    Unit,
    Numbers(u8, i16, u32, i64, u128),
    Texts { one: String, many: Vec<String>, bytes: Vec<u8> },
    Options(Option<bool>, Option<char>, (Option<u64>, [u16; 2])),
    Map(std::collections::BTreeMap<u16, String>),
}

fn users(payload: &[u8]) {
    if let Ok(value) = frame::decode::<Result<Sample, Failure>>(payload) {
        let mut bytes = Vec::new();
        let encoded = frame::encode(&mut bytes, &value, usize::MAX);
        assert!(encoded.is_ok(), "what was decoded is encoded");
        assert!(frame::decode(&bytes).is_ok_and(|again: Result<Sample, Failure>| again == value));
    }
}
