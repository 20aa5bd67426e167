//! A web server whose handlers wait for the test and tell it what becomes of them, and clients that leave in every way.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpServer, web};
use forkpool::web::{ClientGone, ClientPolicy, on_connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use ::h2::client::ResponseFuture;

use super::h2;
use crate::harness::*;
use crate::service::{Client, Service, request};

/// What becomes of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Began,
    /// It was told that its client is gone.
    Told,
    /// It ran to its end.
    Finished,
    /// It was dropped before.
    Dropped,
}

/// What handlers and their test share.
pub struct Stage {
    told: UnboundedSender<Fate>,
    fates: Mutex<UnboundedReceiver<Fate>>,
    /// Handlers finish, each for one permit.
    pub may_finish: Semaphore,
    /// How often futures of clients that are gone were polled.
    pub polls: AtomicUsize,
}

impl Stage {
    pub fn new() -> web::Data<Self> {
        let (told, fates) = unbounded_channel();
        web::Data::new(Stage {
            told,
            fates: Mutex::new(fates),
            may_finish: Semaphore::new(0),
            polls: AtomicUsize::new(0),
        })
    }

    pub fn tell(&self, fate: Fate) {
        self.told.send(fate).expect("the test listens");
    }

    /// The next thing that happens to a handler.
    pub async fn next(&self) -> Fate {
        let next = poll_fn(|cx| self.fates.lock().expect("it does not panic").poll_recv(cx));
        bounded("what becomes of a handler", next).await.expect("the stage is there")
    }

    /// What has happened and was not asked for yet.
    pub fn has_happened(&self) -> Option<Fate> {
        self.fates.lock().expect("it does not panic").try_recv().ok()
    }

    /// What has become of the only handler, which may finish if it is still there.
    pub async fn fate(&self) -> Fate {
        match self.has_happened() {
            Some(fate) => fate,
            None => {
                self.may_finish.add_permits(1);
                self.next().await
            }
        }
    }

    async fn finish(&self) {
        self.may_finish.acquire().await.expect("it stays open").forget();
    }
}

/// A handler at work, which tells if it is dropped.
struct Work<'a> {
    stage: &'a Stage,
    is_over: bool,
}

impl<'a> Work<'a> {
    fn begin(stage: &'a Stage) -> Self {
        stage.tell(Fate::Began);
        Work { stage, is_over: false }
    }

    fn end(mut self, fate: Fate) {
        self.is_over = true;
        self.stage.tell(fate);
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.stage.tell(Fate::Dropped);
        }
    }
}

/// A handler that knows nothing of forkpool.
async fn plain(stage: web::Data<Stage>) -> &'static str {
    let work = Work::begin(&stage);
    stage.finish().await;
    work.end(Fate::Finished);
    "done"
}

/// A handler that ends early if its client is gone.
async fn watching(stage: web::Data<Stage>, request: HttpRequest, policy: web::Path<String>) -> &'static str {
    watch(&stage, &request, policy_of(&policy)).await
}

/// The same, behind an extractor of the body.
async fn uploading(stage: web::Data<Stage>, request: HttpRequest, mut body: web::Payload) -> &'static str {
    let work = Work::begin(&stage);
    let mut gone = pin!(ClientGone::of(&request, ClientPolicy::HalfClose));
    poll_fn(|cx| {
        if gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Read as it comes; what the body ends with is of no interest here.
        while let Poll::Ready(Some(Ok(_))) = stream_next(Pin::new(&mut body), cx) {}
        Poll::Pending
    })
    .await;
    work.end(Fate::Told);
    "told"
}

fn stream_next(
    body: Pin<&mut web::Payload>,
    cx: &mut std::task::Context<'_>,
) -> Poll<Option<Result<web::Bytes, actix_web::error::PayloadError>>> {
    futures_core::Stream::poll_next(body, cx)
}

pub async fn watch(stage: &Stage, request: &HttpRequest, policy: ClientPolicy) -> &'static str {
    let work = Work::begin(stage);
    let mut gone = pin!(ClientGone::of(request, policy));
    let mut finish = pin!(stage.finish());
    let fate = poll_fn(|cx| {
        stage.polls.fetch_add(1, Ordering::Relaxed);
        if gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Fate::Told);
        }
        finish.as_mut().poll(cx).map(|()| Fate::Finished)
    });
    work.end(fate.await);
    "done"
}

fn policy_of(name: &str) -> ClientPolicy {
    match name {
        "ignore" => ClientPolicy::Ignore,
        "reset" => ClientPolicy::Reset,
        "half-close" => ClientPolicy::HalfClose,
        other => panic!("{other} is no policy"),
    }
}

/// The application of all tests here.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(async || "here"))
        .route("/plain", web::get().to(plain))
        .route("/plain", web::post().to(plain))
        .route("/upload", web::post().to(uploading))
        .route("/watch/{policy}", web::get().to(watching))
        .route("/watch/{policy}", web::post().to(watching));
}

/// A server on one thread, with the hook or without it.
pub fn serve(stage: &web::Data<Stage>, has_hook: bool, allows_half_closed: bool) -> Service {
    let stage = stage.clone();
    Service::start(move |listener| {
        let app = move || App::new().app_data(stage.clone()).configure(routes);
        let server = HttpServer::new(app).workers(1).disable_signals();
        let server = server.h1_allow_half_closed(allows_half_closed);
        let server = if has_hook { server.on_connect(on_connect) } else { server };
        Ok(server.listen_auto_h2c(listener)?.run())
    })
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It closes the connection: FIN.
    Close,
    /// It resets the connection: RST.
    Reset,
    /// It sends no more, and still reads.
    HalfClose,
    /// It sends no more, and resets the connection later.
    HalfCloseThenReset,
    /// It sends no more, and closes the connection later.
    HalfCloseThenClose,
    /// It closes the connection below TLS, without a word within.
    #[cfg(feature = "tls")]
    Cut,
    /// It resets the stream of HTTP/2, and keeps the connection.
    ResetStream,
}

/// Makes the closing of a connection reset it.
pub fn reset_on_close(stream: &impl std::os::fd::AsFd) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).expect("the option");
}

/// Leaves, and returns the connection if it can still be read from.
pub async fn leave(mut stream: TcpStream, leaving: Leaving) -> Option<TcpStream> {
    match leaving {
        Leaving::Close => None,
        Leaving::Reset => {
            reset_on_close(&stream);
            None
        }
        Leaving::HalfClose => {
            stream.shutdown().await.expect("the connection is open");
            Some(stream)
        }
        other => unreachable!("{other:?} is no single step"),
    }
}

/// Waits until the server has done what there was to do: one request after the other goes through its only thread, and
/// nothing that came before them is left then.
pub async fn settle(service: &Service) {
    for _ in 0..3 {
        assert_eq!(request(service.address, "GET", "/", &[], b"").await.text(), "here");
    }
}

/// Waits until the kernel has told the server's side of a connection of its client's end.
pub async fn kernel_knows(address: SocketAddr, client_port: u16) {
    let (server, client) = (format!(":{:04X}", address.port()), format!(":{client_port:04X}"));
    until("the server's side of the connection is not established", || {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
            .map(|table| std::fs::read_to_string(table).unwrap_or_default());
        !tables.iter().flat_map(|table| table.lines()).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.len() > 3
                && fields[1].ends_with(&server)
                && fields[2].ends_with(&client)
                && fields[3] == "01"
        })
    })
    .await;
}

/// Reads a connection to its end; `None` if it was reset.
pub async fn rest(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bounded("the end of the connection", stream.read_to_end(&mut bytes)).await.ok().map(|_| bytes)
}

/// A request of HTTP/1.1 whose handler has begun.
pub async fn begun(service: &Service, stage: &Stage, path: &str) -> Client {
    let mut client = Client::connect(service.address).await;
    client.send("GET", path, &[], b"").await;
    assert_eq!(stage.next().await, Fate::Began);
    client
}

/// A request whose handler has begun and does not read its body, of which there is more than the server takes.
pub async fn behind_a_body(service: &Service, stage: &Stage, path: &str) -> TcpStream {
    let mut client = Client::connect(service.address).await.0;
    let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", u32::MAX);
    bounded("a head", client.write_all(head.as_bytes())).await.expect("the server reads");
    assert_eq!(stage.next().await, Fate::Began);
    let mut is_full = false;
    // Until nothing has been taken during a whole round of the server's.
    while !is_full {
        is_full = client.try_write(&[0; 1 << 16]).is_err();
        settle(service).await;
        is_full &= client.try_write(&[0]).is_err();
    }
    client
}

/// Resets a connection, and waits until the server has had the time to see it.
pub async fn leave_with_reset(service: &Service, client: TcpStream) {
    let port = client.local_addr().expect("it is connected").port();
    leave(client, Leaving::Reset).await;
    kernel_knows(service.address, port).await;
    settle(service).await;
}

/// Leaves a connection of HTTP/2, or a request on it, and waits until the server has had the time to see it. Returns a
/// connection that is left open.
pub async fn leave_http2(
    service: &Service,
    mut client: h2::Client,
    response: ResponseFuture,
    leaving: Leaving,
) -> Option<h2::Client> {
    drop(response);
    let kept = if leaving == Leaving::ResetStream {
        // The server reads one frame after the other.
        assert_eq!(client.text("/").await, "here");
        Some(client)
    } else {
        let port = client.port;
        client.vanish().await;
        kernel_knows(service.address, port).await;
        None
    };
    settle(service).await;
    kept
}
