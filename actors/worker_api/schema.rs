//! The serialized shape of a type, as text: the same in every program that serializes the type alike.

use serde::de::DeserializeOwned;
use serde_reflection::{Tracer, TracerConfig};

use super::interface::last_segment;
use crate::user_code::caught;
use crate::wire::control::Signature;

/// Offset and factor of the hash, which other programs can compute as well.
///
/// # References
///
/// - [FNV-1a](http://www.isthe.com/chongo/tech/comp/fnv/), 64 bits
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FACTOR: u64 = 0x0000_0100_0000_01b3;

/// Returns what a type and each type within it ask of their deserializer.
///
/// A `Deserialize` that is written by hand may refuse the values that it is offered here, or panic; then the type's name
/// takes the place of its shape.
pub(crate) fn shape<T: DeserializeOwned>() -> String {
    let trace = || {
        let mut tracer = Tracer::new(TracerConfig::default().is_human_readable(false));
        let (format, _) = tracer.trace_simple_type::<T>().ok()?;
        serde_json::to_string(&(format, tracer.registry_unchecked())).ok()
    };
    caught(trace).flatten().unwrap_or_else(|| format!("?{}", last_segment(std::any::type_name::<T>())))
}

/// Returns the signature of a message with this name and the shapes of it, its result and its error.
pub(crate) fn signature(name: &str, [message, result, error]: [&str; 3]) -> Signature {
    let number = |shape: &str| mix(OFFSET, shape.as_bytes());
    Signature {
        name: name.to_owned(),
        message: number(message),
        result: number(result),
        error: number(error),
    }
}

/// Returns a number that changes with each of the signatures and with their order.
pub(crate) fn fingerprint(interface: &[Signature]) -> u64 {
    interface.iter().fold(OFFSET, |hash, Signature { name, message, result, error }| {
        let named = mix(mix(hash, name.as_bytes()), &[0]);
        [message, result, error].into_iter().fold(named, |hash, number| mix(hash, &number.to_le_bytes()))
    })
}

fn mix(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FACTOR))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::Failure;

    mod here {
        use super::*;
        #[derive(Serialize, Deserialize)]
        pub(super) struct Hash {
            plaintext: String,
            rounds: Option<u32>,
        }
        #[derive(Serialize, Deserialize)]
        pub(super) enum Error {
            Empty,
            Worker(Failure),
        }
    }

    mod there {
        use super::*;
        #[derive(Serialize, Deserialize)]
        pub(super) struct Hash {
            plaintext: String,
            rounds: Option<u32>,
        }
        #[derive(Serialize, Deserialize)]
        pub(super) enum Error {
            Empty,
            Worker(Failure),
            Full(Vec<here::Hash>),
        }
    }

    /// S11
    #[test]
    fn where_a_type_is_declared_does_not_matter_and_what_it_looks_like_does() {
        assert_eq!(shape::<here::Hash>(), shape::<there::Hash>());
        assert_ne!(shape::<here::Error>(), shape::<there::Error>());
        assert!(shape::<here::Error>().contains("Empty"), "{}", shape::<here::Error>());
        assert!(shape::<there::Error>().contains("plaintext"), "{}", shape::<there::Error>());
        assert_ne!(shape::<u32>(), shape::<u64>());
        assert_ne!(shape::<(u8, String)>(), shape::<(String, u8)>());
        assert!(!shape::<Failure>().starts_with('?'), "{}", shape::<Failure>());
    }

    #[test]
    fn a_type_that_will_not_be_looked_at_is_known_by_its_name() {
        #[derive(Debug)]
        struct Shy;
        impl<'de> Deserialize<'de> for Shy {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                panic!("not so fast")
            }
        }
        assert_eq!(shape::<Shy>(), "?Shy");
    }

    #[test]
    fn a_fingerprint_depends_on_names_shapes_and_order() {
        let make = |names: [&str; 2], shapes: [u64; 2]| {
            let signature = |at: usize| {
                let name = names[at].to_owned();
                Signature { name, message: shapes[at], result: 7, error: 8 }
            };
            fingerprint(&[signature(0), signature(1)])
        };
        let one = make(["Hash", "Verify"], [1, 2]);
        assert_eq!(one, make(["Hash", "Verify"], [1, 2]));
        for other in [
            make(["Verify", "Hash"], [2, 1]),
            make(["Hash", "Verify"], [2, 1]),
            make(["Hash", "Verified"], [1, 2]),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(mix(OFFSET, b"a"), 0xaf63_dc4c_8601_ec8c, "the published test vector");
    }
}
