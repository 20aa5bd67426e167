//! Uploads over HTTP/2, where many share a connection.

use std::sync::atomic::Ordering;

use actix_web::web;

use crate::bodies::{LIMIT, MIB, PIECE, emptied, service};
use crate::harness::*;
use crate::service::{Client, Service};

/// Sends a request over HTTP/2 with this body, as far as the server takes it; returns the status, or `None` if the client
/// is to reset its stream behind the body. Without a body it waits for the answer to the head alone.
async fn over_http2(
    requests: &mut h2::client::SendRequest<web::Bytes>,
    service: &Service,
    announced: Option<usize>,
    length: usize,
    ends: bool,
) -> Option<u16> {
    let mut request = http::Request::builder().method("POST").uri(format!("http://{}/raw", service.address));
    if let Some(announced) = announced {
        request = request.header("content-length", announced);
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
    if !ends {
        body.send_reset(h2::Reason::CANCEL);
        return None;
    }
    if length > 0 {
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
        let table = [
            ("announced", Some(21 * MIB), 0, Some(413)),
            ("not announced", None, 21 * MIB, Some(413)),
            ("reset", None, 10 * MIB, None),
            ("taken", None, LIMIT, Some(200)),
        ];
        for (number, (what, announced, length, expected)) in table.into_iter().enumerate() {
            let status = over_http2(&mut requests, &service, announced, length, expected.is_some()).await;
            assert_eq!(status, expected, "{what}");
            until("it has begun", || begun.load(Ordering::Relaxed) == number + 1).await;
            emptied(&pool).await;
        }
        drop(requests);
        bounded("the connection ends", connection).await.expect("it does not panic").expect("it ends well");
        service.stop().await;
    });
}
