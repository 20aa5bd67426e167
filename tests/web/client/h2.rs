//! A client of HTTP/2 without TLS, or on top of a connection with it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use actix_web::rt;
use actix_web::web::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::stage::reset_on_close;
use crate::harness::*;

/// A connection, which is driven by a task.
pub struct Client {
    pub port: u16,
    requests: SendRequest<Bytes>,
    driver: JoinHandle<()>,
    is_frozen: Rc<Cell<bool>>,
}

impl Client {
    /// Connects; a connection that is dropped is closed, or reset if that is asked for.
    pub async fn connect(address: SocketAddr, resets: bool) -> Self {
        let stream = bounded("a connection", TcpStream::connect(address)).await.expect("the server listens");
        if resets {
            reset_on_close(&stream);
        }
        let port = stream.local_addr().expect("it is connected").port();
        Self::over(stream, port).await
    }

    /// Talks over this connection, which has this port on the client's side.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, port: u16) -> Self {
        let (requests, connection) =
            bounded("a handshake", h2::client::handshake(stream)).await.expect("the server speaks HTTP/2");
        let is_frozen = Rc::new(Cell::new(false));
        let seen = is_frozen.clone();
        let driver = rt::spawn(async move {
            let mut connection = pin!(connection);
            // An error is the end of the connection, which tests cause.
            let _ = poll_fn(|cx| if seen.get() { Poll::Pending } else { connection.as_mut().poll(cx) }).await;
        });
        Client { port, requests, driver, is_frozen }
    }

    /// Sends a request without a body.
    pub async fn get(&mut self, path: &str) -> ResponseFuture {
        let request = http::Request::get(format!("http://test{path}")).body(()).expect("a request");
        self.send(request).await
    }

    /// Sends any request without a body.
    pub async fn send(&mut self, request: http::Request<()>) -> ResponseFuture {
        let requests = self.requests.clone();
        self.requests =
            bounded("room for a request", requests.ready()).await.expect("the connection is open");
        self.requests.send_request(request, true).expect("it is sent").0
    }

    /// Sends a request and reads its response.
    pub async fn text(&mut self, path: &str) -> String {
        let response = self.get(path).await;
        text(response).await
    }

    /// From now on it neither reads nor writes, and stays connected.
    pub fn freeze(&self) {
        self.is_frozen.set(true);
    }

    /// Drops the connection where it is.
    pub async fn vanish(self) {
        self.driver.abort();
        let _ = bounded("the end of the connection", self.driver).await;
    }
}

/// The body of a response.
pub async fn text(response: ResponseFuture) -> String {
    let mut body = bounded("a response", response).await.expect("a response").into_body();
    let mut text = Vec::new();
    while let Some(bytes) = bounded("a body", body.data()).await {
        let bytes = bytes.expect("a whole body");
        body.flow_control().release_capacity(bytes.len()).expect("no more than was sent");
        text.extend_from_slice(&bytes);
    }
    String::from_utf8(text).expect("text")
}
