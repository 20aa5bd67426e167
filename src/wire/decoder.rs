//! Decodes values of postcard's format under limits.
//!
//! postcard decodes the numbers and texts. What contains other values is decoded here, because only here it can be
//! counted: how deep values are nested, which bounds the stack, and how many elements have no bytes, which bounds time
//! and memory to what the bytes justify. Nothing is wrapped around the visitors, so a type is compiled no more often
//! than for postcard's own deserializer.

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::frame::{self, Exceeded, MAX_EMPTY_ELEMENTS};

/// What all parts of one value share while it is decoded from the front of a slice.
pub(super) struct Decoder<'de> {
    rest: &'de [u8],
    /// How many more elements may have no bytes.
    empty: usize,
    exceeded: Option<Exceeded>,
}

/// Decodes one part of a value. What depends on the place of the part is passed by value, so that numbers and texts,
/// which need none of it, cost no more than without limits.
pub(super) struct At<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    /// How many more levels values may be nested.
    levels: u32,
    /// Elements that the sequences and maps around this part still have to come. Each needs a byte, or counts as one
    /// without bytes.
    to_come: usize,
}

/// Why a value cannot be decoded.
#[derive(Debug)]
pub(super) struct DecodeError(Box<str>);

type Result<T> = std::result::Result<T, DecodeError>;

impl From<postcard::Error> for DecodeError {
    #[cold]
    fn from(error: postcard::Error) -> Self {
        DecodeError(error.to_string().into())
    }
}

impl de::Error for DecodeError {
    #[cold]
    fn custom<T: fmt::Display>(text: T) -> Self {
        DecodeError(frame::cut(text.to_string(), frame::MAX_TEXT).into())
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Decoder<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Decoder { rest: bytes, empty: MAX_EMPTY_ELEMENTS, exceeded: None }
    }

    /// Decodes a value that is nested at most `max_depth` levels deep.
    pub(super) fn value<T: de::Deserialize<'de>>(&mut self, max_depth: u32) -> Result<T> {
        T::deserialize(At { decoder: self, levels: max_depth, to_come: 0 })
    }

    /// Returns the bytes that were not read.
    pub(super) fn rest(&self) -> &'de [u8] {
        self.rest
    }

    /// Returns the limit that the value has exceeded, if any, even if a visitor has dropped the error.
    pub(super) fn exceeded(&self) -> Option<Exceeded> {
        self.exceeded
    }

    /// Takes a value that contains no others.
    #[inline]
    fn take<T: de::Deserialize<'de>>(&mut self) -> Result<T> {
        let (value, rest) = postcard::take_from_bytes(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    #[cold]
    fn exceed(&mut self, limit: Exceeded) -> DecodeError {
        self.exceeded = Some(limit);
        DecodeError("it exceeds a limit".into())
    }
}

impl<'a, 'de> At<'a, 'de> {
    /// Goes one level deeper.
    #[inline]
    fn deeper(self) -> Result<Self> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(At { levels, ..self }),
            None => Err(self.decoder.exceed(Exceeded::Depth)),
        }
    }

    /// Begins the elements of a sequence or the entries of a map. There may be no more than the bytes allow, so nothing
    /// is allocated or repeated for elements that cannot exist.
    #[inline]
    fn elements(self) -> Result<Elements<'a, 'de>> {
        let At { decoder, levels, to_come } = self.deeper()?;
        let left: usize = decoder.take()?;
        let most = (decoder.rest.len() + decoder.empty).saturating_sub(to_come);
        if left > most {
            return Err(decoder.exceed(Exceeded::EmptyElements));
        }
        Ok(Elements { decoder, levels, around: to_come, left, is_counted: true, start: 0 })
    }

    /// Begins the fields of a tuple, whose number is part of its type.
    #[inline]
    fn fields(self, count: usize) -> Elements<'a, 'de> {
        let At { decoder, levels, to_come } = self;
        Elements { decoder, levels, around: to_come, left: count, is_counted: false, start: 0 }
    }
}

/// The elements of one sequence, tuple or map.
struct Elements<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    levels: u32,
    /// What was still to come when this sequence began.
    around: usize,
    left: usize,
    /// Whether elements without bytes count: those of a sequence or map, whose number the bytes tell.
    is_counted: bool,
    /// Bytes left at the beginning of the current element.
    start: usize,
}

impl<'de> Elements<'_, 'de> {
    /// Begins the next element; returns `false` after the last one.
    #[inline]
    fn begin(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.start = self.decoder.rest.len();
        true
    }

    /// The place of the current element.
    #[inline]
    fn at(&mut self) -> At<'_, 'de> {
        let to_come = if self.is_counted { self.around + self.left } else { self.around };
        At { decoder: &mut *self.decoder, levels: self.levels, to_come }
    }

    /// Counts the current element if it has no bytes.
    #[inline]
    fn end(&mut self) -> Result<()> {
        if self.is_counted && self.decoder.rest.len() == self.start {
            let Some(left) = self.decoder.empty.checked_sub(1) else {
                return Err(self.decoder.exceed(Exceeded::EmptyElements));
            };
            self.decoder.empty = left;
        }
        Ok(())
    }
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if !self.begin() {
            return Ok(None);
        }
        let element = seed.deserialize(self.at())?;
        self.end()?;
        Ok(Some(element))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if !self.begin() {
            return Ok(None);
        }
        seed.deserialize(self.at()).map(Some)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        let value = seed.deserialize(self.at())?;
        self.end()?;
        Ok(value)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// Values that contain no others.
macro_rules! leaves {
    ($($deserialize:ident $visit:ident $value:ty;)+) => {$(
        #[inline]
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            visitor.$visit(self.decoder.take::<$value>()?)
        }
    )+};
}

impl<'de> de::Deserializer<'de> for At<'_, 'de> {
    type Error = DecodeError;

    leaves! {
        deserialize_bool visit_bool bool;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_i128 visit_i128 i128;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_u128 visit_u128 u128;
        deserialize_f32 visit_f32 f32;
        deserialize_f64 visit_f64 f64;
        deserialize_char visit_char char;
        deserialize_str visit_borrowed_str &'de str;
        deserialize_string visit_str &'de str;
        deserialize_bytes visit_borrowed_bytes &'de [u8];
        deserialize_byte_buf visit_bytes &'de [u8];
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(postcard::Error::WontImplement.into())
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(postcard::Error::WontImplement.into())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(postcard::Error::WontImplement.into())
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.decoder.take::<u8>()? {
            0 => visitor.visit_none(),
            1 => visitor.visit_some(self.deeper()?),
            _ => Err(postcard::Error::DeserializeBadOption.into()),
        }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self.deeper()?)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(self.elements()?)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(self.deeper()?.fields(count))
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        count: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(count, visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_map(self.elements()?)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(self.deeper()?)
    }
}

impl<'de> de::EnumAccess<'de> for At<'_, 'de> {
    type Error = DecodeError;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self)> {
        let index: u32 = self.decoder.take()?;
        let variant = seed.deserialize(IntoDeserializer::<DecodeError>::into_deserializer(index))?;
        Ok((variant, self))
    }
}

impl<'de> de::VariantAccess<'de> for At<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seed.deserialize(self)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(self.fields(count))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_seq(self.fields(fields.len()))
    }
}
