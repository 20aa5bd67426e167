//! Large values that travel without being copied: every size in both directions, full memory, deaths in the middle, and
//! workers that do what they like with the memory they share.

use std::borrow::Cow;
use std::io::{BufRead, Read};
use std::time::Duration;

use crate::harness::*;
use forkpool::Blob;
use forkpool::Transport;
use forkpool::prelude::*;
use rustix::process::Signal;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// C6
#[test]
fn blobs_of_every_size_arrive_as_they_were_in_both_directions() {
    run(async {
        let pool = start(mills());
        for length in [0, 1, KIB, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 70_000, MIB, 5 * MIB + 3, 33 * MIB] {
            let bytes = pattern(length);
            for argument in [Blob::from(bytes.clone()), blob(&pool, &bytes)] {
                let expected = sum(&bytes);
                let (found, in_place) = answer(pool.send(Sum(argument.clone()))).await.expect("its sum");
                assert_eq!((found, in_place), (expected, true), "{length} bytes");
                let negative = answer(pool.send(Negate(argument.clone()))).await.expect("a blob");
                assert_eq!(negative.len(), length);
                assert!(negative.bytes().iter().zip(&bytes).all(|(one, other)| *one == !other));
                let same = answer(pool.send(Return(argument))).await.expect("a blob");
                assert!(same == Blob::copy_of(&bytes), "{length} bytes");
            }
        }
        assert_eq!(pool.stats().blob_bytes, 0, "all were dropped");
    });
}

/// C6
#[test]
fn a_gigabyte_travels_there_and_back() {
    run(async {
        let pool = start(mills());
        let mut bytes = pool.blob(1 << 30).expect("there is room");
        assert_eq!(pool.blob(1 << 30).map(|_| ()).unwrap_err().kind(), FailureKind::Overloaded);
        bytes.append_zeroes(1 << 30).expect("there is room");
        bytes[0] = 1;
        bytes[(1 << 30) - 1] = 2;
        let blob = bytes.freeze();
        let back = answer(pool.send(Return(blob))).await.expect("a blob");
        let mut last = [0];
        assert_eq!((back.len(), back.read_at((1 << 30) - 1, &mut last), last), (1 << 30, 1, [2]));
        drop(back);
        assert_eq!(pool.stats().blob_bytes, 0);
        assert!(memory_of(std::process::id(), "RssShmem") < 128 << 20, "the system has it back");
    });
}

/// C6
#[test]
fn a_value_may_have_many_blobs_large_and_small() {
    run(async {
        let pool = start(mills());
        let pages = vec![
            blob(&pool, &pattern(MIB)),
            Blob::copy_of(b"small"),
            Blob::from(pattern(300 * KIB)),
            Blob::default(),
        ];
        let notes = Ok(blob(&pool, &pattern(20 * KIB)));
        let album = Album { title: "all".to_owned(), cover: Some(pages[0].clone()), pages, notes };
        let checkout = pool.checkout().start();
        for _ in 0..3 {
            assert_eq!(answer(checkout.send(Copy(album.clone()))).await.as_ref(), Ok(&album));
        }
        let json = serde_json::to_string(&album.pages[1]).expect("it is bytes as any others");
        assert_eq!(json, "[115,109,97,108,108]");
        assert_eq!(serde_json::from_str::<Blob>(&json).expect("and back"), album.pages[1]);
    });
}

/// C6
#[test]
fn results_are_read_piece_by_piece_and_outlive_their_worker_and_their_pool() {
    run(async {
        let pool = start(mills());
        let bytes = pattern(3 * MIB);
        let blob = answer(pool.send(Negate(Blob::from(bytes.clone())))).await.expect("a blob");
        let pid = answer(pool.send(Whoami(()))).await.expect("a pid");
        kill(pid);
        gone(pid).await;
        pool.stop(Duration::ZERO).await;
        drop(pool);
        let thread = std::thread::spawn(move || {
            let mut lines = 0;
            for line in blob.reader().split(0) {
                lines += usize::from(line.is_ok());
            }
            let mut some = [0; 10];
            assert_eq!(blob.read_at(3 * MIB - 4, &mut some), 4);
            assert_eq!(blob.read_at(3 * MIB, &mut some), 0);
            let mut all = Vec::new();
            blob.reader().read_to_end(&mut all).map(|_| (lines, all))
        });
        let (lines, all) = thread.join().expect("it reads").expect("it reads");
        assert!(all.iter().zip(&bytes).all(|(one, other)| *one == !other) && all.len() == bytes.len());
        assert_eq!(
            lines,
            all.iter().filter(|byte| **byte == 0).count() + usize::from(all.last() != Some(&0))
        );
    });
}

/// C6
#[test]
fn an_argument_that_a_worker_keeps_is_left_alone_until_it_forgets_it() {
    run(async {
        let pool = start(mills());
        let checkout = pool.checkout().start();
        let mut sums = Vec::new();
        for number in 1..=20_usize {
            // Each in the place of the one before, if that were free.
            let bytes = pattern(30_000 + number);
            sums.push(sum(&bytes));
            assert_eq!(answer(checkout.send(Keep(blob(&pool, &bytes)))).await, Ok(number));
            assert_eq!(answer(checkout.send(SumOfKept(()))).await.as_ref(), Ok(&sums));
        }
        let back = answer(checkout.send(ReturnKept(()))).await.expect("blobs");
        assert_eq!(back.iter().map(|blob| sum(&blob.bytes())).collect::<Vec<_>>(), sums);
        drop(back);
        assert_eq!(pool.stats().blob_bytes, 20 * 32 * KIB);
        // Also across checkouts.
        drop(checkout);
        settled(&pool, 1).await;
        assert_eq!(answer(pool.send(SumOfKept(()))).await.as_ref(), Ok(&sums));
        assert_eq!(answer(pool.send(Forget(()))).await, Ok(()));
        assert_eq!(pool.stats().blob_bytes, 0);
    });
}

/// C6
#[test]
fn a_result_that_its_worker_keeps_stays_as_it_is_when_the_application_has_dropped_it() {
    run(async {
        let pool = start(mills().blob_memory(128 * MIB));
        let checkout = pool.checkout().start();
        let mut sums = Vec::new();
        // Beyond 32 MiB memory goes back to the system as soon as nobody has it.
        for (length, byte) in [(40 * MIB, 7), (20 * KIB, 8), (33 * MIB, 9)] {
            let blob = answer(checkout.send(MakeAndKeep((length, byte)))).await.expect("a blob");
            assert_eq!((blob.len(), sum(&blob.bytes())), (length, length as u64 * u64::from(byte)));
            sums.push(length as u64 * u64::from(byte));
            drop(blob);
            assert_eq!(answer(checkout.send(SumOfKept(()))).await.as_ref(), Ok(&sums));
        }
        // Lent once more, and made anew where it was.
        let again = answer(checkout.send(ReturnKept(()))).await.expect("blobs");
        assert_eq!(again.iter().map(|blob| sum(&blob.bytes())).collect::<Vec<_>>(), sums);
        drop(again);
        assert_eq!(answer(checkout.send(SumOfKept(()))).await.as_ref(), Ok(&sums));
        assert_eq!(answer(checkout.send(Forget(()))).await, Ok(()));
        let whole = answer(checkout.send(Make((128 * MIB, 1)))).await.expect("all of it is free again");
        assert_eq!(whole.len(), 128 * MIB);
        assert!(matches!(whole.bytes(), Cow::Owned(_)), "it lies in the worker's memory");
        drop(whole);
        let worker = pool.stats().pids[0];
        let given_back = || memory_of(worker, "RssShmem") < 64 << 20;
        until("the system has it back although the worker sleeps", given_back).await;
    });
}

/// C7
#[test]
fn where_there_is_no_room_blobs_travel_in_their_message_or_fail_their_own_call() {
    run(async {
        let pool = start(mills().blob_memory(MIB).max_payload(3 * MIB).keep_after_error(true));
        let (fits, full) = (blob(&pool, &pattern(MIB)), pool.blob(20 * KIB).map(|_| ()).unwrap_err());
        assert_eq!((full.kind(), full.pool()), (FailureKind::Overloaded, Some("mill")));
        assert!(
            full.to_string()
                .contains("not enough blob_memory for 20480 bytes: 1048576 of 1048576 bytes are in use"),
            "{full}"
        );
        let checkout = pool.checkout().start();
        let inline = pattern(2 * MIB);
        assert_eq!(answer(checkout.send(Sum(inline.clone().into()))).await, Ok((sum(&inline), true)));
        let failure = answer(checkout.send(Sum(pattern(4 * MIB).into()))).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Payload);
        assert!(failure.to_string().contains("do not fit into blob_memory"), "{failure}");
        assert_eq!(answer(checkout.send(Return(fits.clone()))).await, Ok(fits));
        // The same for results.
        let made = answer(checkout.send(Make((700 * KIB, 7)))).await.expect("it has room");
        let more = answer(checkout.send(Make((700 * KIB, 8)))).await.expect("it is a part of its reply");
        let failure = answer(checkout.send(Make((4 * MIB, 9)))).await.unwrap_err();
        assert!(failure.to_string().contains("do not fit into blob_memory"), "{failure}");
        let failure = answer(checkout.send(Reserve(700 * KIB))).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Overloaded);
        assert_eq!((sum(&made.bytes()), sum(&more.bytes())), (700 * 1024 * 7, 700 * 1024 * 8));
        drop((made, more));
        assert_eq!(answer(checkout.send(Reserve(MIB))).await, Ok(MIB));
    });
}

/// C7
#[test]
fn a_worker_lends_more_results_than_it_has_numbers_for() {
    run(async {
        let pool = start(mills());
        let checkout = pool.checkout().start();
        let mut blobs = Vec::new();
        for number in 0..1100_usize {
            let blob = answer(checkout.send(Make((16 * KIB, number as u8)))).await.expect("a blob");
            blobs.push(blob);
        }
        for (number, blob) in blobs.iter().enumerate() {
            assert!(blob.bytes().iter().all(|byte| *byte == number as u8), "{number}");
        }
    });
}

/// C6
#[test]
fn memory_is_used_again_and_no_more_of_it_is_needed() {
    run(async {
        let pool = start(mills().blob_memory(8 * MIB));
        let checkout = pool.checkout().start();
        let bytes = pattern(3 * MIB);
        for round in 0..20 {
            let back = answer(checkout.send(Negate(blob(&pool, &bytes)))).await.expect("a blob");
            assert_eq!(back.len(), bytes.len(), "round {round}");
        }
        for length in (1..20).map(|round| round * 211_009 % (4 * MIB)) {
            let (one, two) = (pattern(length), pattern(length / 2));
            let (first, second) =
                (checkout.send(Negate(blob(&pool, &one))), checkout.send(Sum(two.clone().into())));
            let first = answer(first).await.expect("a blob");
            assert!(first.bytes().iter().zip(&one).all(|(one, other)| *one == !other));
            assert_eq!(answer(second).await.expect("a sum").0, sum(&two));
        }
        assert_eq!(pool.stats().blob_bytes, 0);
    });
}

/// T1
#[test]
fn what_a_worker_may_still_read_is_not_used_again_before_it_has_ended() {
    run(async {
        let pool = start(mills().kill_grace(PATIENCE));
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Whoami(()))).await.expect("a pid");
        // Stopped, it cannot heed the request to end.
        let slow = checkout.send(Within(
            Duration::from_millis(100),
            Linger((blob(&pool, &pattern(MIB)), Duration::from_secs(60))),
        ));
        until("it runs", || pool.stats().blob_bytes == MIB).await;
        signal(pid, Signal::STOP);
        assert_eq!(answer(slow).await.unwrap_err().kind(), FailureKind::Timeout);
        assert_eq!(pool.stats().blob_bytes, MIB, "it was told to end, and has not");
        kill(pid);
        until("it has ended", || pool.stats().blob_bytes == 0).await;
    });
}

/// W8
#[test]
fn blobs_are_given_back_however_a_call_ends() {
    run(async {
        let pool = start(mills());
        let bytes = pattern(MIB);
        let died = answer(pool.send(EndWith(blob(&pool, &bytes)))).await.unwrap_err();
        assert_eq!(died.kind(), FailureKind::Died);
        let failed = answer(pool.send(FailWith(blob(&pool, &bytes)))).await.unwrap_err();
        assert_eq!(failed.kind(), FailureKind::Task);
        let checkout = pool.checkout().start();
        let ends = checkout.send(EndWith(blob(&pool, &bytes)));
        let behind: Vec<_> = (0..5).map(|_| checkout.send(Sum(blob(&pool, &bytes)))).collect();
        assert_eq!(answer(ends).await.unwrap_err().kind(), FailureKind::Died);
        for call in behind {
            assert_eq!(answer(call).await.unwrap_err().kind(), FailureKind::Cleared);
        }
        until("all are back", || pool.stats().blob_bytes == 0).await;
        // One that is written and cleared.
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Whoami(()))).await.is_ok());
        let fails = checkout.send(FailWith(blob(&pool, &bytes)));
        let behind: Vec<_> = (0..5).map(|_| checkout.send(Sum(blob(&pool, &bytes)))).collect();
        assert_eq!(answer(fails).await.unwrap_err().kind(), FailureKind::Task);
        for call in behind {
            assert_eq!(answer(call).await.unwrap_err().kind(), FailureKind::Cleared);
        }
        drop(checkout);
        until("all are back", || pool.stats().blob_bytes == 0).await;
        // One that nobody waits for.
        let pool = start(mills());
        drop(pool.send(Negate(blob(&pool, &bytes))));
        until("it is back", || pool.stats().blob_bytes == 0).await;
    });
}

/// P8
#[test]
fn a_call_whose_worker_died_before_it_began_takes_its_blobs_along() {
    run(async {
        let pool = start(mills().workers(1..=2));
        let bytes = pattern(MIB);
        let mut pid = answer(pool.send(Whoami(()))).await.expect("a pid");
        for _ in 0..30 {
            until("it is given back", || pool.stats().leased == 0).await;
            kill(pid);
            let checkout = pool.checkout().start();
            let asked = checkout.send(Sum(blob(&pool, &bytes)));
            assert_eq!(answer(asked).await, Ok((sum(&bytes), true)));
            pid = answer(checkout.send(Whoami(()))).await.expect("a pid");
        }
        until("all are back", || pool.stats().blob_bytes == 0).await;
    });
}

/// E9
#[test]
fn the_same_blob_is_the_same_call_wherever_it_lies() {
    run(async {
        let pool = start(mills().max_kills(2));
        let deadly = pattern(MIB);
        let mut kept = Vec::new();
        let mut kinds = Vec::new();
        for _ in 0..3 {
            // Each lies elsewhere.
            let blob = blob(&pool, &deadly);
            kept.push(blob.clone());
            kinds.push(answer(pool.send(EndWith(blob))).await.unwrap_err().kind());
        }
        assert_eq!(kinds, [FailureKind::Died, FailureKind::Died, FailureKind::Quarantined]);
        drop(kept);
        let mut other = deadly.clone();
        other[MIB - 1] += 1;
        let failure = answer(pool.send(EndWith(blob(&pool, &other)))).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Died, "it lies where another did, and is another");
    });
}

/// W8
#[test]
fn a_worker_cannot_write_to_what_it_was_lent() {
    run(async {
        let pool = start(mills());
        let bytes = blob(&pool, &pattern(MIB));
        assert_eq!(answer(pool.send(Deface(bytes.clone()))).await, Ok(false));
        assert_eq!(*bytes.bytes(), *pattern(MIB));
        let pid = answer(pool.send(Whoami(()))).await.expect("a pid");
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("mappings");
        let arena = maps.lines().find(|line| line.contains("/memfd:forkpool-blobs")).expect("the arena");
        assert!(arena.contains(" r--s "), "{arena}");
        let open = descriptors_of(pid);
        assert!(
            !open.values().any(|target| target.contains("memfd")),
            "it has no way to another mapping: {open:?}"
        );
    });
}

/// W8
#[test]
fn a_result_that_its_worker_goes_on_changing_makes_its_bytes_wrong_and_nothing_else() {
    run(async {
        let pool = start(mills());
        let blob = answer(pool.send(Flicker(256 * KIB))).await.expect("a blob");
        let first = blob.to_vec();
        until("it changes", || blob.to_vec() != first).await;
        for _ in 0..20 {
            let bytes = blob.bytes();
            let (once, again) = (sum(&bytes), sum(&bytes));
            assert_eq!(once, again, "what was taken stays as it is");
            let mut reader = blob.reader();
            while let Ok([_, ..]) = reader.fill_buf() {
                let piece = reader.fill_buf().map(<[u8]>::to_vec).expect("a piece");
                assert_eq!(reader.fill_buf().expect("a piece"), piece, "and so does what is lent");
                reader.consume(piece.len());
            }
        }
        assert!(answer(pool.send(Whoami(()))).await.is_ok());
    });
}

/// W8
#[test]
fn a_worker_that_lends_what_it_does_not_have_breaks_the_protocol() {
    // See docs/WIRE.md: what a worker lends, of its own (slot, start, length) or given (start), and what it holds.
    const TABLE: [(&str, &[u8]); 7] = [
        ("a number that there is not", &[5, 1, 0, 0x80, 0x08, 0, 1, 0]),
        ("what begins within a page", &[5, 1, 0, 0, 1, 1, 0]),
        ("what begins behind the end", &[5, 1, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 1, 0]),
        ("what ends behind the end", &[5, 1, 0, 0, 0, 0x81, 0x80, 0x80, 0x80, 0x04, 0]),
        (
            "what ends behind all numbers",
            &[5, 1, 0, 0, 0x80, 0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0],
        ),
        ("what it was not given", &[5, 1, 1, 0, 0]),
        ("that it holds what it was not given", &[5, 0, 1, 1, 0]),
    ];
    run(async {
        let pool = rogues();
        for (what, body) in TABLE {
            let mut frame = u32::try_from(body.len()).expect("a few").to_le_bytes().to_vec();
            frame.extend_from_slice(body);
            let checkout = pool.checkout().start();
            let failure = rogue_failure(checkout.send(Deed::Babble(frame))).await;
            assert_eq!(failure.kind(), FailureKind::Protocol, "{what}");
            assert!(failure.to_string().contains("a blob that it"), "{what}: {failure}");
        }
        assert!(answer(pool.send(Deed::Nothing)).await.is_ok());
    });
}

/// C6
#[test]
fn a_pool_without_memory_for_blobs_sends_them_in_its_messages() {
    run(async {
        let pool = start(mills().blob_memory(0));
        let bytes = pattern(2 * MIB);
        assert_eq!(answer(pool.send(Sum(blob(&pool, &bytes)))).await, Ok((sum(&bytes), true)));
        let back = answer(pool.send(Negate(bytes.clone().into()))).await.expect("a blob");
        assert!(matches!(back.bytes(), Cow::Borrowed(_)), "it was in its reply");
        assert_eq!(pool.stats().blob_bytes, 0);
    });
}

/// C6
#[test]
fn a_blob_of_one_pool_is_sent_to_workers_of_another() {
    run(async {
        let (one, other) = (start(mills()), start(mills().transport(Transport::Socket)));
        let bytes = pattern(MIB);
        let argument = blob(&one, &bytes);
        assert_eq!(answer(other.send(Sum(argument.clone()))).await, Ok((sum(&bytes), true)));
        let result = answer(one.send(Negate(argument))).await.expect("a blob");
        let again = answer(other.send(Negate(result))).await.expect("a blob");
        assert!(again == Blob::from(bytes));
    });
}

/// C6: wherever the bytes are.
#[test]
fn there_is_nothing_to_read_beyond_the_end() {
    run(async {
        let pool = start(mills());
        let result = answer(pool.send(Make((20_000, 7)))).await.expect("a blob");
        let argument = blob(&pool, &[7; 20_000]);
        for blob in [result, argument, vec![7; 20_000].into()] {
            let mut into = [1; 10];
            for at in [20_000, 20_001, usize::MAX] {
                assert_eq!(blob.read_at(at, &mut into), 0);
            }
            assert_eq!(blob.read_at(19_995, &mut into), 5);
            assert_eq!(into, [7, 7, 7, 7, 7, 1, 1, 1, 1, 1]);
            assert_eq!(blob.read_at(0, &mut []), 0);
        }
    });
}
