//! What a call carries arrives as it was sent, and what cannot travel fails its own call only.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::ops::Range;
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A worker whose messages and replies are of every kind, possible and impossible.
struct Parcel;

impl Actor for Parcel {
    type Context = WorkerContext<Self>;
}

impl Worker for Parcel {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Parcel)
    }
}

macro_rules! parcels {
    ($($name:ident($field:ty) => $result:ty, |$message:ident| $body:expr;)+) => {
        $(
            #[derive(Clone, Debug, Serialize, Deserialize)]
            struct $name($field);

            impl Message for $name {
                type Result = Result<$result, Failure>;
            }

            impl Handler<$name> for Parcel {
                type Result = Result<$result, Failure>;

                fn handle(&mut self, $message: $name, _: &mut WorkerContext<Self>) -> Self::Result {
                    $body
                }
            }
        )+
        forkpool::interface!(Parcel { $($name),+ });
    };
}

parcels! {
    Whoami(()) => u32, |_message| Ok(std::process::id());
    Swallow(String) => usize, |message| Ok(message.0.len());
    Produce(usize) => String, |message| Ok(text(message.0));
    ProduceError(usize) => (), |message| Err(Failure::task("x".repeat(message.0)));
    EchoEverything(Everything) => Everything, |message| Ok(message.0);
    EchoSmallFloats(Vec<f32>) => Vec<f32>, |message| Ok(message.0);
    EchoUnit(()) => (), |message| {
        let () = message.0;
        Ok(())
    };
    // Messages that do not travel.
    SendUntagged(Untagged) => (), |_message| Ok(());
    SendTagged(Tagged) => (), |_message| Ok(());
    SendFlat(Flat) => (), |_message| Ok(());
    SendSkipping(Skipping) => (), |_message| Ok(());
    SendOneWay(OneWay) => (), |_message| Ok(());
    SendStubborn(Stubborn) => (), |_message| Ok(());
    SendExplosive(Explosive) => (), |_message| Ok(());
    // Replies that do not travel.
    GetUntagged(u32) => Untagged, |message| Ok(Untagged::Number(message.0));
    GetTagged(u32) => Tagged, |message| Ok(Tagged::Number { number: message.0 });
    GetFlat(u32) => Flat, |message| Ok(Flat { number: message.0, rest: HashMap::new() });
    GetSkipping(u32) => Skipping, |message| Ok(Skipping { skipped: None, number: message.0 });
    GetOneWay(u32) => OneWay, |message| Ok(OneWay { number: message.0, one_way: 1 });
    GetStubborn(u32) => Stubborn, |_message| Ok(Stubborn);
    GetTrap(u32) => Trap, |message| Ok(Trap(message.0));
}

forkpool::boot!(Parcel);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    Text(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Number { number: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Flat {
    number: u32,
    #[serde(flatten)]
    rest: HashMap<String, u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Skipping {
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<u64>,
    number: u32,
}

/// Says more than it hears.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OneWay {
    number: u32,
    #[serde(skip_deserializing)]
    one_way: u32,
}

/// Will not be written.
#[derive(Clone, Debug, Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it will not"))
    }
}

/// Panics when it is written.
#[derive(Clone, Debug, Deserialize)]
struct Explosive;

impl Serialize for Explosive {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("it explodes");
    }
}

/// Panics when it is read.
#[derive(Clone, Debug, Serialize)]
struct Trap(u32);

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("it is a trap");
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    New(String),
    Tuple(i8, u16),
    Struct { nested: Option<Box<Everything>> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    truths: [bool; 2],
    small: (u8, i8, u16, i16, u32, i32),
    large: (u64, i64, u128, i128),
    chars: Vec<char>,
    text: String,
    bytes: Vec<u8>,
    maybe: Option<Option<NonZeroU64>>,
    nothing: ((), Option<u8>, Vec<u8>, String),
    map: BTreeMap<String, Vec<Shape>>,
    pairs: HashMap<(u8, char), Result<u64, String>>,
    range: Range<i64>,
    time: Duration,
}

const TEXT: &str = "\0 é \u{7f} 漢字 𝄞 😀 👩‍👩‍👧‍👦 \u{10ffff} \u{feff} \r\n";

fn everything(nested: Option<Box<Everything>>) -> Everything {
    let shapes =
        vec![Shape::Unit, Shape::New(TEXT.to_owned()), Shape::Tuple(-1, 1), Shape::Struct { nested }];
    Everything {
        truths: [true, false],
        small: (u8::MAX, i8::MIN, u16::MAX, i16::MIN, u32::MAX, i32::MIN),
        large: (u64::MAX, i64::MIN, u128::MAX, i128::MIN),
        chars: TEXT.chars().collect(),
        text: TEXT.repeat(100),
        bytes: (0..=u8::MAX).rev().collect(),
        maybe: Some(NonZeroU64::new(1 << 63)),
        nothing: ((), None, Vec::new(), String::new()),
        map: BTreeMap::from([(TEXT.to_owned(), shapes), (String::new(), Vec::new())]),
        pairs: HashMap::from([((0, '😀'), Ok(u64::MAX)), ((255, '\0'), Err(TEXT.to_owned()))]),
        range: i64::MIN..i64::MAX,
        time: Duration::new(u64::MAX, 999_999_999),
    }
}

fn parcels() -> PoolHandle<Parcel> {
    builder::<Parcel>(()).workers(1..=1).start().expect("the pool starts")
}

/// C6
#[test]
fn nested_values_of_every_type_travel_intact() {
    run(async {
        let pool = parcels();
        let mut value = everything(None);
        for _ in 0..20 {
            value = everything(Some(Box::new(value)));
        }
        assert_eq!(answer(pool.send(EchoEverything(value.clone()))).await, Ok(value));
        assert_eq!(answer(pool.send(EchoUnit(()))).await, Ok(()));
    });
}

/// C6
#[test]
fn every_character_and_every_byte_travels_intact() {
    run(async {
        let pool = pool_of_one();
        let all: String = (0..=u32::from(char::MAX)).filter_map(char::from_u32).collect();
        assert_eq!(answer(pool.send(EchoText(all.clone()))).await, Ok(all));
        for text in [TEXT, "", "\0"] {
            assert_eq!(answer(pool.send(EchoText(text.to_owned()))).await, Ok(text.to_owned()));
        }
        let every_pair: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        assert_eq!(answer(pool.send(Echo(every_pair.clone()))).await, Ok(every_pair));
    });
}

/// C6
#[test]
fn integers_travel_intact_at_every_power_of_two() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        for shift in 0..128 {
            let wide = (1_u128 << shift).wrapping_sub(u128::from(shift % 2 == 0));
            let narrow = 1_u64.rotate_left(shift).wrapping_sub(1);
            let char = char::from_u32(1 << (shift % 15)).expect("a character");
            let all =
                (narrow, (narrow as i64).wrapping_neg(), wide, (wide as i128).wrapping_neg(), 255, char);
            assert_eq!(answer(checkout.send(EchoIntegers(all))).await, Ok(all));
        }
        let ends = (u64::MAX, i64::MIN, u128::MAX, i128::MIN, u8::MIN, char::MAX);
        assert_eq!(answer(checkout.send(EchoIntegers(ends))).await, Ok(ends));
    });
}

/// C6
#[test]
fn floats_travel_bit_by_bit() {
    run(async {
        let signalling = f64::from_bits(0x7ff0_0000_0000_0001);
        let with_payload = f64::from_bits(0xfff8_dead_beef_cafe);
        let floats =
            [f64::NAN, -f64::NAN, signalling, with_payload, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0];
        let more = [f64::MIN, f64::MAX, f64::MIN_POSITIVE, f64::EPSILON, f64::from_bits(1)];
        let floats: Vec<f64> = floats.into_iter().chain(more).collect();
        let back = answer(pool_of_one().send(EchoFloats(floats.clone()))).await.expect("floats");
        let bits = |floats: &[f64]| floats.iter().map(|float| float.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&floats));
        let small = [0x7f80_0001, 0xffc0_beef, 0x8000_0000, 1, 0xff80_0000].map(f32::from_bits);
        let back = answer(parcels().send(EchoSmallFloats(small.to_vec()))).await.expect("floats");
        let bits = |floats: &[f32]| floats.iter().map(|float| float.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&small));
    });
}

/// C6
#[test]
fn payloads_of_nothing_and_of_every_size_around_a_buffer_travel_intact() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let sizes = (0..20).map(|power| 1_usize << power).flat_map(|size| [size - 1, size, size + 1]);
        let requests: Vec<_> =
            sizes.map(|size| (size, checkout.send(Echo(vec![(size % 251) as u8; size])))).collect();
        for (size, request) in requests {
            let back = answer(request).await.expect("an echo");
            assert!(back.len() == size && back.iter().all(|&byte| byte == (size % 251) as u8), "{size}");
        }
    });
}

/// C6
#[test]
fn payloads_of_64_mib_travel_both_ways_at_once() {
    const SIZE: usize = 64 << 20;
    run(async {
        let pool = pool().workers(1..=1).timeout(None).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        // While the first comes back the second is on its way.
        let requests = ["a text, ", "another "].map(|piece| {
            let text = piece.repeat(SIZE / piece.len());
            (text.clone(), checkout.send(EchoText(text)))
        });
        for (text, request) in requests {
            let back = answer(request).await.expect("an echo");
            assert_eq!(back.len(), SIZE);
            assert!(back == text);
        }
    });
}

/// A text of this many bytes, which serde copies as a whole.
fn text(length: usize) -> String {
    "x".repeat(length)
}

/// Sends what cannot travel, between two calls that can, all three written ahead; returns the failure.
async fn between_two<M, T>(checkout: &Addr<Checkout<Parcel>>, message: M) -> Failure
where
    Parcel: forkpool::Accepts<M>,
    M: Message<Result = Result<T, Failure>> + Serialize + Send + 'static,
    T: DeserializeOwned + Send + 'static,
{
    let worker = answer(checkout.send(Whoami(()))).await;
    let (before, spoilt, after) =
        (checkout.send(Swallow(text(10))), checkout.send(message), checkout.send(Whoami(())));
    let failure = failure(spoilt).await;
    assert_eq!(failure.kind(), FailureKind::Payload, "{failure}");
    assert_eq!(answer(before).await, Ok(10));
    assert_eq!(answer(after).await, worker);
    failure
}

/// C7
#[test]
fn a_message_that_cannot_be_encoded_or_decoded_fails_alone_and_names_its_type() {
    run(async {
        let pool = parcels();
        let checkout = pool.checkout().start();
        let failures = [
            ("Untagged", between_two(&checkout, SendUntagged(Untagged::Text("t".to_owned()))).await),
            ("Tagged", between_two(&checkout, SendTagged(Tagged::Number { number: 1 })).await),
            ("Flat", between_two(&checkout, SendFlat(Flat { number: 1, rest: HashMap::new() })).await),
            ("Skipping", between_two(&checkout, SendSkipping(Skipping { skipped: None, number: 1 })).await),
            ("OneWay", between_two(&checkout, SendOneWay(OneWay { number: 1, one_way: 1 })).await),
            ("Stubborn", between_two(&checkout, SendStubborn(Stubborn)).await),
            ("Explosive", between_two(&checkout, SendExplosive(Explosive)).await),
        ];
        for (name, failure) in failures {
            let type_name = format!("payloads::Send{name}");
            assert!(failure.to_string().contains(&type_name), "{type_name} in {failure}");
            assert_eq!(failure.call(), Some(format!("Send{name}").as_str()));
        }
        assert_eq!(pool.stats().forked, 1);
    });
}

/// C7
#[test]
fn a_reply_that_cannot_be_encoded_or_decoded_fails_alone_and_names_its_type() {
    run(async {
        let pool = parcels();
        let checkout = pool.checkout().start();
        let failures = [
            ("Untagged", between_two(&checkout, GetUntagged(1)).await),
            ("Tagged", between_two(&checkout, GetTagged(1)).await),
            ("Flat", between_two(&checkout, GetFlat(1)).await),
            ("Skipping", between_two(&checkout, GetSkipping(1)).await),
            ("OneWay", between_two(&checkout, GetOneWay(1)).await),
            ("Stubborn", between_two(&checkout, GetStubborn(1)).await),
            ("Trap", between_two(&checkout, GetTrap(1)).await),
        ];
        for (name, failure) in failures {
            let type_name = format!("payloads::{name}");
            assert!(failure.to_string().contains(&type_name), "{type_name} in {failure}");
            assert_eq!(failure.call(), Some(format!("Get{name}").as_str()));
        }
        // No error of a handler was among them: the worker stays.
        drop(checkout);
        assert!(answer(pool.send(Whoami(()))).await.is_ok());
        assert_eq!(pool.stats().forked, 1);
    });
}

/// C7
#[test]
fn what_cannot_travel_to_a_pool_or_from_it_fails_alone() {
    run(async {
        let pool = parcels();
        let worker = answer(pool.send(Whoami(()))).await;
        assert_eq!(
            failure(pool.send(SendFlat(Flat { number: 1, rest: HashMap::new() }))).await.kind(),
            FailureKind::Payload
        );
        assert_eq!(failure(pool.send(SendUntagged(Untagged::Number(1)))).await.kind(), FailureKind::Payload);
        assert_eq!(failure(pool.send(SendExplosive(Explosive))).await.kind(), FailureKind::Payload);
        assert_eq!(failure(pool.send(GetStubborn(1))).await.kind(), FailureKind::Payload);
        assert_eq!(failure(pool.send(GetTrap(1))).await.kind(), FailureKind::Payload);
        assert_eq!(answer(pool.send(Whoami(()))).await, worker);
    });
}

/// C7
#[test]
fn max_payload_counts_the_message_alone_to_the_byte() {
    run(async {
        let pool = builder::<Parcel>(()).workers(1..=1).max_payload(1000).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        // A message of n bytes takes two more for their number.
        assert_eq!(answer(checkout.send(Swallow(text(998)))).await, Ok(998));
        let failure = between_two(&checkout, Swallow(text(999))).await;
        assert!(failure.to_string().contains("1000"), "{failure}");
        between_two(&checkout, Swallow(text(1 << 20))).await;
        drop(checkout);
        assert_eq!(answer(pool.send(Swallow(text(998)))).await, Ok(998));
        assert_eq!(crate::harness::failure(pool.send(Swallow(text(999)))).await.kind(), FailureKind::Payload);
    });
}

/// C7
#[test]
fn max_payload_counts_the_reply_alone_to_the_byte() {
    run(async {
        let pool = builder::<Parcel>(()).workers(1..=1).max_payload(1000).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        // A reply of n bytes takes two more for their number and one that says `Ok`.
        assert_eq!(answer(checkout.send(Produce(997))).await, Ok(text(997)));
        let failure = between_two(&checkout, Produce(998)).await;
        assert!(failure.to_string().contains("1000"), "{failure}");
        between_two(&checkout, Produce(1 << 20)).await;
        drop(checkout);
        assert_eq!(answer(pool.send(Produce(997))).await, Ok(text(997)));
        assert_eq!(crate::harness::failure(pool.send(Produce(998))).await.kind(), FailureKind::Payload);
        assert_eq!(pool.stats().forked, 1);
    });
}

/// C7
#[test]
fn an_error_too_large_to_travel_is_a_failure_of_its_own_call() {
    run(async {
        let pool = builder::<Parcel>(()).workers(1..=1).max_payload(1000).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Whoami(()))).await;
        let failure = failure(checkout.send(ProduceError(2000))).await;
        assert_eq!(failure.kind(), FailureKind::Payload);
        assert_eq!(answer(checkout.send(Whoami(()))).await, worker);
    });
}

/// C7
#[test]
fn the_default_limit_is_64_mib_and_some_more() {
    const LIMIT: usize = (64 << 20) + (64 << 10);
    run(async {
        let pool = parcels();
        let checkout = pool.checkout().timeout(None).start();
        // Four bytes count the bytes of a message of this size.
        assert_eq!(answer(checkout.send(Swallow(text(LIMIT - 4)))).await, Ok(LIMIT - 4));
        between_two(&checkout, Swallow(text(LIMIT - 3))).await;
        assert_eq!(answer(checkout.send(Produce(LIMIT - 5))).await.map(|text| text.len()), Ok(LIMIT - 5));
        between_two(&checkout, Produce(LIMIT - 4)).await;
    });
}
