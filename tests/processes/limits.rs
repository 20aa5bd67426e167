//! Applications whose limits are lower than what they might take, or that lock all of their memory.

use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;
use forkpool::{SharedBytes, Transport};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

const MEBIBYTE: usize = 1 << 20;

/// An application with limits: a word, a number of bytes, and a word.
#[test]
#[ignore = "an application that other tests run"]
fn an_application() {
    let Some(role) = role() else {
        return;
    };
    let mut words = role.split_whitespace();
    let mut word = || words.next().expect("a word");
    let (limited, bytes) = (word(), word().parse::<usize>().expect("a number"));
    match limited {
        "file" => limit(Resource::Fsize, bytes as u64),
        "space" => limit(Resource::As, memory_of(std::process::id(), "VmSize") + bytes as u64),
        "locked" => {
            use rustix::mm::{MlockAllFlags, mlockall};
            // As much as the system lets it.
            if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
                return println!("skipped: mlockall: {error}");
            }
        }
        other => panic!("no limit {other:?}"),
    }
    System::new().block_on(serve(limited));
}

fn limit(resource: Resource, bytes: u64) {
    setrlimit(resource, Rlimit { current: Some(bytes), maximum: Some(bytes) }).expect("a limit");
}

/// Starts a pool, and has blobs mirrored that are small and large.
async fn serve(limited: &str) {
    let pool = match builder::<Shelf>(3 * MEBIBYTE).workers(1..=1).start() {
        Ok(pool) => pool,
        Err(error) => return println!("refused: {}", format!("{error:?}").replace('\n', " ")),
    };
    for (bytes, kind) in [(MEBIBYTE, "small"), (8 * MEBIBYTE, "large")] {
        let mirrored = match pool.blob(bytes) {
            Ok(mut blob) => {
                std::io::Write::write_all(&mut blob, &vec![7; bytes]).expect("a blob");
                let mirrored = answer(pool.send_within(PATIENCE, Reflect(blob.freeze()))).await;
                mirrored.map(|(_, mirrored)| {
                    mirrored.len() == bytes && mirrored.bytes().iter().all(|&byte| byte == 7)
                })
            }
            Err(failure) => Err(failure),
        };
        let outcome = mirrored.map_or_else(|failure| failure.to_string(), |is_whole| is_whole.to_string());
        println!("{kind}: {outcome}");
    }
    let (shared, _) = answer(pool.send(Reflect(Blob::default()))).await.expect("what is shared");
    println!("shared: {shared}");
    let locked = if limited == "locked" { memory_of(std::process::id(), "VmRSS") } else { 0 };
    println!("resident: {locked}");
    bounded("the end", pool.stop(Duration::ZERO)).await;
}

/// A worker whose preload has as many bytes to share as it is told.
struct Shelf;

/// Answers how many bytes are shared, and the blob.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(usize, Blob), Failure>")]
struct Reflect(Blob);

impl Actor for Shelf {
    type Context = WorkerContext<Self>;
}

impl Worker for Shelf {
    type Config = usize;

    fn setup(_: usize, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Shelf)
    }

    fn preload(bytes: &usize, shared: &mut Preload) -> Result<(), SetupError> {
        let bytes = std::io::Read::take(std::io::repeat(3), *bytes as u64);
        shared.put(SharedBytes::from_reader(bytes)?);
        Ok(())
    }
}

impl Handler<Reflect> for Shelf {
    type Result = Result<(usize, Blob), Failure>;

    fn handle(&mut self, Reflect(blob): Reflect, ctx: &mut WorkerContext<Self>) -> Self::Result {
        let shared = ctx.preloaded::<SharedBytes>().ok_or_else(|| Failure::task("nothing is there"))?;
        let shared = shared.iter().filter(|&&byte| byte == 3).count();
        let bytes = blob.bytes().to_vec();
        let mut copy = ctx.blob(bytes.len())?;
        std::io::Write::write_all(&mut copy, &bytes).map_err(|error| Failure::task(error.to_string()))?;
        Ok((shared, copy.freeze()))
    }
}

forkpool::interface!(Shelf { Reflect });
forkpool::boot!(Shelf);

fn application(role: &str) -> Application {
    Application::start("limits::an_application", role)
}

/// G12, G7: no process is ended by SIGXFSZ.
#[test]
fn a_start_names_the_limit_of_files_that_a_channel_does_not_fit_into() {
    run(async {
        for bytes in [0, 4096] {
            let mut application = application(&format!("file {bytes}"));
            let refused = application.says("refused: ");
            assert!(refused.contains("RLIMIT_FSIZE") && refused.contains("File too large"), "{refused}");
            assert!(application.ends().success());
        }
    });
}

/// G12: the memory of blobs, a worker's results, and what a preload shares are files as well.
#[test]
fn a_pool_takes_files_as_long_as_its_limit_permits() {
    run(async {
        let mut application = application(&format!("file {}", 2 * MEBIBYTE));
        assert_eq!(application.says("small: "), "true");
        let large = application.says("large: ");
        assert!(large.contains("exceeds blob_memory, 2097152 bytes"), "{large}");
        assert_eq!(application.says("shared: "), (3 * MEBIBYTE).to_string());
        assert!(application.ends().success());
    });
}

/// G12: a channel without rings is shorter.
#[test]
fn a_channel_over_sockets_fits_into_a_file_of_three_pages() {
    run(async {
        let mut application = application("file 12288");
        match transport() {
            Transport::Socket => {
                let small = application.says("small: ");
                assert!(small.contains("exceeds blob_memory, 12288 bytes"), "{small}");
            }
            _ => assert!(application.says("refused: ").contains("RLIMIT_FSIZE")),
        }
        assert!(application.ends().success());
    });
}

/// G12: what is reserved for blobs leaves room for the rest.
#[test]
fn a_pool_reserves_no_more_address_space_than_its_limit_permits() {
    run(async {
        let mut application = application(&format!("space {}", 400 * MEBIBYTE));
        for kind in ["small: ", "large: "] {
            assert_eq!(application.says(kind), "true", "{kind}");
        }
        assert_eq!(application.says("shared: "), (3 * MEBIBYTE).to_string());
        assert!(application.ends().success());
    });
}

/// G12: what is reserved for blobs is no memory before it is used.
#[test]
fn a_pool_of_an_application_that_locks_its_memory_locks_only_what_it_uses() {
    run(async {
        let mut application = application("locked 0");
        let Some(small) = application.says_either("skipped", "small: ") else {
            return println!("skipped: this process must not lock its memory");
        };
        assert_eq!(small, "true");
        let resident: usize = application.says("resident: ").parse().expect("a number");
        assert!(resident < 700 * MEBIBYTE, "{resident} bytes");
        assert!(application.ends().success());
    });
}

/// G12: a core dump would be a gigabyte for each mapping.
#[test]
fn what_is_reserved_for_blobs_is_no_part_of_a_dump() {
    run(async {
        let pool = start(mills());
        let worker = answer(pool.send(Whoami(()))).await.expect("a worker");
        let mut found = Vec::new();
        for pid in [std::process::id(), the_server().await, worker] {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("mappings");
            let mut name = "";
            for line in maps.lines() {
                let Some(flags) = line.strip_prefix("VmFlags:") else {
                    // The first line of a mapping has its addresses, and no other one begins so.
                    if line.split(' ').next().is_some_and(|addresses| addresses.contains('-')) {
                        name = line.split("/memfd:").nth(1).and_then(|it| it.split(' ').next()).unwrap_or("");
                    }
                    continue;
                };
                if ["forkpool-blobs", "forkpool-results"].contains(&name) {
                    assert!(flags.split_whitespace().any(|flag| flag == "dd"), "{pid} {name}: {flags}");
                    found.push(name.to_owned());
                }
            }
        }
        assert_eq!(found.len(), 4, "the arguments in all three, the results in one: {found:?}");
    });
}
