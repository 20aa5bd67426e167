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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    fn blob(length: usize) -> Blob {
        (0..length).map(|at| at as u8).collect::<Vec<u8>>().into()
    }

    /// What is asked for what lent blobs become.
    type Lend = fn(Vec<Blob>) -> Option<Vec<Blob>>;

    fn take_all(noted: Vec<Blob>) -> Option<Vec<Blob>> {
        Some(noted)
    }

    /// A message, encoded with whatever becomes of its blobs, and what was lent.
    fn encoded(
        message: &impl Serialize,
        lend: Option<Lend>,
        limit: usize,
    ) -> Result<(Vec<u8>, Vec<Blob>), PayloadError> {
        let mut bytes = Vec::new();
        let lent = encode(&mut bytes, lend, |out| frame::encode(out, message, limit))?;
        Ok((bytes, lent))
    }

    #[test]
    fn large_ones_are_numbers_and_small_ones_are_a_part_of_their_message() -> Result<(), PayloadError> {
        let message = (blob(INLINE), blob(INLINE - 1), vec![blob(2 * INLINE), blob(0)]);
        let (bytes, lent) = encoded(&message, Some(take_all), usize::MAX)?;
        assert_eq!(lent, [blob(INLINE), blob(2 * INLINE)]);
        assert!(bytes.len() < INLINE + 20);
        let back: (Blob, Blob, Vec<Blob>) = receive(lent, || frame::decode(&bytes))?;
        assert_eq!(back, message);
        Ok(())
    }

    #[test]
    fn where_nothing_is_lent_all_are_a_part_of_their_message() -> Result<(), PayloadError> {
        let message = vec![blob(3 * INLINE), blob(5)];
        for lend in [None, Some((|_| None) as Lend)] {
            let (bytes, lent) = encoded(&message, lend, usize::MAX)?;
            assert!(lent.is_empty() && bytes.len() > 3 * INLINE);
            let back: Vec<Blob> = receive(lent, || frame::decode(&bytes))?;
            assert_eq!(back, message);
        }
        let refused = encoded(&message, Some(|_| None), INLINE);
        assert_eq!(refused, Err(PayloadError::NoRoom { limit: INLINE }));
        let refused = encoded(&message, None, INLINE);
        assert_eq!(refused, Err(PayloadError::TooLarge { limit: INLINE }));
        Ok(())
    }

    #[test]
    fn elsewhere_they_are_bytes_as_any_others() -> Result<(), Box<dyn std::error::Error>> {
        let large = blob(INLINE + 3);
        let bytes = postcard::to_stdvec(&large)?;
        assert_eq!(bytes, postcard::to_stdvec(&large.to_vec())?);
        assert_eq!(postcard::from_bytes::<Blob>(&bytes)?, large);
        // Also in a text within a message.
        let (_, lent) = encoded(&serde_json::to_string(&large)?, Some(take_all), usize::MAX)?;
        assert!(lent.is_empty());
        Ok(())
    }

    #[test]
    fn a_number_of_nothing_is_refused() -> Result<(), PayloadError> {
        let (bytes, lent) = encoded(&vec![blob(INLINE); 2], Some(take_all), usize::MAX)?;
        for count in 0..2 {
            let fewer = lent[..count].to_vec();
            let back =
                receive(fewer, || frame::decode::<Vec<Blob>>(&bytes)).map_err(|error| error.to_string());
            // What a decoder of postcard's says of it is its own affair, but it names the type.
            assert!(back.is_err_and(|text| text.contains("Blob")), "{count}");
        }
        Ok(())
    }

    #[test]
    fn what_was_in_force_is_again_also_after_a_panic() {
        let panicked = std::panic::catch_unwind(|| {
            receive(vec![blob(1)], || -> () { panic!("a decoder's own") });
        });
        assert!(panicked.is_err());
        assert_eq!(MODE.get(), Mode::Bytes);
        assert!(NOTED.with_borrow(Vec::is_empty));
    }
}
