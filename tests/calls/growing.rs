//! Blobs that take their memory as they are written.

use std::io::Write;

use crate::harness::*;
use forkpool::prelude::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// C11
#[test]
fn a_blob_that_grows_is_read_in_place_and_takes_what_it_has() {
    run(async {
        let pool = start(mills().blob_memory(64 * MIB));
        let bytes = pattern(5 * MIB + 3);
        let mut grown = pool.blob_up_to(30 * MIB);
        for piece in bytes.chunks(100_000) {
            let beside = pool.blob_up_to(30 * MIB);
            grown.write_all(piece).expect("there is room");
            assert!(pool.stats().blob_bytes <= 2 * grown.len().max(16 * KIB), "{grown:?}");
            drop(beside);
        }
        let grown = grown.freeze();
        assert_eq!(pool.stats().blob_bytes, (5 * MIB + 3).next_multiple_of(4 * KIB), "the rest is free");
        assert_eq!(answer(pool.send(Sum(grown))).await, Ok((sum(&bytes), true)));
        assert_eq!(pool.stats().blob_bytes, 0);
    });
}

/// C11
#[test]
fn blobs_that_may_grow_keep_no_room_from_others() {
    run(async {
        let pool = start(mills().blob_memory(64 * MIB));
        let mut announced: Vec<_> = (0..1000).map(|_| pool.blob_up_to(20 * MIB)).collect();
        announced.iter_mut().for_each(|blob| blob.write_all(b"ab").expect("there is room"));
        assert_eq!(pool.stats().blob_bytes, 0);
        let bytes = pattern(20 * MIB);
        assert_eq!(answer(pool.send(Sum(blob(&pool, &bytes)))).await, Ok((sum(&bytes), true)));
        // One that finds no more room fails alone, and what it has is free once it is dropped.
        let rest = pool.blob(50 * MIB).expect("there is room");
        let failed = announced[0].write_all(&bytes).expect_err("there is no room");
        let failure = failed.downcast::<Failure>().expect("it is a failure of the pool");
        assert_eq!((failure.kind(), failure.pool()), (FailureKind::Overloaded, Some("mill")));
        assert!(
            failure.to_string().contains("not enough blob_memory for a blob that has grown"),
            "{failure}"
        );
        assert_eq!((&*announced[0], pool.stats().blob_bytes), (&b"ab"[..], 50 * MIB));
        drop(rest);
        announced[0].write_all(&bytes[2..]).expect("there is room again");
        // What could never have room is not worth another attempt.
        let never = pool.blob(64 * MIB + 1).expect_err("there is no such room");
        assert_eq!((never.kind(), never.pool()), (FailureKind::Payload, Some("mill")));
        let text = "a blob of 67108865 bytes exceeds blob_memory, 67108864 bytes";
        assert!(never.to_string().contains(text), "{never}");
        assert_eq!(never.retry_after(), None);
        drop(announced);
        assert_eq!(pool.stats().blob_bytes, 0);
    });
}
