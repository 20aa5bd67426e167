//! Applications that end: the server first, the pools behind it, and every request with an answer.

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::System;
use actix_web::{App, HttpServer, rt, web};
use forkpool::prelude::*;
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::harness::*;
use crate::service::{Client, request};

/// A file by its name alone, as it fits into a role and into a path of a request.
fn at(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

fn name(file: &Scratch) -> String {
    file.get().file_name().and_then(|name| name.to_str()).expect("a name").to_owned()
}

/// Requests that have reached a handler.
static BEGUN: AtomicU64 = AtomicU64::new(0);

type Probes = web::Data<PoolHandle<Probe>>;

async fn work(pool: Probes) -> Result<String, Failure> {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    Ok(pool.send(Steps(3)).await?.to_string())
}

async fn spin(pool: Probes) -> Result<String, Failure> {
    pool.send_within(None, Spin).await?;
    Ok(String::new())
}

async fn busy(pool: Probes) -> String {
    pool.snapshot().workers.iter().filter(|worker| worker.call.is_some()).count().to_string()
}

/// Waits for a file in one call, and makes another.
async fn gated(pool: Probes, name: web::Path<String>) -> Result<String, Failure> {
    pool.send_within(None, AwaitFile(at(&name))).await?;
    pool.send(EchoText("open".to_owned())).await
}

#[test]
#[ignore = "an application that other tests run"]
fn an_application() {
    let Some(role) = role() else { return };
    let mut words = role.split(' ');
    let seconds = words.next().and_then(|word| word.parse().ok()).expect("how long it may take to stop");
    let gate = words.next().map(at);
    System::new().block_on(async {
        let probes = pool().workers(4..=4).max_waiting(2).timeout(None).start().expect("the pool starts");
        probes.ready().await.expect("workers");
        let rogues = rogues();
        let data = web::Data::new(probes.clone());
        let app = move || {
            App::new()
                .app_data(data.clone())
                .route("/work", web::get().to(work))
                .route("/spin", web::get().to(spin))
                .route("/busy", web::get().to(busy))
                .route("/gated/{name}", web::get().to(gated))
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = HttpServer::new(app).workers(2).listen(listener).expect("it listens");
        let running = forkpool::web::run(server, Duration::from_secs(seconds), (&probes, [&rogues]));
        let handle = running.handle();
        std::thread::spawn(move || {
            wait_to_go_on();
            handle.stop();
        });
        if let Some(gate) = gate {
            rt::spawn(async move {
                let pid = probes.send_within(None, AwaitFile(gate)).await;
                println!(
                    "background {}",
                    pid.map_or_else(|failure| failure.to_string(), |_| "done".to_owned())
                );
            });
        }
        println!("address {address}");
        let report = running.await.expect("the server runs");
        let left = descendants(std::process::id());
        println!("ended {} {left:?} {report}", BEGUN.load(Ordering::Relaxed));
    });
}

/// An application of its own, and where it listens.
fn serving(role: &str) -> (Application, SocketAddr) {
    let mut application = Application::start("run::an_application", role);
    let address = application.says("address ").parse().expect("an address");
    (application, address)
}

/// Waits until the application has ended and none of its processes is left, which it has to see itself. Returns how many
/// requests have reached a handler.
fn ends(mut application: Application, pids: &[u32]) -> u64 {
    let end = application.says("ended ");
    let (begun, left) = end.split_once(' ').expect("two words");
    assert_eq!(left, "[] nothing is left");
    assert!(application.ends().success());
    assert_eq!(pids.iter().filter(|pid| exists(**pid)).count(), 0, "of {pids:?}");
    begun.parse().expect("a number")
}

/// Waits until this many calls run there.
async fn is_busy(address: SocketAddr, calls: usize) {
    let asking = async {
        loop {
            let running = request(address, "GET", "/busy", &[], b"").await.text();
            if running == calls.to_string() {
                return;
            }
            rt::time::sleep(Duration::from_millis(1)).await;
        }
    };
    bounded("calls that run", asking).await;
}

async fn refuses(address: SocketAddr) {
    loop {
        match bounded("a connection", TcpStream::connect(address)).await {
            Ok(_) => rt::time::sleep(Duration::from_millis(1)).await,
            Err(_) => return,
        }
    }
}

/// What happened to the requests of clients.
#[derive(Default)]
struct Counts {
    answered: Cell<u64>,
    refused: Cell<u64>,
}

fn add(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// Makes requests until there is no server, on one connection as long as that lives, or on one for each.
async fn ask_on(address: SocketAddr, keeps: bool, counts: Rc<Counts>) {
    let mut kept = None;
    loop {
        let mut client = match kept.take() {
            Some(client) => client,
            None => match TcpStream::connect(address).await {
                Ok(stream) => Client(stream),
                Err(_) => return,
            },
        };
        let head = b"GET /work HTTP/1.1\r\nhost: test\r\n\r\n";
        if tokio::io::AsyncWriteExt::write_all(&mut client.0, head).await.is_err() {
            continue;
        }
        // A connection that was not served yet, or that was idle, may be closed.
        let Ok(answered) = bounded("an answer or the end", client.read_answer()).await else { continue };
        match answered.status {
            200 => assert_eq!(answered.text(), "3"),
            503 => add(&counts.refused),
            _ => panic!("{answered:?}"),
        }
        add(&counts.answered);
        let closes = answered.headers.get("connection").is_some_and(|connection| connection == "close");
        kept = Some(client).filter(|_| keeps && !closes);
    }
}

/// H5
#[test]
fn a_server_that_is_told_to_end_under_load_answers_what_it_has_begun_and_leaves_no_process() {
    run(async {
        let (application, address) = serving("20");
        let counts = Rc::new(Counts::default());
        let clients: Vec<_> =
            (0..12).map(|number| rt::spawn(ask_on(address, number % 2 == 0, counts.clone()))).collect();
        until("it is busy and refuses some", || counts.answered.get() > 200 && counts.refused.get() > 0)
            .await;
        let pids = descendants(application.pid());
        assert!(pids.len() >= 7, "two servers and five workers: {pids:?}");
        signal(application.pid(), Signal::TERM);
        for client in clients {
            bounded("the client sees the end", client).await.expect("it does not panic");
        }
        let begun = ends(application, &pids);
        assert_eq!(counts.answered.get(), begun, "each is answered");
        assert!(counts.refused.get() < begun, "most have their answer");
    });
}

/// H5
#[test]
fn calls_that_would_outlast_the_stop_are_ended_and_their_requests_answered_503() {
    run(async {
        let (application, address) = serving("2");
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = Client::connect(address).await;
            client.send("GET", "/spin", &[], b"").await;
            clients.push(client);
        }
        is_busy(address, 2).await;
        let pids = descendants(application.pid());
        signal(application.pid(), Signal::TERM);
        for mut client in clients {
            let answered = client.answer().await;
            assert_eq!(answered.status, 503);
            assert_eq!(answered.text(), "the service is shutting down; try again later");
            assert_eq!(answered.headers["connection"], "close");
        }
        ends(application, &pids);
    });
}

/// H5
#[test]
fn a_server_that_is_stopped_by_code_lets_its_requests_make_their_calls() {
    run(async {
        let gate = Scratch::path();
        let (mut application, address) = serving("20");
        let mut client = Client::connect(address).await;
        client.send("GET", &format!("/gated/{}", name(&gate)), &[], b"").await;
        is_busy(address, 1).await;
        let pids = descendants(application.pid());
        application.go_on();
        refuses(address).await;
        std::fs::write(gate.get(), "").expect("a file");
        let answered = client.answer().await;
        assert_eq!((answered.status, answered.text().as_str()), (200, "open"));
        ends(application, &pids);
    });
}

/// H5
#[test]
fn calls_that_no_request_waits_for_have_the_rest_of_the_time() {
    run(async {
        let gate = Scratch::path();
        let (mut application, address) = serving(&format!("20 {}", name(&gate)));
        is_busy(address, 1).await;
        let pids = descendants(application.pid());
        signal(application.pid(), Signal::TERM);
        refuses(address).await;
        std::fs::write(gate.get(), "").expect("a file");
        assert_eq!(application.says("background "), "done");
        ends(application, &pids);
    });
}

/// H5
#[test]
fn another_sigterm_changes_nothing_and_sigint_cuts_a_stop_short() {
    run(async {
        let gate = Scratch::path();
        let (application, address) = serving("1000");
        let (mut gated, mut spinning) = (Client::connect(address).await, Client::connect(address).await);
        gated.send("GET", &format!("/gated/{}", name(&gate)), &[], b"").await;
        spinning.send("GET", "/spin", &[], b"").await;
        is_busy(address, 2).await;
        let pids = descendants(application.pid());
        signal(application.pid(), Signal::TERM);
        refuses(address).await;
        signal(application.pid(), Signal::TERM);
        std::fs::write(gate.get(), "").expect("a file");
        assert_eq!(gated.answer().await.text(), "open");
        signal(application.pid(), Signal::INT);
        let mut cut = Vec::new();
        // It may also be reset.
        let _ = bounded("the connection is cut", spinning.0.read_to_end(&mut cut)).await;
        assert!(cut.is_empty() || cut.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&cut));
        ends(application, &pids);
    });
}

/// H5
#[test]
fn sigint_ends_a_server_and_its_pools_at_once() {
    run(async {
        let (application, address) = serving("1000");
        let mut client = Client::connect(address).await;
        client.send("GET", "/spin", &[], b"").await;
        is_busy(address, 1).await;
        let pids = descendants(application.pid());
        signal(application.pid(), Signal::INT);
        ends(application, &pids);
    });
}

/// H5
#[test]
fn pools_are_given_in_any_shape_and_all_of_them_are_stopped() {
    run(async {
        let (first, second, third, others) = (pool_of_one(), pool_of_one(), pool_of_one(), rogues());
        let data = web::Data::new(third.clone());
        let pools = (&first, vec![second.clone()], [data.clone()], (&others, ()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let app = move || App::new().app_data(data.clone()).route("/work", web::get().to(work));
        let server = HttpServer::new(app).workers(1).listen(listener).expect("it listens");
        let running = forkpool::web::run(server, Duration::from_secs(1000), pools).without_signals();
        let handle = running.handle();
        let running = rt::spawn(running);
        assert_eq!(request(address, "GET", "/work", &[], b"").await.text(), "3");
        handle.stop();
        handle.stop();
        let report = bounded("the end", running).await.expect("it does not panic").expect("it ends well");
        assert!(report.is_complete(), "{report}");
        for pool in [&first, &second, &third] {
            assert_eq!(failure(pool.send(Pid)).await.kind(), FailureKind::Stopped);
        }
        assert_eq!(rogue_failure(others.send(Deed::Nothing)).await.kind(), FailureKind::Stopped);
        handle.stop_now();
    });
}

/// H5
#[test]
fn a_handle_ends_a_server_at_once_while_it_stops() {
    run(async {
        let pool = pool().workers(1..=1).timeout(None).start().expect("the pool starts");
        let data = web::Data::new(pool.clone());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let app = move || App::new().app_data(data.clone()).route("/spin", web::get().to(spin));
        let server = HttpServer::new(app).workers(1).listen(listener).expect("it listens");
        let running = forkpool::web::run(server, Duration::from_secs(1000), &pool).without_signals();
        let handle = running.handle();
        let running = rt::spawn(running);
        let mut client = Client::connect(address).await;
        client.send("GET", "/spin", &[], b"").await;
        until("the call runs", || pool.snapshot().workers.iter().any(|worker| worker.call.is_some())).await;
        handle.stop();
        refuses(address).await;
        handle.stop_now();
        let report = bounded("the end", running).await.expect("it does not panic").expect("it ends well");
        assert!(report.is_complete(), "{report}");
    });
}
