//! Servers that are programs of their own, and the applications that come to them.
//!
//! A server is alone in its process, where a test is beside the thread that waits for it; so this program has a `main` of
//! its own, which is a server, an application, or runs the tests.
mod harness;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use actix::System;
use forkpool::prelude::*;
use forkpool::{Builder, Server, StartError};
use harness::*;
use rustix::process::Signal;

/// Where the servers of one test listen, which are children of that test's process.
fn path_of(test: u32) -> PathBuf {
    std::env::temp_dir().join(format!("forkpool-apart-{test}.sock"))
}

/// The address of this test's servers; whatever they leave there is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        Place(path_of(std::process::id()))
    }

    fn address(&self) -> String {
        format!("unix:{}", self.0.display())
    }

    fn pool(&self) -> Builder<Probe> {
        Pool::<Probe>::connect(self.address()).workers(1..=1)
    }
}

/// The process of the worker that answers.
async fn served_by(pool: &PoolHandle<Probe>) -> u32 {
    answer(pool.send(Pid)).await.expect("a worker")
}

fn server() -> Application {
    Application::start("an_application", "server")
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("sock.lock"));
    }
}

fn main() {
    let address = format!("unix:{}", path_of(std::os::unix::process::parent_id()).display());
    match role().as_deref() {
        Some("server") => match Server::<Probe>::new(Setup::default()).listen(address).run() {
            Ok(()) => println!("ended"),
            Err(error) => println!("refused: {error}"),
        },
        Some("client") => System::new().block_on(async {
            let pool = Pool::<Probe>::connect(address).workers(1..=1).start().expect("the pool starts");
            let pid = served_by(&pool).await;
            let checkout = pool.checkout().start();
            checkout.do_send(Spin);
            until("it spins", || pool.stats().leased == 1).await;
            println!("worker {pid}");
            std::future::pending::<()>().await;
        }),
        _ => run_tests(),
    }
}

/// Runs the tests whose names contain the first argument that is no option, or all.
fn run_tests() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(&filter)) {
        // A panic ends this program, and tells why.
        test();
        println!("test {name} ... ok");
    }
}

macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        const TESTS: &[(&str, fn())] = &[$((stringify!($test), $test)),+];
    };
}

tests! {
    clients_and_servers_start_in_any_order_and_servers_come_again,
    each_client_has_workers_of_its_own_which_end_with_it,
    a_client_that_is_killed_takes_its_worker_along_in_the_middle_of_a_call,
    a_server_that_is_alive_is_never_pushed_aside,
    whoever_says_nonsense_is_sent_away_and_nobody_else_notices,
    without_a_server_a_call_fails_at_its_clock_and_says_where_there_is_none,
    a_server_with_threads_or_nowhere_to_listen_says_so,
}

/// S1, S2
fn clients_and_servers_start_in_any_order_and_servers_come_again() {
    run(async {
        let place = Place::new();
        let pool = place.pool().start().expect("there need be no server yet");
        let early = pool.send(Pid);
        let mut first = server();
        let worker = answer(early).await.expect("the server has come");
        assert!(children(first.pid()).contains(&worker));
        let mode = std::fs::metadata(&place.0).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        settled(&pool, 1).await;
        // A worker goes on without its server, and what that leaves behind is replaced by the next.
        first.kill();
        first.ends();
        assert_eq!(served_by(&pool).await, worker);
        let mut next = server();
        kill(worker);
        until("a worker of the next server is there", || {
            pool.stats().pids.iter().any(|pid| children(next.pid()).contains(pid))
        })
        .await;
        served_by(&pool).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
        until("its workers are gone", || children(next.pid()).is_empty()).await;
        signal(next.pid(), Signal::TERM);
        next.says("ended");
        assert!(next.ends().success());
        assert!(!place.0.exists(), "it takes its socket away");
    });
}

/// S1
fn each_client_has_workers_of_its_own_which_end_with_it() {
    run(async {
        let place = Place::new();
        let _server = server();
        let (one, two) = (place.pool().name("one").start(), place.pool().name("two").start());
        let (one, two) = (one.expect("the pool starts"), two.expect("the pool starts"));
        let (ones, twos) = (served_by(&one).await, served_by(&two).await);
        assert!(comm(ones).starts_with("one/") && comm(twos).starts_with("two/"));
        bounded("the end", one.stop(Duration::ZERO)).await;
        gone(ones).await;
        assert_eq!(served_by(&two).await, twos);
        // One that hangs is killed from here.
        let failed = failure(two.send_within(Duration::from_millis(50), Spin)).await;
        assert_eq!(failed.kind(), FailureKind::Timeout);
        gone(twos).await;
        assert_ne!(served_by(&two).await, twos);
        bounded("the end", two.stop(Duration::ZERO)).await;
    });
}

/// S7
fn a_client_that_is_killed_takes_its_worker_along_in_the_middle_of_a_call() {
    run(async {
        let _place = Place::new();
        let server = server();
        let mut client = Application::start("an_application", "client");
        let worker: u32 = client.says("worker").parse().expect("a number");
        assert!(exists(worker));
        client.kill();
        client.ends();
        gone(worker).await;
        assert!(exists(server.pid()));
    });
}

/// S10
fn a_server_that_is_alive_is_never_pushed_aside() {
    run(async {
        let place = Place::new();
        let first = server();
        until("it listens", || place.0.exists()).await;
        let mut second = server();
        let refusal = second.says("refused:");
        assert!(refusal.contains(&format!("process {}", first.pid())), "{refusal}");
        assert!(second.ends().success());
        let pool = place.pool().start().expect("the pool starts");
        served_by(&pool).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S9
fn whoever_says_nonsense_is_sent_away_and_nobody_else_notices() {
    run(async {
        let place = Place::new();
        let _server = server();
        let pool = place.pool().start().expect("the pool starts");
        let pid = served_by(&pool).await;
        let connect = || UnixStream::connect(&place.0).expect("a connection");
        let _silent: Vec<UnixStream> = (0..50).map(|_| connect()).collect();
        for nonsense in [&[0xff; 64][..], &[0; 4], b"GET / HTTP/1.1\r\n\r\n", &[5, 0, 0, 0, 1, 2, 3]] {
            connect().write_all(nonsense).expect("room");
        }
        assert_eq!(served_by(&pool).await, pid);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// T7
fn without_a_server_a_call_fails_at_its_clock_and_says_where_there_is_none() {
    run(async {
        let place = Place::new();
        let pool = place.pool().start().expect("the pool starts");
        let failed = failure(pool.send_within(Duration::from_millis(100), Pid)).await;
        assert_eq!(failed.kind(), FailureKind::NoServer);
        let told = format!("{failed:#}");
        assert!(told.contains(place.0.to_str().expect("text")), "{told}");
        for address in ["", "unix:", "/no/scheme", "udp:1"] {
            let error = Pool::<Probe>::connect(address).start().expect_err("it is none");
            assert!(matches!(&error, StartError::Address(text) if text == address), "{error}");
        }
    });
}

/// S9, S10
fn a_server_with_threads_or_nowhere_to_listen_says_so() {
    let server = || Server::<Probe>::new(Setup::default());
    let error = |server: Server<Probe>| server.run().expect_err("it cannot run").to_string();
    assert!(error(server()).contains("listen"), "{}", error(server()));
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let told = error(server().listen("unix:/tmp/never-made"));
    assert!(told.contains("threads"), "{told}");
    drop(done);
    assert!(thread.join().expect("it waits").is_err());
    let long = format!("unix:/{}", "x".repeat(107));
    for (address, expected) in [
        ("tcp:127.0.0.1:1", "unix:/path"),
        (&*long, "at most 103"),
        ("unix:/no/such/directory/a.sock", "cannot be made at"),
    ] {
        let told = error(server().listen(address));
        assert!(told.contains(expected), "{told}");
    }
}
