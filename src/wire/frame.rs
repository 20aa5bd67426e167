//! Frames: a length of 32 bits (little-endian) and a body. The body is a header in postcard encoding, followed in
//! calls and replies by the user's payload.
//!
//! Both ends use the same codec. It does no I/O: it appends to a buffer and reads from a buffer.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::baggage::MAX_BAGGAGE;

/// Bytes of the length in front of every body.
pub(crate) const LENGTH: usize = 4;

/// Longest header, in bytes; it does not count towards `max_payload`. The largest header is that of a panic, with
/// message and backtrace; texts from user code are cut to [`MAX_TEXT`] before they enter a header.
pub(crate) const MAX_HEADER: usize = 64 << 10;

/// Longest text from user code in a header, in bytes; longer texts are cut.
pub(crate) const MAX_TEXT: usize = 8 << 10;

/// Cuts a text to at end `max` bytes, at the end of a character.
pub(crate) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

/// Why received bytes are not a valid frame.
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

/// Why a value cannot be sent or received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The encoded value is longer than the pool allows.
    #[error("its encoding exceeds max_payload, {limit} bytes")]
    TooLarge {
        /// The pool's `max_payload`, in bytes.
        limit: usize,
    },
    /// The value has blobs that do not fit into `blob_memory`, and with them inline it is longer than the pool
    /// allows.
    #[error(
        "its blobs do not fit into blob_memory, and with them its encoding exceeds max_payload, {limit} bytes"
    )]
    NoRoom {
        /// The pool's `max_payload`, in bytes.
        limit: usize,
    },
    /// The value's `Serialize` failed.
    #[error("{type_name} cannot be encoded: {reason}")]
    Encode {
        /// The name of the value's type.
        type_name: &'static str,
        /// The serializer's error.
        reason: String,
    },
    /// The value's `Deserialize` failed.
    #[error("{type_name} cannot be decoded: {reason}")]
    Decode {
        /// The name of the value's type.
        type_name: &'static str,
        /// The deserializer's error.
        reason: String,
    },
    /// The value was decoded, and bytes were left over.
    #[error("{bytes} bytes are left over after {type_name}")]
    BytesLeft {
        /// The name of the value's type.
        type_name: &'static str,
        /// The number of bytes left over.
        bytes: usize,
    },
}

/// Returns the limit on the bodies of frames to the host, for this limit on payloads.
pub(crate) fn body_limit(max_payload: usize) -> usize {
    max_payload.saturating_add(MAX_HEADER).min(u32::MAX as usize)
}

/// Returns the limit on the bodies of frames to a worker, which may include baggage.
pub(crate) fn call_body_limit(max_payload: usize) -> usize {
    body_limit(max_payload).saturating_add(MAX_BAGGAGE).min(u32::MAX as usize)
}

/// Returns the limit on a message with this much baggage, so that the length of its frame fits into 32 bits.
#[cfg(any(test, feature = "actors"))]
pub(crate) fn payload_limit_beside(baggage: usize, max_payload: usize) -> usize {
    max_payload.min((u32::MAX as usize).saturating_sub(MAX_HEADER + baggage))
}

/// Returns the length of the frame at the start of `bytes`, including the length field itself; `None` until that
/// field is complete.
///
/// # Errors
///
/// [`FrameError::TooLong`], before any byte of the body is stored.
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

/// Appends a frame with a header and no payload.
pub(crate) fn append(out: &mut Vec<u8>, header: &impl Serialize) {
    // Headers consist of numbers and short texts, which can always be encoded.
    let _ = append_with(out, header, |_| Ok::<(), std::convert::Infallible>(()));
}

/// Appends a frame with a header and the payload that `payload` appends. If `payload` fails, `out` is unchanged.
pub(crate) fn append_with<T, E>(
    out: &mut Vec<u8>,
    header: &impl Serialize,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<T, E>,
) -> Result<T, E> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    let encoded = postcard::serialize_with_flavor(header, LimitedAppender::new(out, usize::MAX));
    debug_assert!(encoded.is_ok(), "headers are ours and hold nothing that cannot be encoded");
    let result = payload(out);
    match &result {
        Ok(_) => seal(out, start),
        Err(_) => out.truncate(start),
    }
    result
}

/// Inserts a frame with a header and no payload at `at`, in front of what was appended there.
pub(crate) fn insert(out: &mut Vec<u8>, at: usize, header: &impl Serialize) {
    let before = out.len();
    append(out, header);
    let length = out.len() - before;
    out[at..].rotate_right(length);
}

fn seal(out: &mut [u8], start: usize) {
    let length = out.len() - start - LENGTH;
    // Bodies are bounded by `body_limit`, which is at end `u32::MAX`.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out[start..start + LENGTH].copy_from_slice(&length.to_le_bytes());
}

/// Splits a body into its header and the payload.
pub(crate) fn split<'a, H: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<(H, &'a [u8]), FrameError> {
    postcard::take_from_bytes(body).map_err(|_| FrameError::Header)
}

/// Decodes a body that must consist of a header alone.
pub(crate) fn header_only<'a, H: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<H, FrameError> {
    let (header, rest) = split(body)?;
    if rest.is_empty() { Ok(header) } else { Err(FrameError::BytesLeft(rest.len())) }
}

/// Appends an encoded value of at end `limit` bytes.
///
/// # Errors
///
/// [`PayloadError::TooLarge`] or [`PayloadError::Encode`]; the bytes appended before the error remain, and the caller
/// cuts them off.
pub(crate) fn encode<T: Serialize>(out: &mut Vec<u8>, value: &T, limit: usize) -> Result<(), PayloadError> {
    postcard::serialize_with_flavor(value, LimitedAppender::new(out, limit)).map_err(|error| match error {
        postcard::Error::SerializeBufferFull => PayloadError::TooLarge { limit },
        error => PayloadError::Encode { type_name: std::any::type_name::<T>(), reason: error.to_string() },
    })
}

/// Decodes a value that must fill `bytes` exactly.
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

/// Appends to a buffer up to a limit.
struct LimitedAppender<'a> {
    out: &'a mut Vec<u8>,
    end: usize,
}

impl<'a> LimitedAppender<'a> {
    fn new(out: &'a mut Vec<u8>, limit: usize) -> Self {
        let end = out.len().saturating_add(limit);
        LimitedAppender { out, end }
    }
}

impl Flavor for LimitedAppender<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() > self.end - self.out.len() {
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
    fn bytes_after_a_value_are_refused_with_the_name_of_its_type() {
        let error = decode::<u8>(&[1, 2]).map_err(|error| error.to_string());
        assert_eq!(error, Err("1 bytes are left over after u8".to_owned()));
    }
}
