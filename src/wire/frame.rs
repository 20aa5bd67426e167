//! Frames: a 32-bit little-endian length and a body, which is a postcard header and, for calls and replies,
//! the user's payload behind it.
//!
//! The codec is the same at both ends. It moves no bytes itself: it appends to a buffer and looks at a buffer.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::baggage::MOST_BAGGAGE;

/// Bytes in front of every body.
pub(crate) const LENGTH: usize = 4;

/// Room for a header beside the payload, in bytes. The largest header is a panic's text and backtrace; texts of
/// users are cut to [`LONGEST_TEXT`] where they enter one.
pub(crate) const ENVELOPE: usize = 64 << 10;

/// Longest text of a user's that a header carries, in bytes; a longer one is cut.
pub(crate) const LONGEST_TEXT: usize = 8 << 10;

/// Cuts a text to so many bytes, at a character's end.
pub(crate) fn cut(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        let end = (0..=longest).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

/// Why a peer's bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    #[error("a frame of {length} bytes exceeds the limit of {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("a frame's header cannot be decoded")]
    Header,
    #[error("a frame has {0} bytes too many")]
    BytesLeft(usize),
    #[error("a call's baggage of {baggage} bytes exceeds the {payload} bytes behind its header")]
    Baggage { baggage: usize, payload: usize },
}

/// Why a user's value cannot travel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// It is larger than the pool allows.
    #[error("its encoding exceeds max_payload, {limit} bytes")]
    TooLarge {
        /// The pool's `max_payload`.
        limit: usize,
    },
    /// It has blobs for which there is no room in `blob_memory`, and with them it is larger than the pool allows.
    #[error(
        "its blobs have no room in blob_memory, and with them its encoding exceeds max_payload, {limit} bytes"
    )]
    NoRoom {
        /// The pool's `max_payload`.
        limit: usize,
    },
    /// Its `Serialize` did not succeed.
    #[error("{type_name} cannot be encoded: {reason}")]
    Encode {
        /// The value's type.
        type_name: &'static str,
        /// What its encoding said.
        reason: String,
    },
    /// Its `Deserialize` did not succeed.
    #[error("{type_name} cannot be decoded: {reason}")]
    Decode {
        /// The value's type.
        type_name: &'static str,
        /// What its decoding said.
        reason: String,
    },
    /// It was decoded, and there was more.
    #[error("{bytes} bytes are left over behind {type_name}")]
    BytesLeft {
        /// The value's type.
        type_name: &'static str,
        /// How many.
        bytes: usize,
    },
}

/// The limit on a frame's body that goes with a limit on payloads.
pub(crate) fn body_limit(max_payload: usize) -> usize {
    max_payload.saturating_add(ENVELOPE).min(u32::MAX as usize)
}

/// The limit on a worker's incoming bodies: calls have their baggage beside the message.
pub(crate) fn call_limit(max_payload: usize) -> usize {
    body_limit(max_payload).saturating_add(MOST_BAGGAGE).min(u32::MAX as usize)
}

/// The limit on a message that has so much baggage: its frame's length must fit its field.
#[cfg(any(test, feature = "actors"))]
pub(crate) fn room_beside(baggage: usize, max_payload: usize) -> usize {
    max_payload.min((u32::MAX as usize).saturating_sub(ENVELOPE + baggage))
}

/// Length of the frame at the start of `bytes`, its length field included, once that field is there.
///
/// # Errors
///
/// [`FrameError::TooLong`] before a byte of such a body is kept.
pub(crate) fn length(bytes: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(field) = bytes.first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*field) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok(Some(LENGTH + length))
}

/// Appends one frame of a header alone.
pub(crate) fn append(out: &mut Vec<u8>, header: &impl Serialize) {
    // A header holds numbers and short texts of ours, which always encode.
    let _ = append_with(out, header, |_| Ok::<(), std::convert::Infallible>(()));
}

/// Appends one frame of a header and whatever `payload` appends; on its error nothing is appended.
pub(crate) fn append_with<T, E>(
    out: &mut Vec<u8>,
    header: &impl Serialize,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<T, E>,
) -> Result<T, E> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    let encoded = postcard::serialize_with_flavor(header, Appending::new(out, usize::MAX));
    debug_assert!(encoded.is_ok(), "headers are ours and hold nothing that cannot be encoded");
    let result = payload(out);
    match &result {
        Ok(_) => seal(out, start),
        Err(_) => out.truncate(start),
    }
    result
}

/// Puts one frame of a header alone in front of what was appended from this place on.
pub(crate) fn insert(out: &mut Vec<u8>, at: usize, header: &impl Serialize) {
    let before = out.len();
    append(out, header);
    let length = out.len() - before;
    out[at..].rotate_right(length);
}

fn seal(out: &mut [u8], start: usize) {
    let length = out.len() - start - LENGTH;
    // Bodies are bounded by `body_limit`, which is at most u32::MAX.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out[start..start + LENGTH].copy_from_slice(&length.to_le_bytes());
}

/// Splits a body into its header and the payload behind.
pub(crate) fn split<'a, H: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<(H, &'a [u8]), FrameError> {
    postcard::take_from_bytes(body).map_err(|_| FrameError::Header)
}

/// A body that is a header alone.
pub(crate) fn whole<'a, H: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<H, FrameError> {
    let (header, rest) = split(body)?;
    if rest.is_empty() { Ok(header) } else { Err(FrameError::BytesLeft(rest.len())) }
}

/// Appends a user's value, of at most `limit` bytes.
///
/// # Errors
///
/// [`PayloadError`]; what was appended before the error stays for the caller to cut off.
pub(crate) fn encode<T: Serialize>(out: &mut Vec<u8>, value: &T, limit: usize) -> Result<(), PayloadError> {
    postcard::serialize_with_flavor(value, Appending::new(out, limit)).map_err(|error| match error {
        postcard::Error::SerializeBufferFull => PayloadError::TooLarge { limit },
        error => PayloadError::Encode { type_name: std::any::type_name::<T>(), reason: error.to_string() },
    })
}

/// Reads a user's value that fills `bytes` exactly.
///
/// # Errors
///
/// [`PayloadError::Decode`] or [`PayloadError::BytesLeft`], both with the name of the type.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PayloadError> {
    let type_name = std::any::type_name::<T>();
    let (value, rest) = postcard::take_from_bytes(bytes)
        .map_err(|error| PayloadError::Decode { type_name, reason: error.to_string() })?;
    if rest.is_empty() { Ok(value) } else { Err(PayloadError::BytesLeft { type_name, bytes: rest.len() }) }
}

/// Writes behind what a buffer holds already, up to a limit.
struct Appending<'a> {
    out: &'a mut Vec<u8>,
    most: usize,
}

impl<'a> Appending<'a> {
    fn new(out: &'a mut Vec<u8>, limit: usize) -> Self {
        let most = out.len().saturating_add(limit);
        Appending { out, most }
    }
}

impl Flavor for Appending<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() > self.most - self.out.len() {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_body_is_there() {
        let bytes = 1000_u32.to_le_bytes();
        assert_eq!(length(&bytes, 999), Err(FrameError::TooLong { length: 1000, limit: 999 }));
        assert_eq!(length(&bytes, 1000), Ok(Some(1004)));
        assert_eq!(length(&bytes[..3], 999), Ok(None));
    }

    #[test]
    fn a_payload_that_fails_leaves_the_buffer_as_it_was() {
        let mut out = vec![7];
        let failed: Result<(), PayloadError> =
            append_with(&mut out, &3_u8, |out| encode(out, &[0_u64; 100].as_slice(), 10));
        assert_eq!(failed, Err(PayloadError::TooLarge { limit: 10 }));
        assert_eq!(out, [7]);
    }

    #[test]
    fn the_limit_counts_the_payload_alone() {
        let mut out = Vec::new();
        let ten = "x".repeat(9);
        assert_eq!(append_with(&mut out, &1_u64, |out| encode(out, &ten, 10)), Ok(()));
        let eleven = "x".repeat(10);
        let refused = append_with(&mut out, &1_u64, |out| encode(out, &eleven, 10));
        assert_eq!(refused, Err(PayloadError::TooLarge { limit: 10 }));
    }

    /// C7
    #[test]
    fn bytes_behind_a_value_are_refused_with_the_name_of_its_type() {
        let error = decode::<u8>(&[1, 2]).map_err(|error| error.to_string());
        assert_eq!(error, Err("1 bytes are left over behind u8".to_owned()));
    }
}
