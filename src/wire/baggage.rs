//! Values that travel with every call of a context: a list of keys and encoded values, in front of the message.

use std::hash::{DefaultHasher, Hash, Hasher};

#[cfg(any(test, feature = "actors"))]
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame;
#[cfg(any(test, feature = "actors"))]
use super::frame::PayloadError;

/// Most bytes that all the baggage of one call may take, encoded (64 KiB).
pub(crate) const MOST_BAGGAGE: usize = 64 << 10;

/// One value: the key of its type, and its encoding.
#[cfg(any(test, feature = "actors"))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Item {
    pub(crate) key: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The number a type goes by at both ends, which are the same program.
pub(crate) fn key<T>() -> u64 {
    // The default hasher has fixed keys, so every process of this program computes the same.
    let mut hasher = DefaultHasher::new();
    std::any::type_name::<T>().hash(&mut hasher);
    hasher.finish()
}

/// The list as it travels.
///
/// # Errors
///
/// [`PayloadError::TooLarge`] above [`MOST_BAGGAGE`].
#[cfg(any(test, feature = "actors"))]
pub(crate) fn pack(items: &[Item]) -> Result<Vec<u8>, PayloadError> {
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, &items, MOST_BAGGAGE)?;
    Ok(bytes)
}

/// The encoding of the value with this key, where the list has one and is one.
pub(crate) fn find(list: &[u8], wanted: u64) -> Option<&[u8]> {
    let (count, mut rest) = postcard::take_from_bytes::<u64>(list).ok()?;
    for _ in 0..count {
        let ((key, bytes), behind) = postcard::take_from_bytes::<(u64, &[u8])>(rest).ok()?;
        if key == wanted {
            return Some(bytes);
        }
        rest = behind;
    }
    None
}

/// The value of this type in the list; `None` where there is none, or where it cannot be decoded.
pub(crate) fn read<T: DeserializeOwned>(list: &[u8]) -> Option<T> {
    frame::decode(find(list, key::<T>())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_found_by_its_key() {
        let items = [Item { key: 7, bytes: vec![1, 2, 3] }, Item { key: u64::MAX, bytes: Vec::new() }];
        let list = pack(&items).unwrap_or_default();
        assert_eq!(find(&list, 7), Some([1, 2, 3].as_slice()));
        assert_eq!(find(&list, u64::MAX), Some([].as_slice()));
        assert_eq!(find(&list, 8), None);
        assert_eq!(find(&[], 7), None);
    }

    #[test]
    fn a_list_that_is_none_has_nothing() {
        let list = pack(&[Item { key: 7, bytes: vec![1; 300] }]).unwrap_or_default();
        for length in 0..list.len() {
            assert_eq!(find(&list[..length], 7), None, "the first {length} bytes");
        }
        assert_eq!(find(&[0xff; 40], 7), None);
    }

    #[test]
    fn baggage_has_a_limit() {
        let items = |length| [Item { key: 1, bytes: vec![0; length] }];
        let beside = pack(&items(MOST_BAGGAGE / 2)).unwrap_or_default().len() - MOST_BAGGAGE / 2;
        assert_eq!(pack(&items(MOST_BAGGAGE - beside)).map(|list| list.len()), Ok(MOST_BAGGAGE));
        let refused = pack(&items(MOST_BAGGAGE - beside + 1));
        assert_eq!(refused, Err(PayloadError::TooLarge { limit: MOST_BAGGAGE }));
    }
}
