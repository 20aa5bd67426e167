//! Uploads over HTTP/2, where many share a connection.

use std::sync::atomic::Ordering;

use actix_web::web;
use forkpool::web::{BlobConfig, Config};

use crate::bodies::{LIMIT, MIB, PIECE, emptied, service};
use crate::harness::*;
use crate::service::{Client, Service};
use crate::slow_bodies::{HEADER, SHORT, narrow_pool, serve};

/// What a client does behind what it has sent of a body.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Ends,
    Resets,
    StandsStill,
}

/// Sends a request over HTTP/2 with this many bytes, as far as the server takes them; returns the status, or `None` if the
/// client is to reset its stream behind them. Without any it waits for the answer to the head alone.
async fn over_http2(
    requests: &mut h2::client::SendRequest<web::Bytes>,
    service: &Service,
    headers: &[(&str, String)],
    length: usize,
    then: Then,
) -> Option<u16> {
    let mut request = http::Request::builder().method("POST").uri(format!("http://{}/raw", service.address));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(()).expect("a request");
    bounded("a stream", std::future::poll_fn(|cx| requests.poll_ready(cx))).await.expect("it is open");
    let (answer, mut body) = requests.send_request(request, false).expect("it is open");
    let (piece, mut left) = (web::Bytes::from(pattern(PIECE)), length);
    while left > 0 {
        body.reserve_capacity(PIECE.min(left));
        let room = bounded("the server reads", std::future::poll_fn(|cx| body.poll_capacity(cx))).await;
        let Some(Ok(room)) = room else { break };
        let count = room.min(left).min(PIECE);
        if body.send_data(piece.slice(..count), false).is_err() {
            break;
        }
        left -= count;
    }
    if then == Then::Resets {
        body.send_reset(h2::Reason::CANCEL);
        return None;
    }
    if then == Then::Ends && length > 0 {
        // The server may have ended the stream.
        let _ = body.send_data(web::Bytes::new(), true);
    }
    let answer = bounded("a response", answer).await.expect("a response");
    Some(answer.status().as_u16())
}

/// H6
#[test]
fn over_http2_a_refused_upload_ends_its_stream_and_the_connection_stays() {
    run(async {
        let pool = start(mills());
        let (service, begun) = service(&pool);
        let socket = Client::connect(service.address).await.0;
        let (mut requests, connection) =
            bounded("HTTP/2", h2::client::handshake(socket)).await.expect("HTTP/2");
        let connection = actix_rt::spawn(connection);
        let announced = [("content-length", (21 * MIB).to_string())];
        let table = [
            ("announced", &announced[..], 0, Then::Ends, Some(413)),
            ("not announced", &[], 21 * MIB, Then::Ends, Some(413)),
            ("reset", &[], 10 * MIB, Then::Resets, None),
            ("taken", &[], LIMIT, Then::Ends, Some(200)),
        ];
        for (number, (what, headers, length, then, expected)) in table.into_iter().enumerate() {
            let status = over_http2(&mut requests, &service, headers, length, then).await;
            assert_eq!(status, expected, "{what}");
            until("it has begun", || begun.load(Ordering::Relaxed) == number + 1).await;
            emptied(&pool).await;
        }
        drop(requests);
        bounded("the connection ends", connection).await.expect("it does not panic").expect("it ends well");
        service.stop().await;
    });
}

/// H6, H3
#[test]
fn over_http2_an_upload_that_stands_still_is_408_and_the_connection_stays() {
    run(async {
        let pool = narrow_pool();
        let config = Config::default().deadline_header(HEADER);
        let of_header = [(HEADER, SHORT.as_millis().to_string())];
        for (idle, headers) in [(None, &of_header[..]), (Some(SHORT), &[])] {
            let service = serve(&pool, &config, &BlobConfig::default().idle_timeout(idle));
            let socket = Client::connect(service.address).await.0;
            let (mut requests, connection) =
                bounded("HTTP/2", h2::client::handshake(socket)).await.expect("HTTP/2");
            let connection = actix_rt::spawn(connection);
            let status = over_http2(&mut requests, &service, headers, 2 * MIB, Then::StandsStill).await;
            assert_eq!(status, Some(408), "{idle:?}");
            emptied(&pool).await;
            let status = over_http2(&mut requests, &service, &[], 4 * MIB, Then::Ends).await;
            assert_eq!(status, Some(200), "{idle:?}");
            drop(requests);
            bounded("the connection ends", connection)
                .await
                .expect("it does not panic")
                .expect("it ends well");
            service.stop().await;
        }
    });
}
