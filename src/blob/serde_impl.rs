//! How a blob is serialized into a message and deserialized from one.
//!
//! Messages are encoded by code that does not know about blobs: serde's and the user's own. So a thread-local mode
//! tells the blobs what to do while a message is encoded or decoded, and a thread-local list collects the large ones.

use std::cell::{Cell, RefCell};

use serde::de::{EnumAccess, Error as _, SeqAccess, VariantAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Blob, MIN_SHARED};
use crate::wire::frame::PayloadError;

/// How blobs are serialized and deserialized at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As plain bytes, outside of messages.
    Bytes,
    /// As part of the message.
    Inline,
    /// While encoding: a large one is collected, and the message contains its number.
    Collect,
    /// While decoding: as part of the message, or as the number of a collected one.
    Resolve,
}

/// The mode, and whether the list has blobs. Most messages have none, and the list, which has a destructor and is
/// borrowed at each use, is not touched for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    mode: Mode,
    has_blobs: bool,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State { mode: Mode::Bytes, has_blobs: false }) };
    static COLLECTED: RefCell<Vec<Blob>> = const { RefCell::new(Vec::new()) };
}

/// Restores the previous mode and list when dropped.
struct ModeGuard {
    before: State,
    list_before: Vec<Blob>,
}

impl ModeGuard {
    #[inline]
    fn enter(mode: Mode, collected: Vec<Blob>) -> Self {
        let has_blobs = !collected.is_empty();
        let before = STATE.replace(State { mode, has_blobs });
        let list_before =
            if has_blobs || before.has_blobs { COLLECTED.replace(collected) } else { collected };
        ModeGuard { before, list_before }
    }
}

impl Drop for ModeGuard {
    #[inline]
    fn drop(&mut self) {
        let now = STATE.replace(self.before);
        if now.has_blobs || self.before.has_blobs {
            drop(COLLECTED.replace(std::mem::take(&mut self.list_before)));
        }
    }
}

/// Adds a blob to the list; returns its number.
fn collect(blob: &Blob) -> usize {
    STATE.set(State { has_blobs: true, ..STATE.get() });
    COLLECTED.with_borrow_mut(|collected| {
        collected.push(blob.clone());
        collected.len() - 1
    })
}

/// Encodes a message; returns what `lend` made of its large blobs, in the order of their numbers.
///
/// `lend` is `None` if there is no memory to share. If it returns `None`, because it has no space, the message is
/// encoded again with all blobs as part of it.
///
/// # Errors
///
/// The error of the encoding, or [`PayloadError::NoRoom`] if the message is too large with its blobs, for which there
/// was no space elsewhere. What was appended to `out` before the error stays there; the caller cuts it off.
pub(crate) fn encode<L>(
    out: &mut Vec<u8>,
    lend: Option<impl FnOnce(Vec<Blob>) -> Option<Vec<L>>>,
    mut encode: impl FnMut(&mut Vec<u8>) -> Result<(), PayloadError>,
) -> Result<Vec<L>, PayloadError> {
    let before = out.len();
    let Some(lend) = lend else {
        let _guard = ModeGuard::enter(Mode::Inline, Vec::new());
        return encode(out).map(|()| Vec::new());
    };
    let collected = {
        let _guard = ModeGuard::enter(Mode::Collect, Vec::new());
        encode(out)?;
        if !STATE.get().has_blobs {
            return Ok(Vec::new());
        }
        COLLECTED.take()
    };
    if let Some(lent) = lend(collected) {
        return Ok(lent);
    }
    out.truncate(before);
    let _guard = ModeGuard::enter(Mode::Inline, Vec::new());
    match encode(out) {
        Ok(()) => Ok(Vec::new()),
        Err(PayloadError::TooLarge { limit }) => Err(PayloadError::NoRoom { limit }),
        Err(problem) => Err(problem),
    }
}

/// Decodes a message whose blob numbers refer to `blobs`.
pub(crate) fn decode_with<T>(blobs: Vec<Blob>, decode: impl FnOnce() -> T) -> T {
    let _guard = ModeGuard::enter(Mode::Resolve, blobs);
    decode()
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mode = if serializer.is_human_readable() { Mode::Bytes } else { STATE.get().mode };
        match mode {
            Mode::Bytes | Mode::Resolve => serializer.serialize_newtype_struct("Blob", &AsBytes(self)),
            Mode::Collect if self.len() >= MIN_SHARED => {
                let number = collect(self);
                serializer.serialize_newtype_variant("Blob", 1, "Lent", &number)
            }
            Mode::Collect | Mode::Inline => {
                serializer.serialize_newtype_variant("Blob", 0, "Inline", &AsBytes(self))
            }
        }
    }
}

/// A blob that is serialized as plain bytes.
struct AsBytes<'a>(&'a Blob);

impl Serialize for AsBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.bytes())
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match STATE.get().mode {
            Mode::Resolve if !deserializer.is_human_readable() => {
                deserializer.deserialize_enum("Blob", &["Inline", "Lent"], BlobVisitor)
            }
            // Named, so that an interface with plain bytes in its place has another schema.
            _ => deserializer.deserialize_newtype_struct("Blob", BlobVisitor),
        }
    }
}

/// Accepts plain bytes, an inline blob, or the number of a collected one.
struct BlobVisitor;

impl<'de> Visitor<'de> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a blob")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Blob, D::Error> {
        FromBytes::deserialize(deserializer).map(|FromBytes(bytes)| bytes.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Blob, A::Error> {
        let (variant, content) = data.variant::<u32>()?;
        if variant == 0 {
            return content.newtype_variant().map(|FromBytes(bytes)| bytes.into());
        }
        let number: usize = content.newtype_variant()?;
        let collected = COLLECTED.with_borrow(|collected| collected.get(number).cloned());
        collected.ok_or_else(|| A::Error::custom("the message refers to a blob that was not lent"))
    }
}

/// Bytes in any form that a format may have for them.
struct FromBytes(Vec<u8>);

impl<'de> Deserialize<'de> for FromBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BytesVisitor).map(FromBytes)
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;
    use crate::wire::frame::Limits;

    fn blob(length: usize) -> Blob {
        (0..length).map(|at| at as u8).collect::<Vec<u8>>().into()
    }

    /// Decides what becomes of the collected blobs.
    type Lend = fn(Vec<Blob>) -> Option<Vec<Blob>>;

    fn take_all(collected: Vec<Blob>) -> Option<Vec<Blob>> {
        Some(collected)
    }

    /// Encodes a message; returns the bytes and the blobs that were lent.
    fn encoded(
        message: &impl Serialize,
        lend: Option<Lend>,
        limit: usize,
    ) -> Result<(Vec<u8>, Vec<Blob>), PayloadError> {
        let mut bytes = Vec::new();
        let lent =
            encode(&mut bytes, lend, |out| frame::encode(out, message, Limits { bytes: limit, depth: 8 }))?;
        Ok((bytes, lent))
    }

    #[test]
    fn a_large_blob_becomes_a_number_and_a_small_one_is_part_of_its_message() -> Result<(), PayloadError> {
        let message = (blob(MIN_SHARED), blob(MIN_SHARED - 1), vec![blob(2 * MIN_SHARED), blob(0)]);
        let (bytes, lent) = encoded(&message, Some(take_all), usize::MAX)?;
        assert_eq!(lent, [blob(MIN_SHARED), blob(2 * MIN_SHARED)]);
        assert!(bytes.len() < MIN_SHARED + 20);
        let back: (Blob, Blob, Vec<Blob>) = decode_with(lent, || frame::decode(&bytes, 8))?;
        assert_eq!(back, message);
        Ok(())
    }

    #[test]
    fn if_nothing_is_lent_all_blobs_are_part_of_their_message() -> Result<(), PayloadError> {
        let message = vec![blob(3 * MIN_SHARED), blob(5)];
        for lend in [None, Some((|_| None) as Lend)] {
            let (bytes, lent) = encoded(&message, lend, usize::MAX)?;
            assert!(lent.is_empty() && bytes.len() > 3 * MIN_SHARED);
            let back: Vec<Blob> = decode_with(lent, || frame::decode(&bytes, 8))?;
            assert_eq!(back, message);
        }
        let refused = encoded(&message, Some(|_| None), MIN_SHARED);
        assert_eq!(refused, Err(PayloadError::NoRoom { limit: MIN_SHARED }));
        let refused = encoded(&message, None, MIN_SHARED);
        assert_eq!(refused, Err(PayloadError::TooLarge { limit: MIN_SHARED }));
        Ok(())
    }

    #[test]
    fn other_serializers_get_plain_bytes() -> Result<(), Box<dyn std::error::Error>> {
        let large = blob(MIN_SHARED + 3);
        let bytes = postcard::to_stdvec(&large)?;
        assert_eq!(bytes, postcard::to_stdvec(&large.to_vec())?);
        assert_eq!(postcard::from_bytes::<Blob>(&bytes)?, large);
        // Also in a text that is part of a message.
        let (_, lent) = encoded(&serde_json::to_string(&large)?, Some(take_all), usize::MAX)?;
        assert!(lent.is_empty());
        Ok(())
    }

    #[test]
    fn a_number_without_a_blob_is_refused() -> Result<(), PayloadError> {
        let (bytes, lent) = encoded(&vec![blob(MIN_SHARED); 2], Some(take_all), usize::MAX)?;
        for count in 0..2 {
            let fewer = lent[..count].to_vec();
            let back = decode_with(fewer, || frame::decode::<Vec<Blob>>(&bytes, 8))
                .map_err(|error| error.to_string());
            // The text of a postcard error is not ours, but it names the type.
            assert!(back.is_err_and(|text| text.contains("Blob")), "{count}");
        }
        Ok(())
    }

    #[test]
    fn the_previous_mode_is_restored_even_after_a_panic() {
        let panicked = std::panic::catch_unwind(|| {
            decode_with(vec![blob(1)], || -> () { panic!("a decoder's own") });
        });
        assert!(panicked.is_err());
        assert_eq!(STATE.get(), State { mode: Mode::Bytes, has_blobs: false });
        assert!(COLLECTED.with_borrow(Vec::is_empty));
    }
}
