//! What becomes of a plain handler when its client leaves: facts about actix-web, without anything of forkpool.
//!
//! Documentation relies on each row. A row that fails after an update of actix-web is news, and no fault: the table in
//! the documentation of `ClientGone` has to follow.

use std::sync::atomic::Ordering;

use super::h2;
use super::stage::*;
use crate::harness::*;

/// A handler's end, and what its client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Dropped,
    /// It ran to its end, for nothing.
    Finished,
    /// It ran to its end, and the client has read its response.
    Answered,
}

const HTTP1: [(Leaving, bool, Outcome); 8] = [
    (Leaving::Close, true, Outcome::Finished),
    (Leaving::Close, false, Outcome::Dropped),
    (Leaving::Reset, true, Outcome::Dropped),
    (Leaving::Reset, false, Outcome::Dropped),
    (Leaving::HalfClose, true, Outcome::Answered),
    (Leaving::HalfClose, false, Outcome::Dropped),
    (Leaving::HalfCloseThenReset, true, Outcome::Finished),
    (Leaving::HalfCloseThenReset, false, Outcome::Dropped),
];

#[test]
fn what_becomes_of_a_handler_of_http1_when_its_client_leaves() {
    for (leaving, allows_half_closed, outcome) in HTTP1 {
        let name = format!("{leaving:?}, h1_allow_half_closed({allows_half_closed})");
        assert_eq!(run(of_http1(leaving, allows_half_closed)), outcome, "{name}");
    }
}

async fn of_http1(leaving: Leaving, allows_half_closed: bool) -> Outcome {
    let stage = Stage::new();
    let service = serve(&stage, false, allows_half_closed);
    let client = begun(&service, &stage, "/plain").await.0;
    let port = client.local_addr().expect("it is connected").port();
    let mut kept = match leaving {
        Leaving::HalfCloseThenReset => {
            let client = leave(client, Leaving::HalfClose).await.expect("it is kept");
            kernel_knows(service.address, port).await;
            settle(&service).await;
            leave(client, Leaving::Reset).await
        }
        at_once => leave(client, at_once).await,
    };
    kernel_knows(service.address, port).await;
    settle(&service).await;
    let fate = stage.fate().await;
    let read = match &mut kept {
        Some(kept) => rest(kept).await.unwrap_or_default(),
        None => Vec::new(),
    };
    service.stop().await;
    match fate {
        Fate::Dropped => {
            assert_eq!(read, b"", "no answer");
            Outcome::Dropped
        }
        Fate::Finished if read.ends_with(b"done") => Outcome::Answered,
        other => {
            assert_eq!(other, Fate::Finished);
            Outcome::Finished
        }
    }
}

const HTTP2: [Leaving; 3] = [Leaving::Close, Leaving::Reset, Leaving::ResetStream];

#[test]
fn what_becomes_of_a_handler_of_http2_when_its_client_leaves() {
    for leaving in HTTP2 {
        for allows_half_closed in [true, false] {
            let name = format!("{leaving:?}, h1_allow_half_closed({allows_half_closed})");
            assert_eq!(run(of_http2(leaving, allows_half_closed)), Fate::Finished, "{name}");
        }
    }
}

async fn of_http2(leaving: Leaving, allows_half_closed: bool) -> Fate {
    let stage = Stage::new();
    let service = serve(&stage, false, allows_half_closed);
    let mut client = h2::Client::connect(service.address, leaving == Leaving::Reset).await;
    let response = client.get("/plain").await;
    assert_eq!(stage.next().await, Fate::Began);
    let kept = leave_http2(&service, client, response, leaving).await;
    let fate = stage.fate().await;
    if let Some(client) = kept {
        client.vanish().await;
    }
    service.stop().await;
    fate
}

/// A body that its handler does not read holds everything behind it back, also from actix-web: it sees no reset.
#[test]
fn a_reset_behind_a_body_that_is_not_read_does_not_end_its_handler() {
    run(async {
        let stage = Stage::new();
        let service = serve(&stage, false, true);
        let client = behind_a_body(&service, &stage, "/plain").await;
        leave_with_reset(&service, client).await;
        assert_eq!(stage.has_happened(), None);
        stage.may_finish.add_permits(1);
        assert_eq!(stage.next().await, Fate::Finished);
        assert_eq!(stage.polls.load(Ordering::Relaxed), 0);
        service.stop().await;
    });
}
