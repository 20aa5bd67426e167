//! Encodes values in postcard's format under the limits that the other side decodes them with, so that a value which it
//! would refuse is not sent.
//!
//! postcard encodes the numbers and texts, and the counts. The values within others are encoded one by one, with nothing
//! between them, as the format has it.

use std::fmt;

use serde::{Serialize, ser};

use super::frame::{self, Exceeded, LimitedAppender, MAX_EMPTY_ELEMENTS};

/// What all parts of one value share while it is appended to a buffer.
pub(super) struct Encoder<'a> {
    inner: postcard::Serializer<LimitedAppender<'a>>,
    /// How many more elements may have no bytes.
    empty: usize,
    exceeded: Option<Exceeded>,
}

/// Why a value cannot be encoded.
#[derive(Debug)]
pub(super) enum EncodeError {
    /// The buffer's limit is reached.
    Full,
    Other(Box<str>),
}

type Result<T> = std::result::Result<T, EncodeError>;

impl From<postcard::Error> for EncodeError {
    #[cold]
    fn from(error: postcard::Error) -> Self {
        match error {
            postcard::Error::SerializeBufferFull => EncodeError::Full,
            error => EncodeError::Other(error.to_string().into()),
        }
    }
}

impl ser::Error for EncodeError {
    #[cold]
    fn custom<T: fmt::Display>(text: T) -> Self {
        EncodeError::Other(frame::cut(text.to_string(), frame::MAX_TEXT).into())
    }
}

impl std::error::Error for EncodeError {}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::Full => f.write_str("the encoding is too long"),
            EncodeError::Other(text) => f.write_str(text),
        }
    }
}

/// Encodes one part of a value. What depends on the place of the part is passed by value.
pub(super) struct At<'b, 'a> {
    encoder: &'b mut Encoder<'a>,
    /// How many more levels values may be nested.
    levels: u32,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(out: LimitedAppender<'a>) -> Self {
        let inner = postcard::Serializer { output: out };
        Encoder { inner, empty: MAX_EMPTY_ELEMENTS, exceeded: None }
    }

    /// Appends a value that is nested at most `max_depth` levels deep.
    pub(super) fn value<T: Serialize + ?Sized>(&mut self, value: &T, max_depth: u32) -> Result<()> {
        value.serialize(At { encoder: self, levels: max_depth })
    }

    /// Returns the limit that the value has exceeded, if any, even if its `Serialize` has dropped the error.
    pub(super) fn exceeded(&self) -> Option<Exceeded> {
        self.exceeded
    }

    #[cold]
    fn exceed(&mut self, limit: Exceeded) -> EncodeError {
        self.exceeded = Some(limit);
        EncodeError::Other("it exceeds a limit".into())
    }

    #[inline]
    fn length(&self) -> usize {
        self.inner.output.length()
    }
}

impl<'b, 'a> At<'b, 'a> {
    /// Goes one level deeper.
    #[inline]
    fn deeper(self) -> Result<Self> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(At { levels, ..self }),
            None => Err(self.encoder.exceed(Exceeded::Depth)),
        }
    }

    /// Begins a value that consists of parts.
    #[inline]
    fn parts(self) -> Result<Parts<'b, 'a>> {
        let At { encoder, levels } = self.deeper()?;
        Ok(Parts { encoder, levels, start: 0 })
    }

    #[inline]
    fn nested<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        value.serialize(self.deeper()?)
    }
}

/// A value that is being encoded part by part.
pub(super) struct Parts<'b, 'a> {
    encoder: &'b mut Encoder<'a>,
    levels: u32,
    /// Length of the buffer at the beginning of the current element or entry.
    start: usize,
}

impl Parts<'_, '_> {
    #[inline]
    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.serialize(At { encoder: &mut *self.encoder, levels: self.levels })
    }

    /// Counts the current element if it has no bytes.
    #[inline]
    fn end_element(&mut self) -> Result<()> {
        if self.encoder.length() == self.start {
            let Some(left) = self.encoder.empty.checked_sub(1) else {
                return Err(self.encoder.exceed(Exceeded::EmptyElements));
            };
            self.encoder.empty = left;
        }
        Ok(())
    }
}

impl ser::SerializeSeq for Parts<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.start = self.encoder.length();
        self.part(value)?;
        self.end_element()
    }

    #[inline]
    fn end(self) -> Result<()> {
        Ok(())
    }
}

impl ser::SerializeMap for Parts<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.start = self.encoder.length();
        self.part(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.part(value)?;
        self.end_element()
    }

    #[inline]
    fn end(self) -> Result<()> {
        Ok(())
    }
}

/// Values whose parts belong to their type.
macro_rules! fixed {
    ($($kind:ident $part:ident;)+) => {$(
        impl ser::$kind for Parts<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            #[inline]
            fn $part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                self.part(value)
            }

            #[inline]
            fn end(self) -> Result<()> {
                Ok(())
            }
        }
    )+};
}

fixed! {
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

/// Values whose parts belong to their type and have names.
macro_rules! named {
    ($($kind:ident)+) => {$(
        impl ser::$kind for Parts<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<()> {
                self.part(value)
            }

            #[inline]
            fn end(self) -> Result<()> {
                Ok(())
            }
        }
    )+};
}

named! { SerializeStruct SerializeStructVariant }

/// Values that contain no others.
macro_rules! leaves {
    ($($serialize:ident $value:ty;)+) => {$(
        #[inline]
        fn $serialize(self, value: $value) -> Result<()> {
            Ok((&mut self.encoder.inner).$serialize(value)?)
        }
    )+};
}

impl<'b, 'a> ser::Serializer for At<'b, 'a> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Parts<'b, 'a>;
    type SerializeTuple = Parts<'b, 'a>;
    type SerializeTupleStruct = Parts<'b, 'a>;
    type SerializeTupleVariant = Parts<'b, 'a>;
    type SerializeMap = Parts<'b, 'a>;
    type SerializeStruct = Parts<'b, 'a>;
    type SerializeStructVariant = Parts<'b, 'a>;

    leaves! {
        serialize_bool bool;
        serialize_i8 i8;
        serialize_i16 i16;
        serialize_i32 i32;
        serialize_i64 i64;
        serialize_i128 i128;
        serialize_u8 u8;
        serialize_u16 u16;
        serialize_u32 u32;
        serialize_u64 u64;
        serialize_u128 u128;
        serialize_f32 f32;
        serialize_f64 f64;
        serialize_char char;
        serialize_str &str;
        serialize_bytes &[u8];
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<()> {
        Ok((&mut self.encoder.inner).collect_str(value)?)
    }

    #[inline]
    fn serialize_none(self) -> Result<()> {
        Ok((&mut self.encoder.inner).serialize_none()?)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        (&mut self.encoder.inner).serialize_u8(1)?;
        self.nested(value)
    }

    #[inline]
    fn serialize_unit(self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<()> {
        let at = self.deeper()?;
        Ok((&mut at.encoder.inner).serialize_unit_variant(name, index, variant)?)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<()> {
        self.nested(value)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<()> {
        (&mut self.encoder.inner).serialize_u32(index)?;
        self.nested(value)
    }

    #[inline]
    fn serialize_seq(self, count: Option<usize>) -> Result<Parts<'b, 'a>> {
        (&mut self.encoder.inner).serialize_seq(count)?;
        self.parts()
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Parts<'b, 'a>> {
        self.parts()
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'b, 'a>> {
        self.parts()
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Parts<'b, 'a>> {
        (&mut self.encoder.inner).serialize_u32(index)?;
        self.parts()
    }

    #[inline]
    fn serialize_map(self, count: Option<usize>) -> Result<Parts<'b, 'a>> {
        (&mut self.encoder.inner).serialize_map(count)?;
        self.parts()
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'b, 'a>> {
        self.parts()
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Parts<'b, 'a>> {
        (&mut self.encoder.inner).serialize_u32(index)?;
        self.parts()
    }
}
