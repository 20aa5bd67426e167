//! The fuzzers' bounded run: every stored input, and thousands of mutations of stored inputs and of real messages.

use std::path::PathBuf;

use super::messages::Draw;
use super::*;
use crate::failure::FailureKind;
use crate::testing::seeded_rng::{SeededRng, seeds};
use crate::wire::PROTOCOL;
use crate::wire::call::{ArenaSpan, Lending, Lent};
use crate::wire::control::{Hello, Signature};

pub(super) type Target = (&'static str, fn(&[u8]), fn(&mut SeededRng) -> Vec<u8>);

/// The decoders that keep nothing between two inputs.
const TARGETS: [Target; 3] = [
    ("received_by_host", received_by_host, generate_for_host),
    ("received_from_host", received_from_host, generate_from_host),
    ("hostile_rings", hostile_rings, generate_ring_writes),
];

/// The decoders with a state, and those of values that take more than their bytes if nothing prevents it.
pub(super) const STATEFUL: [Target; 5] = [
    ("lending", lending, generate_lending),
    ("logs", logs, generate_logs),
    ("gate", gate, generate_gate),
    ("conversation", conversation, generate_conversation),
    ("values", values, generate_values),
];

/// The number of inputs that are stored for each target.
const STORED_INPUTS: u64 = 48;

fn append_message<T: Draw + Serialize>(out: &mut Vec<u8>, rng: &mut SeededRng, payload: bool) {
    let message = T::draw(rng);
    let appended = frame::append_with(out, &message, |out| {
        if payload { frame::encode(out, &sample(rng), LIMITS) } else { Ok(()) }
    });
    assert_eq!(appended, Ok(()));
}

fn sample(rng: &mut SeededRng) -> Result<Sample, Failure> {
    let texts = || ["", "outer", "inner"].map(str::to_owned);
    Ok(match rng.below(6) {
        0 => Sample::Unit,
        1 => Sample::Numbers(u8::MAX, i16::MIN, u32::MAX, i64::MIN, u128::MAX),
        2 => Sample::Texts { one: "one".to_owned(), many: texts().to_vec(), bytes: vec![255; 9] },
        3 => Sample::Options(Some(true), Some('ß'), (None, [0, u16::MAX])),
        4 => Sample::Map((0..).zip(texts()).collect()),
        _ => return Err(Failure::of(FailureKind::Task, "no").with_chain(&texts())),
    })
}

fn generate_for_host(rng: &mut SeededRng) -> Vec<u8> {
    let mut out = vec![u8::draw(rng)];
    for _ in 0..1 + rng.below(3) {
        let payload = bool::draw(rng);
        match rng.happens(700) {
            true => append_message::<FromWorker>(&mut out, rng, payload),
            false => append_message::<FromServer>(&mut out, rng, false),
        }
    }
    out
}

fn generate_from_host(rng: &mut SeededRng) -> Vec<u8> {
    let mut out = vec![u8::draw(rng)];
    for _ in 0..1 + rng.below(3) {
        match rng.happens(700) {
            true => append_message::<ToWorker>(&mut out, rng, true),
            false => append_message::<ToServer>(&mut out, rng, false),
        }
    }
    out
}

/// Generates reports of blobs, of which most are possible.
fn generate_lending(rng: &mut SeededRng) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + rng.below(4) {
        let page = |rng: &mut SeededRng| (rng.below(12) * 4096) as u64;
        let lent = (0..rng.below(4)).map(|slot| match bool::draw(rng) {
            true => Lent::Given { start: page(rng) },
            false => Lent::Own {
                slot: slot as u32,
                span: ArenaSpan { start: page(rng), length: rng.below(30_000) as u64 },
            },
        });
        let lent = lent.collect();
        let held = bool::draw(rng).then(|| (0..rng.below(3)).map(|_| page(rng)).collect());
        frame::append(&mut out, &FromWorker::Lent(Lending { lent, held }));
    }
    out
}

fn generate_logs(rng: &mut SeededRng) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + rng.below(8) {
        frame::append(&mut out, &FromWorker::Logged(Draw::draw(rng)));
    }
    out
}

/// Generates steps of the host, with quiet workers for most of them.
fn generate_gate(rng: &mut SeededRng) -> Vec<u8> {
    (0..rng.below(600)).map(|_| if rng.happens(300) { 0 } else { u8::draw(rng) }).collect()
}

/// Generates a hello that the server accepts, and messages behind it.
fn generate_conversation(rng: &mut SeededRng) -> Vec<u8> {
    let mut out = vec![u8::draw(rng)];
    let mut hello = Hello::draw(rng);
    if rng.happens(800) {
        hello.protocol = PROTOCOL;
        hello.interface = vec![Signature { name: "Hash".to_owned(), message: 1, result: 2, error: 3 }];
    }
    frame::append(&mut out, &ToServer::Hello(hello));
    for _ in 0..rng.below(6) {
        frame::append(&mut out, &ToServer::draw(rng));
    }
    out
}

fn generate_values(rng: &mut SeededRng) -> Vec<u8> {
    (0..rng.below(300)).map(|_| rng.pick(&[0, 1, 1, 1, 2, 3, 9, 255])).collect()
}

fn generate_ring_writes(rng: &mut SeededRng) -> Vec<u8> {
    (0..6 * (1 + rng.below(12))).map(|_| rng.next() as u8).collect()
}

/// Flips bits, falsifies lengths, cuts, repeats and splices.
pub(super) fn mutate(input: &mut Vec<u8>, other: &[u8], rng: &mut SeededRng) {
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(input.len().max(1));
        match rng.below(6) {
            0 if !input.is_empty() => input[at] ^= 1 << rng.below(8),
            1 if !input.is_empty() => input[at] = rng.pick(&[0, 1, 2, 127, 128, 255]),
            // The length of the first frame.
            2 if input.len() > 5 => input[1 + rng.below(4)] = u8::draw(rng),
            3 => input.truncate(at),
            4 => input.extend_from_within(at..),
            _ => {
                input.truncate(at);
                input.extend_from_slice(&other[rng.below(other.len().max(1)).min(other.len())..]);
            }
        }
        input.truncate(BODY_LIMIT);
    }
}

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// Returns the stored corpus; empty in the packaged crate, which does not contain it.
pub(super) fn stored(target: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder(target)).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("an input that can be read")).collect()
}

#[test]
fn foreign_bytes_break_no_decoder() {
    for (name, target, generate) in TARGETS {
        let corpus = stored(name);
        corpus.iter().for_each(|input| target(input));
        for seed in seeds(0..20_000) {
            let mut rng = SeededRng::new(seed);
            let (mut input, other) = (generate(&mut rng), generate(&mut rng));
            if !corpus.is_empty() && rng.happens(300) {
                input = corpus[rng.below(corpus.len())].clone();
            }
            if rng.happens(900) {
                mutate(&mut input, &other, &mut rng);
            }
            let run = std::panic::AssertUnwindSafe(|| target(&input));
            if let Err(problem) = std::panic::catch_unwind(run) {
                eprintln!("{name}: {input:?}\nto rerun it: FORKPOOL_SEED={seed} cargo test --lib fuzz");
                std::panic::resume_unwind(problem);
            }
        }
    }
}

#[test]
fn every_message_is_decoded_to_what_was_encoded() {
    for seed in 0..2_000 {
        let mut rng = SeededRng::new(seed);
        assert_round_trip(&ToWorker::draw(&mut rng));
        assert_round_trip(&FromWorker::draw(&mut rng));
        assert_round_trip(&ToServer::draw(&mut rng));
        assert_round_trip(&FromServer::draw(&mut rng));
        assert_round_trip(&ToPredecessor::draw(&mut rng));
        assert_round_trip(&ToSuccessor::draw(&mut rng));
    }
}

/// Writes the stored corpus again; run it after every change of a message.
#[test]
#[ignore = "writes into the source tree"]
fn the_stored_corpus_is_written_anew() {
    for (name, _, generate) in TARGETS.into_iter().chain(STATEFUL) {
        std::fs::create_dir_all(folder(name)).expect("a folder");
        for seed in 0..STORED_INPUTS {
            let mut rng = SeededRng::new(seed);
            let (mut input, other) = (generate(&mut rng), generate(&mut rng));
            if seed % 3 == 2 {
                mutate(&mut input, &other, &mut rng);
            }
            std::fs::write(folder(name).join(format!("seed-{seed:02}")), input).expect("a file");
        }
    }
}
