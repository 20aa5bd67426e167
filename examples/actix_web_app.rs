//! A web service whose slow work is done by worker processes, and which outlives them.
//!
//! ```sh
//! cargo run --example actix_web_app                            # a bounded load, with a worker killed in it
//! cargo run --example actix_web_app -- --serve 127.0.0.1:8080  # until Ctrl-C
//! curl -H 'content-type: application/json' -d '{"plaintext":"secret"}' http://127.0.0.1:8080/hash
//! ```

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_web::dev::Server;
use actix_web::http::{StatusCode, header};
use actix_web::{App, HttpResponse, HttpServer, ResponseError, post, rt, web};
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<String, HashError>")]
struct Hash {
    plaintext: String,
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<bool, HashError>")]
struct Verify {
    crypted: String,
    plaintext: String,
}

/// The process id of the worker, for the one who kills it.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, HashError>")]
struct WhoAreYou;

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum HashError {
    #[error("bcrypt: {0}")]
    Bcrypt(String),
    #[error(transparent)]
    Worker(#[from] Failure),
}

impl From<bcrypt::BcryptError> for HashError {
    fn from(error: bcrypt::BcryptError) -> Self {
        HashError::Bcrypt(error.to_string())
    }
}

struct Hasher {
    cost: u32,
}

impl Actor for Hasher {
    type Context = WorkerContext<Self>;
}

impl Worker for Hasher {
    type Config = u32;

    fn setup(cost: u32, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Hasher { cost })
    }
}

impl Handler<Hash> for Hasher {
    type Result = Result<String, HashError>;

    fn handle(&mut self, msg: Hash, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(bcrypt::hash(msg.plaintext, self.cost)?)
    }
}

impl Handler<Verify> for Hasher {
    type Result = Result<bool, HashError>;

    fn handle(&mut self, msg: Verify, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(bcrypt::verify(msg.plaintext, &msg.crypted)?)
    }
}

impl Handler<WhoAreYou> for Hasher {
    type Result = Result<u32, HashError>;

    fn handle(&mut self, WhoAreYou: WhoAreYou, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(std::process::id())
    }
}

forkpool::interface!(Hasher { Hash, Verify, WhoAreYou });
forkpool::boot!(Hasher);

/// What a request can fail with.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error(transparent)]
    Hash(#[from] HashError),
}

impl ResponseError for ServiceError {
    fn status_code(&self) -> StatusCode {
        match self {
            ServiceError::Hash(HashError::Bcrypt(_)) => StatusCode::BAD_REQUEST,
            ServiceError::Hash(HashError::Worker(failure)) => match failure.kind() {
                FailureKind::Overloaded | FailureKind::Stopped => StatusCode::SERVICE_UNAVAILABLE,
                FailureKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let ServiceError::Hash(HashError::Worker(failure)) = self
            && self.status_code() == StatusCode::SERVICE_UNAVAILABLE
        {
            // The header takes whole seconds only; an overload comes with an estimate.
            let seconds = failure.retry_after().unwrap_or_default().as_secs() + 1;
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        response.body(format!("{self}\n"))
    }
}

/// The body of a request is the message itself.
#[post("/hash")]
async fn hash(pool: web::Data<PoolHandle<Hasher>>, body: web::Json<Hash>) -> Result<String, ServiceError> {
    Ok(pool.send(body.into_inner()).await?)
}

#[post("/verify")]
async fn verify(
    pool: web::Data<PoolHandle<Hasher>>,
    body: web::Json<Verify>,
) -> Result<String, ServiceError> {
    let matches = pool.send(body.into_inner()).await?;
    Ok(matches.to_string())
}

/// The pool is started once, outside the factory, which runs for every thread of the server.
fn serve(listener: TcpListener, pool: &PoolHandle<Hasher>) -> std::io::Result<Server> {
    let pool = web::Data::new(pool.clone());
    let server = HttpServer::new(move || App::new().app_data(pool.clone()).service(hash).service(verify));
    Ok(server.workers(2).listen(listener)?.run())
}

#[actix_web::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = match arguments.as_slice() {
        [] => None,
        [option] if option == "--demo" => None,
        [option, address] if option == "--serve" => Some(address.as_str()),
        _ => {
            eprintln!("unknown arguments: {}; known: --demo, --serve ADDRESS", arguments.join(" "));
            return Ok(ExitCode::from(2));
        }
    };

    let pool = Pool::<Hasher>::builder(10).workers(2..=2).max_waiting(8).start()?;
    let listener = TcpListener::bind(address.unwrap_or("127.0.0.1:0"))?;
    let bound = listener.local_addr()?;
    let server = serve(listener, &pool)?;
    println!("listening on http://{bound}");
    if address.is_some() {
        server.await?;
    } else {
        let handle = server.handle();
        let server = rt::spawn(server);
        let outcome = demo(bound, &pool).await;
        handle.stop(true).await;
        server.await??;
        outcome?;
    }
    pool.stop(Duration::from_secs(1)).await;
    Ok(ExitCode::SUCCESS)
}

// From here on: the load.

const CLIENTS: usize = 12;
const REQUESTS: usize = 6;

async fn demo(server: SocketAddr, pool: &PoolHandle<Hasher>) -> Result<(), Box<dyn Error>> {
    let victim = pool.send(WhoAreYou).await?;

    println!("{CLIENTS} clients, {REQUESTS} requests each, 2 workers, at most 8 requests waiting");
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || client(server))).collect();
    rt::time::sleep(Duration::from_millis(500)).await;
    kill(victim)?;
    println!("killed worker {victim} after {:.1?}", started.elapsed());

    let mut answers = BTreeMap::<u16, Vec<String>>::new();
    for client in clients {
        let got = web::block(move || client.join()).await?.map_err(|_| "a client panicked")??;
        got.into_iter().for_each(|answer| answers.entry(answer.status).or_default().push(answer.body));
    }
    println!("all answered after {:.1?}:", started.elapsed());
    for (status, bodies) in &answers {
        println!("{:5} x {status}, such as: {}", bodies.len(), bodies[0]);
    }

    let crypted = web::block(move || request(server, "/hash", r#"{"plaintext":"secret"}"#)).await??.body;
    let body = format!(r#"{{"plaintext":"secret","crypted":"{crypted}"}}"#);
    let verified = web::block(move || request(server, "/verify", &body)).await??;
    println!("and now /hash says {crypted}, and /verify of it {} {}", verified.status, verified.body);
    println!("workers there: {}, forked since the start: {}", pool.stats().workers(), pool.stats().forked);

    let as_expected = answers.keys().all(|status| [200, 500, 503].contains(status))
        && answers.get(&500).is_none_or(|died| died.len() == 1)
        && verified.body == "true";
    if as_expected { Ok(()) } else { Err("not every answer is as it should be".into()) }
}

fn kill(pid: u32) -> Result<(), Box<dyn Error>> {
    let pid = rustix::process::Pid::from_raw(pid.try_into()?).ok_or("no such process id")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

struct Answer {
    status: u16,
    retry_after: Option<u64>,
    body: String,
}

/// Sends its requests one after the other, and waits when it is told to.
fn client(server: SocketAddr) -> std::io::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        let answer = request(server, "/hash", r#"{"plaintext":"secret"}"#)?;
        if let Some(seconds) = answer.retry_after {
            thread::sleep(Duration::from_secs(seconds));
        }
        answers.push(answer);
    }
    Ok(answers)
}

fn request(server: SocketAddr, path: &str, json: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(server)?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{json}",
        json.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let retry_after = head.lines().find_map(|line| line.strip_prefix("retry-after: "));
    Ok(Answer {
        status: status.ok_or_else(|| std::io::Error::other("this is no HTTP response"))?,
        retry_after: retry_after.and_then(|seconds| seconds.parse().ok()),
        body: body.trim_end().to_owned(),
    })
}
