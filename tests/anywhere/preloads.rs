//! Preloads that leave threads.

use std::error::Error;
use std::time::Duration;

use forkpool::prelude::*;

use crate::harness::*;
use crate::picky::*;
use crate::*;

tests! {
    a_preload_that_leaves_threads_fails_and_names_them,
    a_preload_whose_threads_have_ended_is_fine,
    a_server_whose_preload_leaves_threads_says_so,
}

/// G7, W12
fn a_preload_that_leaves_threads_fails_and_names_them() {
    run(async {
        for (count, expected) in [
            (1, "the preload leaves 1 other thread (metrics-0) running"),
            (2, "the preload leaves 2 other threads (metrics-0, metrics-1) running"),
        ] {
            let pool =
                builder::<Picky>(Threads::Left(count)).workers(1..=2).start().expect("the pool starts");
            let failed = failure(pool.send(Who)).await;
            assert_eq!(failed.kind(), FailureKind::Setup, "{failed:#}");
            let told = failed.source().expect("why").to_string();
            assert!(told.starts_with(expected) && told.contains("join them in preload"), "{told}");
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// G7: a thread that was joined may still be listed for a moment.
fn a_preload_whose_threads_have_ended_is_fine() {
    run(async {
        for _ in 0..10 {
            let pool = builder::<Picky>(Threads::Joined).workers(1..=1).start().expect("the pool starts");
            answer(pool.send(Who)).await.expect("a worker");
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// G7
fn a_server_whose_preload_leaves_threads_says_so() {
    run(async {
        let place = Place::new();
        let mut server = application("server threads=3");
        let told = server.says("refused: ");
        let expected =
            "the preload failed: the preload leaves 3 other threads (metrics-0, metrics-1, metrics-2)";
        assert!(told.contains(expected), "{told}");
        assert!(server.ends().success());
        assert!(!place.0.exists(), "it leaves no socket");
    });
}
