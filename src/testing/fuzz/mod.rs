//! The decoders of foreign bytes, as functions of bytes, for the fuzzers in `tests/fuzz` and for their bounded run
//! among the tests.
//!
//! Each function panics if one of these properties does not hold: no memory is allocated for bytes that have not
//! arrived, frames do not depend on the pieces in which bytes arrive, and a decoded value survives encoding and
//! decoding.

use std::collections::{BTreeMap, HashSet, LinkedList};
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::channel::Inbox;
pub use crate::channel::hostile_rings;
use crate::wire::call::{FromWorker, ToWorker};
use crate::wire::control::{FromServer, ToServer};
use crate::wire::frame;
use crate::wire::frame::Limits;
use crate::wire::handover::{ToPredecessor, ToSuccessor};
use crate::{actors, server};

#[cfg(test)]
mod limited;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod smoke;

/// Longest body, in bytes; small, so that longer lengths occur as well.
const BODY_LIMIT: usize = 1 << 16;

const LIMITS: Limits = Limits { bytes: BODY_LIMIT, depth: frame::DEFAULT_MAX_DEPTH };

/// Decodes what the host receives from workers and from the fork server, and a server from its predecessor.
pub fn received_by_host(data: &[u8]) {
    for body in bodies(data) {
        if let Ok((header, payload)) = frame::split::<FromWorker>(&body) {
            assert_round_trip(&header);
            check_payload(payload);
        }
        if let Ok(message) = frame::header_only::<FromServer>(&body) {
            assert_round_trip(&message);
        }
        if let Ok(message) = frame::header_only::<ToSuccessor>(&body) {
            assert_round_trip(&message);
        }
    }
}

/// Decodes what workers and the fork server receive from the host, and a server from its successor.
pub fn received_from_host(data: &[u8]) {
    for body in bodies(data) {
        if let Ok((header, payload)) = frame::split::<ToWorker>(&body) {
            assert_round_trip(&header);
            check_payload(payload);
        }
        if let Ok(message) = frame::header_only::<ToServer>(&body) {
            assert_round_trip(&message);
        }
        if let Ok(message) = frame::header_only::<ToPredecessor>(&body) {
            assert_round_trip(&message);
        }
    }
}

/// Applies reports of blobs to the state of one worker, as the host does.
pub fn lending(data: &[u8]) {
    actors::hostile::lending(&whole_frames(data));
}

/// Writes the records of one call into a request log, as the host does.
pub fn logs(data: &[u8]) {
    actors::hostile::logs(&whole_frames(data));
}

/// Plays what the workers of a lane write to their gates, and what the host does meanwhile.
pub fn gate(data: &[u8]) {
    actors::hostile::gate(data);
}

/// Sends a handshake and a conversation to a standalone server, in pieces of a size that the first byte tells.
pub fn conversation(data: &[u8]) {
    if let Some((&piece, bytes)) = data.split_first() {
        server::hostile::conversation(bytes, usize::from(piece) + 1);
    }
}

/// Decodes values of types that contain themselves, and of types whose elements have no bytes.
pub fn values(data: &[u8]) {
    fn value<T: Serialize + DeserializeOwned>(data: &[u8]) {
        if let Ok(value) = frame::decode::<T>(data, LIMITS.depth) {
            let encoded = frame::encode(&mut Vec::new(), &value, Limits { bytes: usize::MAX, ..LIMITS });
            assert_eq!(encoded, Ok(()), "what was decoded is encoded");
        }
    }
    value::<Tree>(data);
    value::<Nodes>(data);
    value::<HashSet<()>>(data);
    value::<Vec<LinkedList<()>>>(data);
    value::<BTreeMap<(), Vec<Option<()>>>>(data);
    value::<Vec<Vec<String>>>(data);
}

/// Returns the bodies of the whole frames of a stream, however long they are.
fn whole_frames(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Ok(Some(length)) = frame::length(stream, usize::MAX)
        && let Some((frame, rest)) = stream.split_at_checked(length)
    {
        bodies.push(frame[frame::LENGTH..].to_vec());
        stream = rest;
    }
    bodies
}

/// A value of sequences alone.
#[derive(Debug, Serialize, Deserialize)]
struct Tree(Vec<Tree>);

/// A value that contains itself in every way there is.
#[derive(Debug, Serialize, Deserialize)]
enum Nodes {
    Leaf(u64),
    Boxed(Box<Nodes>),
    Pair(Box<(Nodes, Nodes)>),
    Named { inner: Option<Box<Nodes>>, map: BTreeMap<u8, Nodes> },
}

/// Returns the bodies of a stream whose first byte is the size of the pieces in which it arrives; the whole stream is
/// one more body.
fn bodies(data: &[u8]) -> Vec<Vec<u8>> {
    let Some((&pieces, stream)) = data.split_first() else { return Vec::new() };
    let mut bodies = read_frames(stream, usize::MAX);
    assert_eq!(
        bodies,
        read_frames(stream, usize::from(pieces) + 1),
        "frames do not depend on how bytes read_frames"
    );
    bodies.push(stream.to_vec());
    bodies
}

fn read_frames(stream: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let (mut inbox, mut bodies, mut rest) = (Inbox::default(), Vec::new(), stream);
    loop {
        loop {
            match inbox.next_frame(BODY_LIMIT) {
                Ok(Some(body)) => bodies.push(body.to_vec()),
                Ok(None) => break,
                Err(_) => return bodies,
            }
        }
        if rest.is_empty() {
            return bodies;
        }
        let filled: Result<_, ()> = inbox.fill(|buffer| {
            let space = buffer.capacity() - buffer.len();
            let (now, later) = rest.split_at(rest.len().min(piece).min(space));
            buffer.extend_from_slice(now);
            rest = later;
            Ok(now.len())
        });
        assert!(filled.is_ok_and(|(count, _)| count > 0), "there is always space for more");
        // The buffer has at piece twice the bytes that arrived, and what is requested from the kernel at once; a
        // length alone allocates nothing.
        assert!(
            inbox.capacity() <= 2 * stream.len() + (64 << 10),
            "nothing is kept for what has not arrived"
        );
    }
}

/// Checks that a decoded message is equal after encoding and decoding.
fn assert_round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) {
    let mut bytes = Vec::new();
    frame::append(&mut bytes, message);
    let again = frame::header_only::<T>(&bytes[frame::LENGTH..]);
    assert_eq!(again.as_ref(), Ok(message));
}

/// A user's value with all kinds of types that can be sent.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Sample {
    Unit,
    Numbers(u8, i16, u32, i64, u128),
    Texts { one: String, many: Vec<String>, bytes: Vec<u8> },
    Options(Option<bool>, Option<char>, (Option<u64>, [u16; 2])),
    Map(BTreeMap<u16, String>),
}

fn check_payload(payload: &[u8]) {
    if let Ok(value) = frame::decode::<Result<Sample, Failure>>(payload, LIMITS.depth) {
        let mut bytes = Vec::new();
        let encoded = frame::encode(&mut bytes, &value, Limits { bytes: usize::MAX, ..LIMITS });
        assert!(encoded.is_ok(), "what was decoded is encoded");
        assert!(
            frame::decode(&bytes, LIMITS.depth).is_ok_and(|again: Result<Sample, Failure>| again == value)
        );
    }
}
