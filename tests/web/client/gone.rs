//! What `ClientGone` sees, by the policy and the way in which a client leaves.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::{App, HttpServer};
use forkpool::web::on_connect;
use tokio::io::AsyncWriteExt;

use super::h2;
use super::stage::*;
use crate::harness::*;
use crate::service::{Client, Service};

const POLICIES: [&str; 3] = ["ignore", "reset", "half-close"];

/// For each way to leave what becomes of a handler with each of the policies.
const HTTP1: [(Leaving, [Fate; 3]); 3] = [
    (Leaving::Close, [Fate::Finished, Fate::Finished, Fate::Told]),
    (Leaving::HalfClose, [Fate::Finished, Fate::Finished, Fate::Told]),
    (Leaving::HalfCloseThenReset, [Fate::Finished, Fate::Told, Fate::Told]),
];

/// H2
#[test]
fn what_is_seen_of_a_client_of_http1() {
    for (leaving, fates) in HTTP1 {
        for (policy, expected) in POLICIES.into_iter().zip(fates) {
            assert_eq!(run(of_http1(leaving, policy)), expected, "{leaving:?}, {policy}");
        }
    }
}

/// H2: actix-web itself drops such a handler, unless `ClientGone` is first.
#[test]
fn a_reset_ends_a_handler_of_http1_with_each_policy() {
    assert_eq!(run(of_http1(Leaving::Reset, "ignore")), Fate::Dropped);
    for policy in ["reset", "half-close"] {
        let fate = run(of_http1(Leaving::Reset, policy));
        assert!(matches!(fate, Fate::Told | Fate::Dropped), "{policy}: {fate:?}");
    }
}

async fn of_http1(leaving: Leaving, policy: &str) -> Fate {
    let stage = Stage::new();
    let service = serve(&stage, true, true);
    let client = begun(&service, &stage, &format!("/watch/{policy}")).await.0;
    let port = client.local_addr().expect("it is connected").port();
    let first = if leaving == Leaving::HalfCloseThenReset { Leaving::HalfClose } else { leaving };
    let mut kept = leave(client, first).await;
    kernel_knows(service.address, port).await;
    settle(&service).await;
    if leaving == Leaving::HalfCloseThenReset
        && let Some(client) = kept.take()
    {
        leave(client, Leaving::Reset).await;
        settle(&service).await;
    }
    let fate = stage.fate().await;
    if let Some(mut kept) = kept {
        assert!(
            rest(&mut kept).await.is_some_and(|answer| answer.ends_with(b"done")),
            "half of it still reads"
        );
    }
    service.stop().await;
    fate
}

const HTTP2: [(Leaving, Fate); 3] =
    [(Leaving::Close, Fate::Told), (Leaving::Reset, Fate::Told), (Leaving::ResetStream, Fate::Finished)];

/// H2: the policies are of HTTP/1. A stream that is reset cannot be seen.
#[test]
fn what_is_seen_of_a_client_of_http2() {
    for (leaving, expected) in HTTP2 {
        for policy in POLICIES {
            assert_eq!(run(of_http2(leaving, policy)), expected, "{leaving:?}, {policy}");
        }
    }
}

async fn of_http2(leaving: Leaving, policy: &str) -> Fate {
    let stage = Stage::new();
    let service = serve(&stage, true, true);
    let mut client = h2::Client::connect(service.address, leaving == Leaving::Reset).await;
    let response = client.get(&format!("/watch/{policy}")).await;
    assert_eq!(stage.next().await, Fate::Began);
    let kept = leave_http2(&service, client, response, leaving).await;
    let fate = stage.fate().await;
    if let Some(client) = kept {
        client.vanish().await;
    }
    service.stop().await;
    fate
}

/// H2
#[test]
fn all_requests_of_one_connection_are_told() {
    run(async {
        let stage = Stage::new();
        let service = serve(&stage, true, true);
        let mut client = h2::Client::connect(service.address, false).await;
        let mut responses = Vec::new();
        for _ in 0..20 {
            responses.push(client.get("/watch/reset").await);
            assert_eq!(stage.next().await, Fate::Began);
        }
        client.vanish().await;
        for _ in 0..20 {
            assert_eq!(stage.next().await, Fate::Told);
        }
        service.stop().await;
    });
}

/// H2: bytes that the server does not read hide neither end.
#[test]
fn a_reset_is_seen_behind_a_body_that_is_not_read() {
    run(async {
        let stage = Stage::new();
        let service = serve(&stage, true, true);
        let client = behind_a_body(&service, &stage, "/watch/reset").await;
        leave_with_reset(&service, client).await;
        assert_eq!(stage.next().await, Fate::Told);
        service.stop().await;
    });
}

/// H2
#[test]
fn an_end_is_seen_behind_requests_that_wait_for_their_turn() {
    for (policy, leaving) in [("half-close", Leaving::Close), ("half-close", Leaving::HalfClose)] {
        run(async {
            let stage = Stage::new();
            let service = serve(&stage, true, true);
            let mut client = begun(&service, &stage, &format!("/watch/{policy}")).await;
            for _ in 0..200 {
                client.send("GET", "/", &[], b"").await;
            }
            let _kept = leave(client.0, leaving).await;
            assert_eq!(stage.next().await, Fate::Told, "{leaving:?}");
            service.stop().await;
        });
    }
}

/// H2
#[test]
fn an_end_is_seen_in_the_middle_of_a_body() {
    run(async {
        let stage = Stage::new();
        let service = serve(&stage, true, true);
        let mut client = Client::connect(service.address).await.0;
        let head = "POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\n";
        bounded("a head", client.write_all(head.as_bytes())).await.expect("the server reads");
        assert_eq!(stage.next().await, Fate::Began);
        for _ in 0..50 {
            bounded("a part", client.write_all(&[0; 10_000])).await.expect("the server reads");
        }
        settle(&service).await;
        assert_eq!(stage.has_happened(), None);
        drop(client);
        assert_eq!(stage.next().await, Fate::Told);
        service.stop().await;
    });
}

/// The end of a client's data stays readable for ever, but is news only once.
#[test]
fn a_client_that_has_half_closed_keeps_nothing_busy() {
    run(async {
        let stage = Stage::new();
        let service = serve(&stage, true, true);
        let client = begun(&service, &stage, "/watch/reset").await.0;
        let port = client.local_addr().expect("it is connected").port();
        let mut client = leave(client, Leaving::HalfClose).await.expect("it is kept");
        kernel_knows(service.address, port).await;
        settle(&service).await;
        let began = std::time::Instant::now();
        let before = stage.polls.load(Ordering::Relaxed);
        for _ in 0..100 {
            settle(&service).await;
        }
        // It looks once per second.
        let most = 2 + 2 * began.elapsed().as_secs() as usize;
        let polls = stage.polls.load(Ordering::Relaxed) - before;
        assert!(polls <= most, "{polls} polls, and {most} are enough");
        stage.may_finish.add_permits(1);
        assert_eq!(stage.next().await, Fate::Finished);
        assert!(rest(&mut client).await.is_some_and(|answer| answer.ends_with(b"done")));
        service.stop().await;
    });
}

/// H2: of a client that falls silent nothing is reported, until the server gives its connection up.
#[test]
fn a_connection_that_the_server_gives_up_is_over() {
    run(async {
        let stage = Stage::new();
        let shared = stage.clone();
        let service = Service::start(move |listener| {
            let app = move || App::new().app_data(shared.clone()).configure(routes);
            let server = HttpServer::new(app).workers(1).disable_signals().on_connect(on_connect);
            Ok(server.keep_alive(Duration::from_secs(1)).listen_auto_h2c(listener)?.run())
        });
        let mut client = h2::Client::connect(service.address, false).await;
        let response = client.get("/watch/reset").await;
        assert_eq!(stage.next().await, Fate::Began);
        client.freeze();
        assert_eq!(stage.next().await, Fate::Told);
        drop(response);
        client.vanish().await;
        service.stop().await;
    });
}
