//! Frames: a length of 32 bits (little-endian) and a body. The body is a header in postcard encoding, followed in
//! calls and replies by the user's payload.
//!
//! Both ends use the same codec. It does no I/O: it appends to a buffer and reads from a buffer.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::baggage::MAX_BAGGAGE;
use super::decoder::Decoder;
use super::encoder::{EncodeError, Encoder};

/// Bytes of the length in front of every body.
pub(crate) const LENGTH: usize = 4;

/// Longest header, in bytes; it does not count towards `max_payload`. The largest header is that of a panic, with
/// message and stack; texts from user code are cut to [`MAX_TEXT`] before they enter a header.
pub(crate) const MAX_HEADER: usize = 64 << 10;

/// Longest text from user code in a header, in bytes; longer texts are cut.
pub(crate) const MAX_TEXT: usize = 8 << 10;

/// How deep values may be nested unless `max_depth` says otherwise, and headers always: deeper than data of any purpose
/// but trees, and within the 2 MiB of stack that a thread has by default.
pub(crate) const DEFAULT_MAX_DEPTH: u32 = 128;

/// Most elements of sequences and maps in one value that have no bytes, such as those of a `Vec<()>`. A few bytes can
/// announce any number of them, and each costs time, and in some collections memory.
pub(crate) const MAX_EMPTY_ELEMENTS: usize = 65_536;

/// The limits of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Longest encoding, in bytes.
    pub(crate) bytes: usize,
    /// Most levels of values within values.
    pub(crate) depth: u32,
}

/// A limit, other than on bytes, that a value has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    Depth,
    EmptyElements,
}

/// Bytes that are appended one by one.
const SHORT: usize = 5;

/// Cuts a text to at end `max` bytes, at the end of a character.
pub(crate) fn cut(mut text: String, max: usize) -> String {
    let end = beginning(&text, max).len();
    text.truncate(end);
    text
}

/// Returns the beginning of a text, of at most `max` bytes, up to the end of a character.
pub(crate) fn beginning(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

/// Why received bytes are not a valid frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    #[error("a frame of {length} bytes exceeds the limit of {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("a frame's header cannot be decoded")]
    Header,
    #[cfg(feature = "actors")]
    #[error("a header of {length} bytes exceeds the limit of {limit}")]
    LongHeader { length: usize, limit: usize },
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
    /// Values are nested deeper than the pool allows.
    #[error("{type_name} is nested deeper than max_depth, {limit} levels")]
    TooDeep {
        /// The name of the outermost value's type.
        type_name: &'static str,
        /// The pool's `max_depth`.
        limit: u32,
    },
    /// The value has, or announces, more elements than bytes.
    #[error(
        "{type_name} has more elements than its bytes can hold: at most {limit} elements of a value may have no bytes"
    )]
    TooManyElements {
        /// The name of the value's type.
        type_name: &'static str,
        /// How many elements without bytes are allowed.
        limit: usize,
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
    let mut decoder = Decoder::new(body);
    let header = decoder.value(DEFAULT_MAX_DEPTH).map_err(|_| FrameError::Header)?;
    Ok((header, decoder.rest()))
}

/// Decodes a body that must consist of a header alone.
pub(crate) fn header_only<'a, H: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<H, FrameError> {
    let (header, rest) = split(body)?;
    if rest.is_empty() { Ok(header) } else { Err(FrameError::BytesLeft(rest.len())) }
}

/// Appends an encoded value within the limits.
///
/// # Errors
///
/// [`PayloadError::TooLarge`], [`PayloadError::TooDeep`], [`PayloadError::TooManyElements`] or
/// [`PayloadError::Encode`]; the bytes appended before the error remain, and the caller cuts them off.
pub(crate) fn encode<T: Serialize>(out: &mut Vec<u8>, value: &T, limits: Limits) -> Result<(), PayloadError> {
    let mut encoder = Encoder::new(LimitedAppender::new(out, limits.bytes));
    let encoded = encoder.value(value, limits.depth);
    let type_name = std::any::type_name::<T>();
    match (encoder.exceeded(), encoded) {
        (None, Ok(())) => Ok(()),
        (Some(limit), _) => Err(limit.of(type_name, limits.depth)),
        (None, Err(EncodeError::Full)) => Err(PayloadError::TooLarge { limit: limits.bytes }),
        (None, Err(EncodeError::Other(reason))) => {
            Err(PayloadError::Encode { type_name, reason: reason.into() })
        }
    }
}

/// Decodes a value that must fill `bytes` exactly and be nested at most `max_depth` levels deep.
///
/// It takes time and memory linear in the number of bytes, and stack in proportion to `max_depth`.
///
/// # Errors
///
/// [`PayloadError::Decode`], [`PayloadError::TooDeep`], [`PayloadError::TooManyElements`] or
/// [`PayloadError::BytesLeft`], all with the name of the type.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], max_depth: u32) -> Result<T, PayloadError> {
    let type_name = std::any::type_name::<T>();
    let mut decoder = Decoder::new(bytes);
    let decoded = decoder.value::<T>(max_depth);
    match (decoder.exceeded(), decoded) {
        (Some(limit), _) => Err(limit.of(type_name, max_depth)),
        (None, Err(error)) => Err(PayloadError::Decode { type_name, reason: error.to_string() }),
        (None, Ok(_)) if !decoder.rest().is_empty() => {
            Err(PayloadError::BytesLeft { type_name, bytes: decoder.rest().len() })
        }
        (None, Ok(value)) => Ok(value),
    }
}

impl Exceeded {
    fn of(self, type_name: &'static str, max_depth: u32) -> PayloadError {
        match self {
            Exceeded::Depth => PayloadError::TooDeep { type_name, limit: max_depth },
            Exceeded::EmptyElements => PayloadError::TooManyElements { type_name, limit: MAX_EMPTY_ELEMENTS },
        }
    }
}

/// Appends to a buffer up to a limit.
pub(super) struct LimitedAppender<'a> {
    out: &'a mut Vec<u8>,
    end: usize,
}

impl<'a> LimitedAppender<'a> {
    fn new(out: &'a mut Vec<u8>, limit: usize) -> Self {
        let end = out.len().saturating_add(limit);
        LimitedAppender { out, end }
    }

    /// Returns the length of the buffer.
    #[inline]
    pub(super) fn length(&self) -> usize {
        self.out.len()
    }
}

impl Flavor for LimitedAppender<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.out.len() == self.end {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() > self.end - self.out.len() {
            return Err(postcard::Error::SerializeBufferFull);
        }
        if bytes.len() <= SHORT {
            // Numbers, of which a header has ten. A call of the system's `memcpy` takes longer than they do.
            bytes.iter().for_each(|&byte| self.out.push(byte));
        } else {
            self.out.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: usize) -> Limits {
        Limits { bytes, depth: 1 }
    }

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
            append_with(&mut out, &3_u8, |out| encode(out, &[0_u64; 100].as_slice(), bytes(10)));
        assert_eq!(failed, Err(PayloadError::TooLarge { limit: 10 }));
        assert_eq!(out, [7]);
    }

    #[test]
    fn the_limit_counts_the_payload_alone() {
        let mut out = Vec::new();
        let ten = "x".repeat(9);
        assert_eq!(append_with(&mut out, &1_u64, |out| encode(out, &ten, bytes(10))), Ok(()));
        let eleven = "x".repeat(10);
        let refused = append_with(&mut out, &1_u64, |out| encode(out, &eleven, bytes(10)));
        assert_eq!(refused, Err(PayloadError::TooLarge { limit: 10 }));
    }

    /// C7
    #[test]
    fn bytes_after_a_value_are_refused_with_the_name_of_its_type() {
        let error = decode::<u8>(&[1, 2], 1).map_err(|error| error.to_string());
        assert_eq!(error, Err("1 bytes are left over after u8".to_owned()));
    }
}
