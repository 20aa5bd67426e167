//! Baggage: values of a caller's context that travel with its calls, as a list of keys and encoded values in front of
//! the message.

use std::hash::{DefaultHasher, Hash, Hasher};

#[cfg(any(test, feature = "actors"))]
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame;
#[cfg(any(test, feature = "actors"))]
use super::frame::{Limits, PayloadError};

/// Longest encoding of a call's baggage, in bytes (64 KiB).
pub(crate) const MAX_BAGGAGE: usize = 64 << 10;

/// The limits of a value and of the whole list. They are the same for all pools, because a context knows none.
#[cfg(any(test, feature = "actors"))]
pub(crate) const LIMITS: Limits = Limits { bytes: MAX_BAGGAGE, depth: frame::DEFAULT_MAX_DEPTH };

/// One value of the list: the key of its type, and its encoding.
#[cfg(any(test, feature = "actors"))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BaggageItem {
    pub(crate) key: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Returns the key of a type. Both ends run the same program, so they compute the same key.
pub(crate) fn key<T>() -> u64 {
    // The default hasher has fixed keys, so every process of this program computes the same.
    let mut hasher = DefaultHasher::new();
    std::any::type_name::<T>().hash(&mut hasher);
    hasher.finish()
}

/// Encodes the list.
///
/// # Errors
///
/// [`PayloadError::TooLarge`] if the encoding exceeds [`MAX_BAGGAGE`].
#[cfg(any(test, feature = "actors"))]
pub(crate) fn encode_list(items: &[BaggageItem]) -> Result<Vec<u8>, PayloadError> {
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, &items, LIMITS)?;
    Ok(bytes)
}

/// Returns the encoding of the value with this key. Returns `None` if there is no such value or the list is
/// malformed.
pub(crate) fn find(list: &[u8], wanted_key: u64) -> Option<&[u8]> {
    let (count, mut rest) = postcard::take_from_bytes::<u64>(list).ok()?;
    for _ in 0..count {
        let ((key, bytes), behind) = postcard::take_from_bytes::<(u64, &[u8])>(rest).ok()?;
        if key == wanted_key {
            return Some(bytes);
        }
        rest = behind;
    }
    None
}

/// Decodes the value of type `T`. Returns `None` if there is no such value or it cannot be decoded.
pub(crate) fn read<T: DeserializeOwned>(list: &[u8]) -> Option<T> {
    frame::decode(find(list, key::<T>())?, frame::DEFAULT_MAX_DEPTH).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_value_is_found_by_its_key() {
        let items =
            [BaggageItem { key: 7, bytes: vec![1, 2, 3] }, BaggageItem { key: u64::MAX, bytes: Vec::new() }];
        let list = encode_list(&items).unwrap_or_default();
        assert_eq!(find(&list, 7), Some([1, 2, 3].as_slice()));
        assert_eq!(find(&list, u64::MAX), Some([].as_slice()));
        assert_eq!(find(&list, 8), None);
        assert_eq!(find(&[], 7), None);
    }

    #[test]
    fn a_malformed_list_has_no_values() {
        let list = encode_list(&[BaggageItem { key: 7, bytes: vec![1; 300] }]).unwrap_or_default();
        for length in 0..list.len() {
            assert_eq!(find(&list[..length], 7), None, "the first {length} bytes");
        }
        assert_eq!(find(&[0xff; 40], 7), None);
    }

    #[test]
    fn baggage_has_a_limit() {
        let items = |length| [BaggageItem { key: 1, bytes: vec![0; length] }];
        let beside = encode_list(&items(MAX_BAGGAGE / 2)).unwrap_or_default().len() - MAX_BAGGAGE / 2;
        assert_eq!(encode_list(&items(MAX_BAGGAGE - beside)).map(|list| list.len()), Ok(MAX_BAGGAGE));
        let refused = encode_list(&items(MAX_BAGGAGE - beside + 1));
        assert_eq!(refused, Err(PayloadError::TooLarge { limit: MAX_BAGGAGE }));
    }
}
