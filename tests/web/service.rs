//! A web server in this process, and a client that writes its requests byte by byte.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use actix_web::dev::{Server, ServerHandle};
use actix_web::rt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::*;

/// A server at work.
pub struct Service {
    pub address: SocketAddr,
    handle: ServerHandle,
    server: JoinHandle<std::io::Result<()>>,
}

impl Service {
    /// Starts the server that `make` makes of a listener. It must not handle signals.
    pub fn start(make: impl FnOnce(TcpListener) -> std::io::Result<Server>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = make(listener).expect("the server starts");
        Service { address, handle: server.handle(), server: rt::spawn(server) }
    }

    /// Stops the server, which finishes its requests.
    pub async fn stop(self) {
        bounded("the server stops", self.handle.stop(true)).await;
        bounded("the server ends", self.server).await.expect("it does not panic").expect("it ends well");
    }
}

/// One connection of HTTP/1.1.
pub struct Client(pub TcpStream);

/// What a server has answered. The names of headers are in lower case.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Client(bounded("a connection", TcpStream::connect(address)).await.expect("the server listens"))
    }

    /// Writes a request with the headers that it needs and these.
    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        request.push_str("\r\n");
        let bytes = [request.as_bytes(), body].concat();
        bounded("the request is written", self.0.write_all(&bytes)).await.expect("the server reads");
    }

    /// Reads one response, whose head gives the length of its body or says that it is chunked.
    pub async fn answer(&mut self) -> Answer {
        bounded("a response", self.read_answer()).await.expect("a whole response")
    }

    /// As [`answer`](Self::answer), for a server that may close the connection instead.
    pub async fn read_answer(&mut self) -> std::io::Result<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.lines();
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let body = match headers.get("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => self.read_bytes(length).await?,
            None if headers.contains_key("transfer-encoding") => self.read_chunks().await?,
            None => Vec::new(),
        };
        Ok(Answer { status: status.expect("a status"), headers, body })
    }

    async fn read_bytes(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    async fn read_chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(self.0.read_u8().await?);
            }
            let length = String::from_utf8_lossy(&line).trim().to_owned();
            let length = usize::from_str_radix(&length, 16).expect("the length of a chunk");
            let mut chunk = self.read_bytes(length + 2).await?;
            chunk.truncate(length);
            if chunk.is_empty() {
                return Ok(body);
            }
            body.append(&mut chunk);
        }
    }
}

/// Makes one request on a connection of its own.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut client = Client::connect(address).await;
    client.send(method, path, headers, body).await;
    client.answer().await
}
