//! Bodies of requests that go where workers read them, and blobs as bodies of responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_multipart::form::{MultipartForm, MultipartFormConfig};
use actix_web::dev::Service as _;
use actix_web::error::ErrorInternalServerError;
use actix_web::{App, Error, HttpResponse, HttpServer, web};
use forkpool::prelude::*;
use forkpool::web::{BlobBody, BlobConfig, BlobField};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;
use crate::service::{Client, Service};

const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;
/// What the endpoints of these tests take.
pub const LIMIT: usize = 20 * MIB;

/// What a client sends at once. Its sum times the number of pieces is what a worker has to find.
pub const PIECE: usize = 64 * KIB;

async fn raw(pool: web::Data<PoolHandle<Mill>>, body: BlobBody<Mill>) -> Result<String, Error> {
    checked(&pool, body.into_inner()).await
}

// shown: form
#[derive(MultipartForm)]
struct Small {
    #[multipart(limit = "20 MiB")]
    image: BlobField<Mill>,
}
// end: form

#[derive(MultipartForm)]
struct Large {
    image: BlobField<Mill>,
}

async fn small(pool: web::Data<PoolHandle<Mill>>, form: MultipartForm<Small>) -> Result<String, Error> {
    checked(&pool, form.into_inner().image.into_inner()).await
}

async fn large(pool: web::Data<PoolHandle<Mill>>, form: MultipartForm<Large>) -> Result<String, Error> {
    let image = form.into_inner().image;
    assert_eq!(image.content_type().map(ToString::to_string).as_deref(), Some("image/png"));
    let name = image.file_name().unwrap_or_default().to_owned();
    Ok(format!("{name}: {}", checked(&pool, image.into_inner()).await?))
}

/// What a worker makes of a blob: its length, its sum, and whether it was read in place.
pub async fn checked(pool: &PoolHandle<Mill>, blob: Blob) -> Result<String, Error> {
    let length = blob.len();
    let (sum, in_place) = answer(pool.send(Sum(blob))).await.map_err(ErrorInternalServerError)?;
    Ok(format!("{length} {sum} {in_place}"))
}

async fn echo(body: BlobBody<Mill>) -> HttpResponse {
    HttpResponse::Ok().body(forkpool::web::body(body.into_inner()))
}

async fn made(pool: web::Data<PoolHandle<Mill>>, length: web::Path<usize>) -> HttpResponse {
    let blob = answer(pool.send(Make((length.into_inner(), 7)))).await.expect("a blob");
    HttpResponse::Ok().body(forkpool::web::body(blob))
}

/// The endpoints of a body and of a form.
pub fn uploads(app: &mut web::ServiceConfig) {
    app.route("/raw", web::post().to(raw)).route("/small", web::post().to(small));
}

/// The service of these tests over HTTP/1, and over HTTP/2 for a client that begins with it; and how many requests it has
/// begun.
pub fn service(pool: &PoolHandle<Mill>) -> (Service, Arc<AtomicUsize>) {
    let (data, begun) = (web::Data::new(pool.clone()), Arc::new(AtomicUsize::new(0)));
    let count = begun.clone();
    let service = Service::start(|listener| {
        let app = move || {
            let count = count.clone();
            App::new()
                .app_data(data.clone())
                .app_data(BlobConfig::default().limit(LIMIT))
                .app_data(
                    MultipartFormConfig::default()
                        .total_limit(80 * MIB)
                        .error_handler(forkpool::web::multipart_error),
                )
                .wrap_fn(move |request, next| {
                    count.fetch_add(1, Ordering::Relaxed);
                    next.call(request)
                })
                .configure(uploads)
                .route("/large", web::post().to(large))
                .route("/echo", web::post().to(echo))
                .route("/made/{length}", web::get().to(made))
        };
        Ok(HttpServer::new(app).workers(1).disable_signals().listen_auto_h2c(listener)?.run())
    });
    (service, begun)
}

/// A request of which nothing but the head is written.
pub async fn head(service: &Service, path: &str, headers: &str) -> Client {
    let mut client = Client::connect(service.address).await;
    let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n");
    client.0.write_all(head.as_bytes()).await.expect("the server reads");
    client
}

/// A request that announces this many bytes.
pub async fn announced(service: &Service, path: &str, length: usize) -> Client {
    head(service, path, &format!("content-length: {length}\r\n")).await
}

/// A form whose only field has this many bytes, of which none is written; and what comes behind them.
pub async fn form(service: &Service, path: &str, length: usize, headers: &str) -> (Client, &'static str) {
    let field = "--xyz\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a b.png\"\r\n\
                 content-type: image/png\r\n\r\n";
    let end = "\r\n--xyz--\r\n";
    let headers = format!(
        "content-type: multipart/form-data; boundary=xyz\r\n{headers}content-length: {}\r\n",
        field.len() + length + end.len()
    );
    let mut client = head(service, path, &headers).await;
    client.0.write_all(field.as_bytes()).await.expect("the server reads");
    (client, end)
}

/// Writes this many bytes, piece by piece, as far as the server takes them; returns their sum.
pub async fn write(client: &mut Client, length: usize, mut after_each: impl FnMut()) -> u64 {
    let (piece, mut written, mut total) = (pattern(PIECE), 0, 0);
    while written < length {
        let part = &piece[..PIECE.min(length - written)];
        if bounded("the server reads", client.0.write_all(part)).await.is_err() {
            break;
        }
        written += part.len();
        total += sum(part);
        after_each();
    }
    total
}

/// Waits until the server has closed the connection.
pub async fn closed(mut client: Client) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = bounded("the connection is closed", client.0.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "nothing comes behind the response");
}

pub async fn emptied(pool: &PoolHandle<Mill>) {
    until("the memory of blobs is free", || pool.stats().blob_bytes == 0).await;
}

fn own(kind: &str) -> u64 {
    memory_of(std::process::id(), kind)
}

/// H6
#[test]
fn clients_that_announce_much_and_send_little_keep_no_others_out() {
    run(async {
        let pool = start(mills().blob_memory(64 * MIB));
        let (service, begun) = service(&pool);
        let mut idle = Vec::new();
        for _ in 0..51 {
            let mut client = announced(&service, "/raw", 20_000_000).await;
            client.0.write_all(b"ab").await.expect("the server reads");
            idle.push(client);
        }
        until("all have begun", || begun.load(Ordering::Relaxed) == 51).await;
        for path in ["/raw", "/small"] {
            let (mut client, end) = match path {
                "/raw" => (announced(&service, path, LIMIT).await, ""),
                _ => form(&service, path, LIMIT, "").await,
            };
            let sum = write(&mut client, LIMIT, || ()).await;
            client.0.write_all(end.as_bytes()).await.expect("the server reads");
            let answered = client.answer().await;
            assert_eq!((answered.status, answered.text()), (200, format!("{LIMIT} {sum} true")), "{path}");
        }
        assert_eq!(pool.stats().blob_bytes, 0, "two bytes of each are no blob yet");
        drop(idle);
        service.stop().await;
    });
}

/// H6
#[test]
fn an_upload_of_64_mib_arrives_intact_without_a_file_and_without_a_copy() {
    run(async {
        let pool = start(mills());
        let (service, _) = service(&pool);
        let length = 64 * MIB;
        // So that what is made once is there.
        let (mut client, end) = form(&service, "/large", 16 * MIB, "").await;
        write(&mut client, 16 * MIB, || ()).await;
        client.0.write_all(end.as_bytes()).await.expect("the server reads");
        assert_eq!(client.answer().await.status, 200);
        let (before, temporary) = (own("RssAnon"), std::env::temp_dir());
        // What this program itself prints into may be a file there.
        let of_others = descriptors_of(std::process::id());
        let (mut client, end) = form(&service, "/large", length, "").await;
        let mut most = 0;
        let sum = write(&mut client, length, || {
            most = most.max(own("RssAnon").saturating_sub(before));
            let files = descriptors_of(std::process::id());
            let is_temporary = |file: &String| file.starts_with(&*temporary.to_string_lossy());
            let added = |(number, file): &(&i32, &String)| of_others.get(*number) != Some(*file);
            let added = files.iter().filter(added).map(|(_, file)| file);
            assert!(!added.into_iter().any(is_temporary), "{files:?}");
        })
        .await;
        client.0.write_all(end.as_bytes()).await.expect("the server reads");
        let answered = within(PATIENCE * 3, "a response", client.answer()).await;
        assert_eq!((answered.status, answered.text()), (200, format!("a b.png: {length} {sum} true")));
        assert!(most < 8 << 20, "{most} bytes of ordinary memory for {length} of a body");
        assert_eq!(pool.stats().blob_bytes, 0);
        service.stop().await;
    });
}

/// H6
#[test]
fn bodies_of_every_size_come_back_as_they_were() {
    run(async {
        let pool = start(mills());
        let (service, _) = service(&pool);
        let mut client = Client::connect(service.address).await;
        for length in [0, 1, 16 * KIB - 1, 16 * KIB, 64 * KIB, MIB + 3] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + at / 251 + at / 65_521) as u8).collect();
            client.send("POST", "/echo", &[], &bytes).await;
            let answered = client.answer().await;
            assert!(answered.status == 200 && answered.body == bytes, "{length} bytes");
            assert!(!answered.headers.contains_key("connection"), "the connection stays");
        }
        emptied(&pool).await;
        service.stop().await;
    });
}

/// H6
#[test]
fn a_body_beyond_its_limit_is_413_and_its_memory_is_free() {
    run(async {
        let pool = start(mills());
        let (service, _) = service(&pool);
        let length = 21 * MIB;
        // The head alone is enough to refuse it.
        let mut client = announced(&service, "/raw", length).await;
        let answered = client.answer().await;
        assert_eq!(answered.status, 413);
        let text = "the upload is larger than the 20971520 bytes that are allowed here";
        assert_eq!((answered.text().as_str(), answered.headers["connection"].as_str()), (text, "close"));
        closed(client).await;
        let (mut client, _) = form(&service, "/small", length, "").await;
        write(&mut client, length, || ()).await;
        let answered = client.answer().await;
        assert_eq!((answered.status, answered.text().as_str()), (413, text));
        closed(client).await;
        emptied(&pool).await;
        // Exactly as many as are allowed.
        let mut client = announced(&service, "/raw", LIMIT).await;
        write(&mut client, LIMIT, || ()).await;
        assert_eq!(client.answer().await.status, 200);
        service.stop().await;
    });
}

/// H6
#[test]
fn a_client_that_never_ends_its_body_gets_its_answer_and_is_closed() {
    const CHUNK: usize = 64 << 10;
    run(async {
        let pool = start(mills());
        let (service, _) = service(&pool);
        let field = "--xyz\r\ncontent-disposition: form-data; name=\"image\"\r\n\r\n";
        for (path, begin) in [("/raw", ""), ("/small", field)] {
            let headers = "content-type: multipart/form-data; boundary=xyz\r\ntransfer-encoding: chunked\r\n";
            let client = head(&service, path, headers).await;
            let (reading, mut writing) = client.0.into_split();
            let chunk = [format!("{CHUNK:x}\r\n").into_bytes(), pattern(CHUNK), b"\r\n".to_vec()].concat();
            let endless = actix_rt::spawn(async move {
                let mut written = 0_usize;
                let begin = if begin.is_empty() {
                    String::new()
                } else {
                    format!("{:x}\r\n{begin}\r\n", begin.len())
                };
                let mut left = writing.write_all(begin.as_bytes()).await;
                while left.is_ok() {
                    left = writing.write_all(&chunk).await;
                    written += CHUNK;
                }
                (writing, written)
            });
            let mut head = vec![0; 12];
            let mut reading = reading;
            bounded("a response", reading.read_exact(&mut head)).await.expect("a response");
            assert_eq!(head, b"HTTP/1.1 413", "{path}");
            let (_, written) = bounded("the server closes", endless).await.expect("it ends");
            assert!(written > LIMIT, "{path}: {written}");
            emptied(&pool).await;
        }
        service.stop().await;
    });
}

/// H6, H4
#[test]
fn an_upload_that_finds_no_memory_is_503_and_leaves_none_taken() {
    run(async {
        let pool = start(mills().blob_memory(64 * MIB));
        let (service, _) = service(&pool);
        let others = pool.blob(50 * MIB).expect("there is room");
        for path in ["/raw", "/small"] {
            let mut client = match path {
                "/raw" => announced(&service, path, LIMIT).await,
                _ => form(&service, path, LIMIT, "").await.0,
            };
            write(&mut client, LIMIT, || ()).await;
            let answered = client.answer().await;
            assert_eq!((answered.status, answered.headers["connection"].as_str()), (503, "close"), "{path}");
            assert!(answered.headers["retry-after"].parse::<u64>().expect("seconds") >= 1, "{path}");
            closed(client).await;
            until("what it had is free", || pool.stats().blob_bytes == 50 * MIB).await;
        }
        drop(others);
        let mut client = announced(&service, "/raw", LIMIT).await;
        write(&mut client, LIMIT, || ()).await;
        assert_eq!(client.answer().await.status, 200);
        service.stop().await;
    });
}

/// H6
#[test]
fn a_client_that_leaves_in_the_middle_leaves_no_memory_taken() {
    run(async {
        let pool = start(mills());
        let (service, _) = service(&pool);
        for path in ["/raw", "/small"] {
            let mut client = match path {
                "/raw" => announced(&service, path, LIMIT).await,
                _ => form(&service, path, LIMIT, "").await.0,
            };
            write(&mut client, 10 * MIB, || ()).await;
            until("it arrives", || pool.stats().blob_bytes >= 10 * MIB).await;
            drop(client);
            emptied(&pool).await;
        }
        // In the middle of a response.
        let mut client = announced(&service, "/echo", LIMIT).await;
        write(&mut client, LIMIT, || ()).await;
        let mut some = vec![0; MIB];
        bounded("a response", client.0.read_exact(&mut some)).await.expect("a response");
        assert_eq!(pool.stats().blob_bytes, LIMIT, "the rest is not sent yet");
        drop(client);
        emptied(&pool).await;
        service.stop().await;
    });
}

/// H6
#[test]
fn a_blob_is_sent_piece_by_piece_as_its_client_reads() {
    run(async {
        let pool = start(mills());
        let (service, _) = service(&pool);
        let length = 64 * MIB;
        let mut client = Client::connect(service.address).await;
        client.send("GET", "/made/100000", &[], b"").await;
        assert_eq!(client.answer().await.body, [7; 100_000]);
        let before = own("VmRSS");
        client.send("GET", &format!("/made/{length}"), &[], b"").await;
        let (mut piece, mut read, mut most, mut of_sevens) = (vec![0; 256 * KIB], 0, 0, 0);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(bounded("a response", client.0.read_u8()).await.expect("a response"));
        }
        assert!(String::from_utf8_lossy(&head).contains("content-length: 67108864\r\n"));
        while read < length {
            // Slower than the server.
            actix_rt::task::yield_now().await;
            let count = bounded("more of it", client.0.read(&mut piece)).await.expect("the server writes");
            assert_ne!(count, 0, "the whole of it");
            read += count;
            of_sevens += sum(&piece[..count]);
            most = most.max(own("VmRSS").saturating_sub(before));
        }
        assert_eq!((read, of_sevens), (length, 7 * length as u64));
        assert!(most < 4 << 20, "{most} bytes for {length} of a body");
        service.stop().await;
    });
}

/// H6
#[test]
fn a_service_without_the_pool_says_in_its_log_what_is_missing() {
    run(async {
        keep_events();
        let service = Service::start(|listener| {
            let app = || App::new().route("/echo", web::post().to(echo));
            Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
        });
        let mut client = Client::connect(service.address).await;
        client.send("POST", "/echo", &[], b"body").await;
        let answered = client.answer().await;
        assert_eq!(answered.status, 500);
        assert!(answered.text().contains("its log says what is missing"), "{}", answered.text());
        let said = || events("forkpool").into_iter().find(|event| event.message().contains("finds no pool"));
        until("the log says it", || said().is_some()).await;
        let said = said().expect("it does");
        assert!(said.field("worker").ends_with("::Mill") && said.field("handler") == "/echo", "{said:?}");
        service.stop().await;
    });
}
