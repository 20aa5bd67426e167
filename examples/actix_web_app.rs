//! A web service whose slow and risky work is done by worker processes, and which outlives them. docs/WEB.md explains it.
//!
//! ```sh
//! # A bounded load, with a worker killed in it.
//! cargo run --features actix-web --example actix_web_app
//! # Until Ctrl-C.
//! cargo run --features actix-web --example actix_web_app -- --serve 127.0.0.1:8080
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

use actix_web::{rt, web};
use forkpool::prelude::*;

/// Passwords: short messages, and errors of the service's own.
mod passwords {
    // shown: worker
    use actix::prelude::*;
    use actix_web::{post, web};
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

    #[derive(Debug, thiserror::Error, Serialize, Deserialize)]
    pub enum HashError {
        #[error("bcrypt: {0}")]
        Bcrypt(String), // the body of its response, so it has to be fit for clients
        #[error(transparent)]
        Worker(#[from] Failure),
    }

    // 400 for what the client did wrong; 413, 500, 503 or 504 for what the worker did.
    forkpool::response_error!(json HashError {
        Worker(Failure),
        Bcrypt => BAD_REQUEST,
    });

    pub struct Hasher {
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

        fn handle(&mut self, message: Hash, _: &mut WorkerContext<Self>) -> Self::Result {
            bcrypt::hash(message.plaintext, self.cost).map_err(|error| HashError::Bcrypt(error.to_string()))
        }
    }

    impl Handler<Verify> for Hasher {
        type Result = Result<bool, HashError>;

        fn handle(&mut self, message: Verify, _: &mut WorkerContext<Self>) -> Self::Result {
            let checked = bcrypt::verify(message.plaintext, &message.crypted);
            checked.map_err(|error| HashError::Bcrypt(error.to_string()))
        }
    }

    forkpool::interface!(Hasher { Hash, Verify });
    forkpool::boot!(Hasher);
    // end: worker

    // shown: endpoints
    /// The body of a request is the message itself.
    #[post("/hash")]
    pub async fn hash(
        pool: forkpool::web::Pool<Hasher>,
        body: web::Json<Hash>,
    ) -> Result<web::Json<String>, HashError> {
        let crypted = pool.send(body.into_inner()).await?;
        Ok(web::Json(crypted))
    }

    #[post("/verify")]
    pub async fn verify(
        pool: forkpool::web::Pool<Hasher>,
        body: web::Json<Verify>,
    ) -> Result<web::Json<bool>, HashError> {
        let matches = pool.send(body.into_inner()).await?;
        Ok(web::Json(matches))
    }
    // end: endpoints
}

/// Sounds: bodies that go where they are read, and come from where they were made.
mod sounds {
    // shown: sounds
    use actix::prelude::*;
    use actix_web::{HttpResponse, post};
    use forkpool::prelude::*;
    use forkpool::web::BlobBody;
    use serde::{Deserialize, Serialize};

    /// Halves the rate of raw sound of eight bits.
    #[derive(Message, Serialize, Deserialize)]
    #[rtype(result = "Result<Blob, Failure>")]
    struct Halve {
        sound: Blob,
    }

    pub struct Mixer;

    impl Actor for Mixer {
        type Context = WorkerContext<Self>;
    }

    impl Worker for Mixer {
        type Config = ();

        fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
            Ok(Mixer)
        }
    }

    impl Handler<Halve> for Mixer {
        type Result = Result<Blob, Failure>;

        fn handle(&mut self, message: Halve, ctx: &mut WorkerContext<Self>) -> Self::Result {
            let sound = message.sound.bytes();
            let length = sound.len() / 2;
            let mut half = ctx.blob(length)?;
            let samples = half.append_zeroes(length).map_err(|error| Failure::task(error.to_string()))?;
            for (sample, pair) in samples.iter_mut().zip(sound.chunks_exact(2)) {
                *sample = pair[0].midpoint(pair[1]);
            }
            Ok(half.freeze())
        }
    }

    forkpool::interface!(Mixer { Halve });
    forkpool::boot!(Mixer);

    // shown: endpoint
    /// The body is read into the pool's memory as it arrives, and the response is sent from there.
    #[post("/halve")]
    pub async fn halve(
        pool: forkpool::web::Pool<Mixer>,
        body: BlobBody<Mixer>,
    ) -> Result<HttpResponse, Failure> {
        let half = pool.send(Halve { sound: body.into_inner() }).await?;
        Ok(HttpResponse::Ok().body(forkpool::web::body(half)))
    }
    // end: endpoint
    // end: sounds
}

/// The application and its server.
mod service {
    // shown: application
    use std::net::TcpListener;
    use std::time::Duration;

    use actix_web::{App, HttpServer, web};
    use forkpool::prelude::*;
    use forkpool::web::{BlobConfig, ClientPolicy, Config, Requests, Running};

    use super::passwords::{self, Hasher};
    use super::sounds::{self, Mixer};

    /// The pools of the service. They are started once, outside of the factory, which runs for each thread of the server.
    #[derive(Clone)]
    pub struct Pools {
        pub hashers: PoolHandle<Hasher>,
        pub mixers: PoolHandle<Mixer>,
    }

    impl Pools {
        pub fn start() -> Result<Self, StartError> {
            Ok(Pools {
                hashers: Pool::builder(10).workers(2..=2).max_waiting(8).start()?,
                mixers: Pool::builder(()).workers(1..=2).max_waiting(8).start()?,
            })
        }

        /// What the application has: its pools, its rules and its endpoints.
        pub fn configure(&self, app: &mut web::ServiceConfig) {
            let rules = Config::default()
                .client_policy(ClientPolicy::HalfClose)
                .deadline_header("x-request-timeout-ms")
                .most(Duration::from_secs(20));
            app.app_data(self.hashers.clone())
                .app_data(self.mixers.clone())
                .app_data(rules)
                .app_data(BlobConfig::default().limit(20 << 20))
                .service(passwords::hash)
                .service(passwords::verify)
                .service(sounds::halve)
                .service(forkpool::web::dashboard("/_pool", (&self.hashers, &self.mixers)));
        }
    }

    pub fn serve(listener: TcpListener, pools: &Pools) -> std::io::Result<Running> {
        let shared = pools.clone();
        let app = move || App::new().wrap(Requests::new()).configure(|app| shared.configure(app));
        // The hook comes before the listener: that is how the server sees that a client has left.
        let server =
            HttpServer::new(app).on_connect(forkpool::web::on_connect).workers(2).listen(listener)?;
        Ok(forkpool::web::run(server, Duration::from_secs(10), (&pools.hashers, &pools.mixers)))
    }
    // end: application
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

    let pools = service::Pools::start()?;
    let listener = TcpListener::bind(address.unwrap_or("127.0.0.1:0"))?;
    let bound = listener.local_addr()?;
    let running = service::serve(listener, &pools)?;
    println!("listening on http://{bound}");
    let report = if address.is_some() {
        running.await?
    } else {
        let handle = running.handle();
        let running = rt::spawn(running);
        let outcome = demo(bound, &pools.hashers).await;
        handle.stop();
        let report = running.await??;
        outcome?;
        report
    };
    println!("stopped: {report}");
    Ok(ExitCode::SUCCESS)
}

// From here on: the load.

const CLIENTS: usize = 12;
const REQUESTS: usize = 6;

async fn demo(server: SocketAddr, pool: &PoolHandle<passwords::Hasher>) -> Result<(), Box<dyn Error>> {
    pool.ready().await?;
    let victim = pool.snapshot().workers[0].number;

    println!("{CLIENTS} clients, {REQUESTS} requests each, 2 workers, at most 8 requests waiting");
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || client(server))).collect();
    rt::time::sleep(Duration::from_millis(500)).await;
    pool.kill_worker(victim);
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
    let body = format!(r#"{{"plaintext":"secret","crypted":{crypted}}}"#);
    let verified = web::block(move || request(server, "/verify", &body)).await??;
    println!("and now /hash says {crypted}, and /verify of it {} {}", verified.status, verified.body);
    println!("workers there: {}, forked since the start: {}", pool.stats().workers(), pool.stats().forked);

    let as_expected = answers.keys().all(|status| [200, 503].contains(status)) && verified.body == "true";
    if as_expected { Ok(()) } else { Err("not every answer is as it should be".into()) }
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

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::{App, test};

    use super::*;

    /// The service without a network.
    #[actix_web::test]
    async fn the_endpoints_answer() {
        let pools = service::Pools::start().expect("the pools start");
        let app = test::init_service(App::new().configure(|app| pools.configure(app))).await;
        let crypted = bcrypt::hash("secret", 4).expect("a hash");
        let table = [
            ("/verify", format!(r#"{{"plaintext":"secret","crypted":"{crypted}"}}"#), StatusCode::OK, "true"),
            ("/verify", format!(r#"{{"plaintext":"other","crypted":"{crypted}"}}"#), StatusCode::OK, "false"),
            (
                "/verify",
                r#"{"plaintext":"secret","crypted":"x"}"#.to_owned(),
                StatusCode::BAD_REQUEST,
                r#"{"error":"bcrypt: "#,
            ),
            ("/hash", r#"{"plaintext":"secret"}"#.to_owned(), StatusCode::OK, r#""$2b$10$"#),
            ("/halve", "ACBD".to_owned(), StatusCode::OK, "BC"),
        ];
        for (path, body, status, start) in table {
            let request = test::TestRequest::post().uri(path);
            let request = request.insert_header(("content-type", "application/json")).set_payload(body);
            let response = test::call_service(&app, request.to_request()).await;
            assert_eq!(response.status(), status, "{path}");
            let body = String::from_utf8(test::read_body(response).await.to_vec()).expect("a text");
            assert!(body.starts_with(start), "{path}: {body}");
        }
        pools.hashers.stop(Duration::ZERO).await;
        pools.mixers.stop(Duration::ZERO).await;
    }

    /// The service as clients see it.
    #[actix_web::test]
    async fn a_server_runs_until_it_is_stopped_with_its_pools() {
        let pools = service::Pools::start().expect("the pools start");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let running = service::serve(listener, &pools).expect("the server starts").without_signals();
        let handle = running.handle();
        let running = rt::spawn(running);
        let crypted = web::block(move || request(address, "/hash", r#"{"plaintext":"secret"}"#)).await;
        let crypted = crypted.expect("no panic").expect("a response");
        assert_eq!(crypted.status, 200, "{}", crypted.body);
        handle.stop();
        let report = running.await.expect("no panic").expect("it ends well");
        assert!(report.is_complete(), "{report}");
        assert_eq!(pools.hashers.stats().workers(), 0);
    }
}
