//! Uploads that stand still, or take longer than their requests have.

use std::time::{Duration, Instant};

use actix_multipart::form::MultipartFormConfig;
use actix_web::{App, Error, HttpServer, web};
use forkpool::prelude::*;
use forkpool::web::{self as bound, BlobBody, BlobConfig, Config};
use tokio::io::AsyncWriteExt;

use crate::bodies::{MIB, announced, checked, closed, emptied, form, head, uploads, write};
use crate::harness::*;
use crate::service::{Client, Service};

pub const HEADER: &str = "x-request-timeout-ms";

/// What clients announce, and what they send of it.
const ANNOUNCED: usize = 4 * MIB;
const SENT: usize = 2_000_000;

/// A deadline that passes while a client stands still, and not while another one sends 4 MiB.
pub const SHORT: Duration = Duration::from_secs(2);

/// The pool is extracted first, so it fixes the deadline.
async fn both(pool: bound::Pool<Mill>, body: BlobBody<Mill>) -> Result<String, Error> {
    checked(pool.handle(), body.into_inner()).await
}

/// A service, also over HTTP/2, with these limits.
pub fn serve(pool: &PoolHandle<Mill>, config: &Config, bodies: &BlobConfig) -> Service {
    let (data, config, bodies) = (web::Data::new(pool.clone()), config.clone(), bodies.clone());
    Service::start(|listener| {
        let app = move || {
            let forms = MultipartFormConfig::default().error_handler(bound::multipart_error);
            App::new()
                .app_data(data.clone())
                .app_data(config.clone())
                .app_data(bodies.clone())
                .app_data(forms)
                .configure(uploads)
                .route("/both", web::post().to(both))
        };
        Ok(HttpServer::new(app).workers(1).disable_signals().listen_auto_h2c(listener)?.run())
    })
}

/// A pool that has room for two of the uploads, also if they arrive side by side: one that has grown up to the other is
/// copied to another place of twice its size.
pub fn narrow_pool() -> PoolHandle<Mill> {
    start(mills().blob_memory(4 * ANNOUNCED))
}

fn header() -> String {
    format!("{HEADER}: {}\r\n", SHORT.as_millis())
}

/// Writes a part of an upload of this kind and stands still; the connection stays open.
async fn stalled(service: &Service, kind: &str, headers: &str) -> Client {
    let length = format!("content-length: {ANNOUNCED}\r\n");
    let mut client = match kind {
        "form" => form(service, "/small", ANNOUNCED, headers).await.0,
        "chunked" => {
            let headers = format!("transfer-encoding: chunked\r\n{headers}");
            let mut client = head(service, "/raw", &headers).await;
            client.0.write_all(format!("{ANNOUNCED:x}\r\n").as_bytes()).await.expect("the server reads");
            client
        }
        path => head(service, path, &format!("{length}{headers}")).await,
    };
    write(&mut client, SENT, || ()).await;
    client
}

/// Waits until an upload of a client that does not stand still is done. On a busy machine one may take longer than it has.
async fn another_arrives(service: &Service) {
    bounded("an upload arrives", async {
        loop {
            let mut client = announced(service, "/raw", ANNOUNCED).await;
            write(&mut client, ANNOUNCED, || ()).await;
            // A server that has given up an upload may have closed before the client has read why.
            match client.read_answer().await {
                Ok(answer) if answer.status == 200 => break,
                Ok(answer) => assert_eq!(answer.status, 408),
                Err(_) => {}
            }
        }
    })
    .await;
}

/// H6, H3
#[test]
fn an_upload_that_stands_still_is_408_and_its_memory_is_free() {
    run(async {
        let late = format!("the upload is not complete within the {SHORT:?} that its request has");
        let still = format!("no byte of the upload has arrived for {SHORT:?}");
        let endless = BlobConfig::default().idle_timeout(None);
        for (way, config, bodies, headers, text) in [
            ("header", Config::default().deadline_header(HEADER), &endless, header(), &late),
            ("most", Config::default().most(SHORT), &endless, String::new(), &late),
            ("idle", Config::default(), &BlobConfig::default().idle_timeout(SHORT), String::new(), &still),
        ] {
            let pool = narrow_pool();
            let service = serve(&pool, &config, bodies);
            for kinds in [["/raw", "form"], ["chunked", "/both"]] {
                let mut clients = Vec::new();
                for kind in kinds {
                    clients.push((kind, stalled(&service, kind, &headers).await));
                }
                for (kind, mut client) in clients {
                    let answer = client.answer().await;
                    assert_eq!((answer.status, &answer.text()), (408, text), "{way}, {kind}");
                    assert_eq!(answer.headers["connection"], "close", "{way}, {kind}");
                    closed(client).await;
                }
                emptied(&pool).await;
                another_arrives(&service).await;
            }
            service.stop().await;
        }
    });
}

/// H6, H3
#[test]
fn an_upload_byte_by_byte_ends_at_the_deadline() {
    run(async {
        let pool = narrow_pool();
        let service = serve(&pool, &Config::default().most(SHORT), &BlobConfig::default());
        for kind in ["/raw", "form"] {
            let client = stalled(&service, kind, "").await;
            let (reading, mut writing) = client.0.into_split();
            let dripping = actix_rt::spawn(async move {
                // Its pace, much below what is idle.
                while writing.write_all(b"a").await.is_ok() {
                    actix_rt::time::sleep(Duration::from_millis(5)).await;
                }
                writing
            });
            let mut status = [0; 12];
            let mut reading = reading;
            let read = tokio::io::AsyncReadExt::read_exact(&mut reading, &mut status);
            bounded("a response", read).await.expect("a response");
            assert_eq!(&status, b"HTTP/1.1 408", "{kind}");
            emptied(&pool).await;
            bounded("the server closes", dripping).await.expect("it ends");
        }
        another_arrives(&service).await;
        service.stop().await;
    });
}

/// H6
#[test]
fn an_upload_that_is_slow_and_steady_arrives() {
    run(async {
        let pool = narrow_pool();
        let bodies = BlobConfig::default().idle_timeout(SHORT);
        let service = serve(&pool, &Config::default().most(PATIENCE), &bodies);
        for kind in ["/raw", "form"] {
            let (mut client, end) = match kind {
                "form" => form(&service, "/small", ANNOUNCED, "").await,
                path => (announced(&service, path, ANNOUNCED).await, ""),
            };
            // Longer than it may stand still, a byte at a time.
            let (began, mut written) = (Instant::now(), 0);
            while began.elapsed() < SHORT * 3 / 2 {
                client.0.write_all(&pattern(1)).await.expect("the server reads");
                written += 1;
                actix_rt::time::sleep(SHORT / 40).await;
            }
            write(&mut client, ANNOUNCED - written, || ()).await;
            client.0.write_all(end.as_bytes()).await.expect("the server reads");
            let answer = client.answer().await;
            assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
            assert!(answer.text().starts_with(&format!("{ANNOUNCED} ")), "{kind}: {}", answer.text());
            assert!(!answer.headers.contains_key("connection"), "{kind}: the connection stays");
        }
        emptied(&pool).await;
        service.stop().await;
    });
}

/// H3
#[test]
fn an_upload_whose_deadline_is_no_time_is_a_bad_request() {
    run(async {
        let pool = narrow_pool();
        let service = serve(&pool, &Config::default().deadline_header(HEADER), &BlobConfig::default());
        for kind in ["/raw", "form", "chunked"] {
            let mut client = stalled(&service, kind, &format!("{HEADER}: soon\r\n")).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 400, "{kind}");
            assert!(answer.text().contains(HEADER), "{kind}: {}", answer.text());
            closed(client).await;
        }
        service.stop().await;
    });
}
