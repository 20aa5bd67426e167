//! The fuzzers' bounded run: every stored input, and thousands of mutants of inputs and of real messages.

use std::path::PathBuf;

use super::messages::Draw;
use super::*;
use crate::failure::FailureKind;
use crate::testing::seeded_rng::{SeededRng, seeds};

type Target = (&'static str, fn(&[u8]), fn(&mut SeededRng) -> Vec<u8>);

const TARGETS: [Target; 3] = [
    ("heard_by_the_host", heard_by_the_host, said_to_the_host),
    ("heard_from_the_host", heard_from_the_host, said_by_the_host),
    ("hostile_rings", hostile_rings, scribbled),
];

/// Inputs that are stored for each target.
const STORED: u64 = 48;

fn say<T: Draw + Serialize>(out: &mut Vec<u8>, chance: &mut SeededRng, payload: bool) {
    let message = T::draw(chance);
    let said = frame::append_with(out, &message, |out| {
        if payload { frame::encode(out, &sample(chance), LIMIT) } else { Ok(()) }
    });
    assert_eq!(said, Ok(()));
}

fn sample(chance: &mut SeededRng) -> Result<Sample, Failure> {
    let texts = || ["", "outer", "inner"].map(str::to_owned);
    Ok(match chance.below(6) {
        0 => Sample::Unit,
        1 => Sample::Numbers(u8::MAX, i16::MIN, u32::MAX, i64::MIN, u128::MAX),
        2 => Sample::Texts { one: "one".to_owned(), many: texts().to_vec(), bytes: vec![255; 9] },
        3 => Sample::Options(Some(true), Some('ß'), (None, [0, u16::MAX])),
        4 => Sample::Map((0..).zip(texts()).collect()),
        _ => return Err(Failure::of(FailureKind::Task, "no").with_chain(&texts())),
    })
}

fn said_to_the_host(chance: &mut SeededRng) -> Vec<u8> {
    let mut out = vec![u8::draw(chance)];
    for _ in 0..1 + chance.below(3) {
        let payload = bool::draw(chance);
        match chance.happens(700) {
            true => say::<FromWorker>(&mut out, chance, payload),
            false => say::<FromServer>(&mut out, chance, false),
        }
    }
    out
}

fn said_by_the_host(chance: &mut SeededRng) -> Vec<u8> {
    let mut out = vec![u8::draw(chance)];
    for _ in 0..1 + chance.below(3) {
        match chance.happens(700) {
            true => say::<ToWorker>(&mut out, chance, true),
            false => say::<ToServer>(&mut out, chance, false),
        }
    }
    out
}

fn scribbled(chance: &mut SeededRng) -> Vec<u8> {
    (0..6 * (1 + chance.below(12))).map(|_| chance.next() as u8).collect()
}

/// Flips, lies about lengths, cuts, repeats and splices.
fn mutate(input: &mut Vec<u8>, other: &[u8], chance: &mut SeededRng) {
    for _ in 0..1 + chance.below(3) {
        let at = chance.below(input.len().max(1));
        match chance.below(6) {
            0 if !input.is_empty() => input[at] ^= 1 << chance.below(8),
            1 if !input.is_empty() => input[at] = chance.pick(&[0, 1, 2, 127, 128, 255]),
            // The length of the first frame.
            2 if input.len() > 5 => input[1 + chance.below(4)] = u8::draw(chance),
            3 => input.truncate(at),
            4 => input.extend_from_within(at..),
            _ => {
                input.truncate(at);
                input.extend_from_slice(&other[chance.below(other.len().max(1)).min(other.len())..]);
            }
        }
        input.truncate(LIMIT);
    }
}

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// What lies in the stored corpus; nothing where only the packed crate is there.
fn stored(target: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder(target)).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("an input that can be read")).collect()
}

#[test]
fn no_bytes_of_a_stranger_s_do_harm() {
    for (name, target, generate) in TARGETS {
        let corpus = stored(name);
        corpus.iter().for_each(|input| target(input));
        for seed in seeds(0..20_000) {
            let mut chance = SeededRng::new(seed);
            let (mut input, other) = (generate(&mut chance), generate(&mut chance));
            if !corpus.is_empty() && chance.happens(300) {
                input = corpus[chance.below(corpus.len())].clone();
            }
            if chance.happens(900) {
                mutate(&mut input, &other, &mut chance);
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
        let mut chance = SeededRng::new(seed);
        survives(&ToWorker::draw(&mut chance));
        survives(&FromWorker::draw(&mut chance));
        survives(&ToServer::draw(&mut chance));
        survives(&FromServer::draw(&mut chance));
    }
}

/// Writes the stored corpus anew, as is to be done after every change of a message.
#[test]
#[ignore = "writes into the source tree"]
fn the_stored_corpus_is_written_anew() {
    for (name, _, generate) in TARGETS {
        std::fs::create_dir_all(folder(name)).expect("a folder");
        for seed in 0..STORED {
            let mut chance = SeededRng::new(seed);
            let (mut input, other) = (generate(&mut chance), generate(&mut chance));
            if seed % 3 == 2 {
                mutate(&mut input, &other, &mut chance);
            }
            std::fs::write(folder(name).join(format!("seed-{seed:02}")), input).expect("a file");
        }
    }
}
