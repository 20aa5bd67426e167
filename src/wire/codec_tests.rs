//! Values in postcard's format, encoded and decoded under limits.

use std::collections::{BTreeMap, HashSet, LinkedList};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::frame::{Limits, MAX_EMPTY_ELEMENTS, PayloadError, decode, encode};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Sample {
    Unit,
    Numbers(i8, u8, i16, u16, i32, u32, i64, u64, i128, u128, f32, f64, char, bool),
    Newtype(Wrapped),
    Struct { text: String, pair: (u8, [i16; 3]), maybe: Option<Option<u64>> },
    Sequence(Vec<Sample>),
    Map(BTreeMap<String, Option<()>>),
    Boxed(Box<Sample>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wrapped(Vec<()>);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Chain(Option<Box<Chain>>);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Tree(Vec<Tree>);

fn samples() -> Vec<Sample> {
    let text = "\u{1F600} text".to_owned();
    let entries = [("one".to_owned(), Some(())), ("two".to_owned(), None)];
    let all = vec![
        Sample::Unit,
        Sample::Numbers(
            -1,
            255,
            -300,
            300,
            i32::MIN,
            u32::MAX,
            i64::MIN,
            u64::MAX,
            -7,
            7,
            0.5,
            -0.0,
            'ß',
            true,
        ),
        Sample::Newtype(Wrapped(vec![(); 300])),
        Sample::Struct { text, pair: (1, [-1, 0, 1]), maybe: Some(None) },
        Sample::Map(entries.into()),
    ];
    [all.clone(), vec![Sample::Sequence(all.clone()), Sample::Boxed(Box::new(Sample::Sequence(all)))]]
        .concat()
}

fn limits(depth: u32) -> Limits {
    Limits { bytes: usize::MAX, depth }
}

fn encoded<T: Serialize>(value: &T, depth: u32) -> Result<Vec<u8>, PayloadError> {
    let mut bytes = Vec::new();
    encode(&mut bytes, value, limits(depth)).map(|()| bytes)
}

/// C6: the format is postcard's.
#[test]
fn values_are_encoded_and_decoded_as_by_postcard() -> Result<(), PayloadError> {
    for sample in samples() {
        let bytes = encoded(&sample, 10)?;
        assert_eq!(Ok(&bytes), postcard::to_stdvec(&sample).as_ref());
        assert_eq!(decode::<Sample>(&bytes, 10)?, sample);
        for length in 0..bytes.len() {
            let ours = decode::<Sample>(&bytes[..length], 10).ok();
            assert_eq!(ours, None, "the first {length} bytes of {sample:?}");
        }
    }
    Ok(())
}

fn tree(depth: u32) -> Tree {
    (1..depth / 2).fold(Tree(Vec::new()), |inner, _| Tree(vec![inner]))
}

/// G3: each struct and each sequence is a level, on both sides alike.
#[test]
fn a_value_is_as_deep_as_its_structs_and_sequences() -> Result<(), PayloadError> {
    let bytes = encoded(&tree(100), 100)?;
    assert_eq!(decode::<Tree>(&bytes, 100)?, tree(100));
    let type_name = std::any::type_name::<Tree>();
    assert_eq!(encoded(&tree(100), 99), Err(PayloadError::TooDeep { type_name, limit: 99 }));
    assert_eq!(decode::<Tree>(&bytes, 99), Err(PayloadError::TooDeep { type_name, limit: 99 }));
    Ok(())
}

/// G3: no kind of nesting escapes the limit; otherwise this overflows the stack.
#[test]
fn every_kind_of_nesting_is_counted() {
    #[derive(Debug, Deserialize)]
    enum Through {
        #[expect(dead_code, reason = "never made")]
        Newtype(Box<Through>),
        #[expect(dead_code, reason = "never made")]
        Tuple(u8, Box<Through>),
        #[expect(dead_code, reason = "never made")]
        Struct { inner: Box<Through> },
    }
    fn deep<T: DeserializeOwned>(byte: u8) -> Option<PayloadError> {
        decode::<T>(&vec![byte; 10_000_000], 128).err()
    }
    let is_deep = |error| matches!(error, Some(PayloadError::TooDeep { limit: 128, .. }));
    assert!(is_deep(deep::<Chain>(1)), "options");
    assert!(is_deep(deep::<Tree>(1)), "sequences");
    for variant in 0..3 {
        assert!(is_deep(deep::<Through>(variant)), "variant {variant}");
    }
}

fn refused<T: DeserializeOwned>(bytes: &[u8]) -> bool {
    let most = MAX_EMPTY_ELEMENTS;
    matches!(decode::<T>(bytes, 128), Err(PayloadError::TooManyElements { limit, .. }) if limit == most)
}

/// G3: if they were only counted as they come, this would take years.
#[test]
fn elements_without_bytes_are_refused_by_their_number_alone() -> Result<(), PayloadError> {
    let announced = postcard::to_stdvec(&(1_u64 << 60)).unwrap_or_default();
    assert!(refused::<Vec<()>>(&announced));
    assert!(refused::<HashSet<()>>(&announced));
    assert!(refused::<LinkedList<()>>(&announced));
    assert!(refused::<BTreeMap<(), ()>>(&announced));
    assert!(refused::<Vec<u64>>(&announced), "elements that cannot be there");
    let within = encoded(&vec![(); MAX_EMPTY_ELEMENTS], 2)?;
    assert_eq!(decode::<Vec<()>>(&within, 2)?.len(), MAX_EMPTY_ELEMENTS);
    assert!(matches!(
        encoded(&vec![(); MAX_EMPTY_ELEMENTS + 1], 2),
        Err(PayloadError::TooManyElements { .. })
    ));
    Ok(())
}

/// G3: the limit is on the whole value, not on each sequence.
#[test]
fn many_short_sequences_have_no_more_elements_than_a_long_one() {
    let bytes = postcard::to_stdvec(&vec![vec![(); 1000]; 100]).unwrap_or_default();
    assert!(refused::<Vec<Vec<()>>>(&bytes));
    assert!(encoded(&vec![vec![(); 1000]; 100], 3).is_err());
    assert!(encoded(&vec![vec![(); 1000]; 65], 3).is_ok());
}

/// G3: what is reserved for elements to come is bounded by the bytes, in all enclosing sequences together.
#[test]
fn nested_sequences_do_not_announce_the_same_bytes_twice() {
    // Each level announces as many elements as there could be if no other level did.
    let mut bytes = Vec::new();
    for _ in 0..30 {
        bytes.extend(postcard::to_stdvec(&100_000_u32).unwrap_or_default());
    }
    bytes.resize(bytes.len() + 100_000, 0);
    assert!(refused::<Tree>(&bytes));
}

/// C7
#[test]
fn the_error_of_a_type_is_kept() {
    let error = decode::<std::num::NonZeroU8>(&[0], 1).map_err(|error| error.to_string());
    assert!(error.as_ref().is_err_and(|text| text.contains("nonzero")), "{error:?}");
}
