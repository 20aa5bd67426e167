//! How a blob is written into a message, and read from one.
//!
//! A message is encoded by code that knows nothing of blobs: serde's, and the user's own. What is to become of those it
//! comes upon is noted for the thread while it runs.

use std::cell::{Cell, RefCell};

use serde::de::{EnumAccess, Error as _, SeqAccess, VariantAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Blob, INLINE};
use crate::wire::frame::PayloadError;

/// What becomes of a blob that is written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It is bytes as any others.
    Bytes,
    /// It is a part of its message.
    Inline,
    /// It is noted, if it is large, and the message has its number.
    Lend,
    /// It is a part of its message, or a number of one that was noted.
    Take,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Bytes) };
    static NOTED: RefCell<Vec<Blob>> = const { RefCell::new(Vec::new()) };
}

/// What was in force before, and is again once this is dropped.
struct Before(Mode, Vec<Blob>);

impl Before {
    fn enter(mode: Mode, noted: Vec<Blob>) -> Self {
        Before(MODE.replace(mode), NOTED.replace(noted))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        MODE.set(self.0);
        drop(NOTED.replace(std::mem::take(&mut self.1)));
    }
}

/// Encodes a message; what its large blobs became, in the order of their numbers.
///
/// `lend` is asked for that if there is any memory for them, and may find no room: then they are a part of the message.
///
/// # Errors
///
/// What the encoding said, or [`PayloadError::NoRoom`]; what was appended before the error stays for the caller to cut
/// off.
pub(crate) fn encode<L>(
    out: &mut Vec<u8>,
    lend: Option<impl FnOnce(Vec<Blob>) -> Option<Vec<L>>>,
    mut encode: impl FnMut(&mut Vec<u8>) -> Result<(), PayloadError>,
) -> Result<Vec<L>, PayloadError> {
    let before = out.len();
    let Some(lend) = lend else {
        let _before = Before::enter(Mode::Inline, Vec::new());
        return encode(out).map(|()| Vec::new());
    };
    let noted = {
        let _before = Before::enter(Mode::Lend, Vec::new());
        encode(out)?;
        NOTED.take()
    };
    if noted.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(lent) = lend(noted) {
        return Ok(lent);
    }
    out.truncate(before);
    let _before = Before::enter(Mode::Inline, Vec::new());
    match encode(out) {
        Ok(()) => Ok(Vec::new()),
        Err(PayloadError::TooLarge { limit }) => Err(PayloadError::NoRoom { limit }),
        Err(problem) => Err(problem),
    }
}

/// A message that was encoded before is being written, and these are what its numbers stand for.
#[cfg(feature = "actors")]
pub(crate) fn carry(blobs: &[Blob]) {
    if !blobs.is_empty() {
        NOTED.with_borrow_mut(|noted| noted.extend_from_slice(blobs));
    }
}

/// Decodes a message whose numbers stand for these.
pub(crate) fn receive<T>(blobs: Vec<Blob>, decode: impl FnOnce() -> T) -> T {
    let _before = Before::enter(Mode::Take, blobs);
    decode()
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mode = if serializer.is_human_readable() { Mode::Bytes } else { MODE.get() };
        match mode {
            Mode::Bytes | Mode::Take => serializer.serialize_newtype_struct("Blob", &AsBytes(self)),
            Mode::Lend if self.len() >= INLINE => {
                let number = NOTED.with_borrow_mut(|noted| {
                    noted.push(self.clone());
                    noted.len() - 1
                });
                serializer.serialize_newtype_variant("Blob", 1, "Lent", &number)
            }
            Mode::Lend | Mode::Inline => {
                serializer.serialize_newtype_variant("Blob", 0, "Inline", &AsBytes(self))
            }
        }
    }
}

struct AsBytes<'a>(&'a Blob);

impl Serialize for AsBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.bytes())
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match MODE.get() {
            Mode::Take if !deserializer.is_human_readable() => {
                deserializer.deserialize_enum("Blob", &["Inline", "Lent"], Either)
            }
            // By its name, so that an interface with other bytes in its place is another interface.
            _ => deserializer.deserialize_newtype_struct("Blob", Either),
        }
    }
}

/// Bytes, or the number of a blob that was noted.
struct Either;

impl<'de> Visitor<'de> for Either {
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
        let noted = NOTED.with_borrow(|noted| noted.get(number).cloned());
        noted.ok_or_else(|| A::Error::custom("it refers to a blob that was not lent"))
    }
}

struct FromBytes(Vec<u8>);

impl<'de> Deserialize<'de> for FromBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(Bytes).map(FromBytes)
    }
}

struct Bytes;

impl<'de> Visitor<'de> for Bytes {
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
