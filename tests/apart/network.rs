//! Servers at ports.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use forkpool::prelude::*;
use forkpool::{Ending, PoolBuilder, Server};
use rustix::process::Signal;

use crate::harness::*;
use crate::*;

tests! {
    a_pool_over_tcp_is_like_any_other,
    a_worker_over_tcp_is_ended_by_its_clock_and_by_its_guard,
    a_failure_over_tcp_shows_what_its_worker_printed_and_logged,
    what_a_worker_over_tcp_has_left_of_its_end_is_reported,
    over_tcp_a_client_that_is_killed_takes_its_worker_along,
    over_tcp_servers_come_and_go,
    over_tcp_a_server_is_taken_over_without_a_failed_call,
    plain_tcp_beyond_this_machine_is_refused_unless_it_is_forced,
    whoever_says_nonsense_to_a_port_is_sent_away,
    a_connection_that_names_nobody_gets_no_worker,
}

/// A port of this machine that was free a moment ago.
pub fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// A server at a port of this machine, and the pools that go there.
pub struct Port(pub u16);

impl Port {
    pub fn new() -> Self {
        Port(port())
    }

    pub fn address(&self) -> String {
        format!("tcp:127.0.0.1:{}", self.0)
    }

    pub fn serving(&self, options: &str) -> Application {
        serving(&format!("at={} {options}", self.address()))
    }

    pub fn pool(&self) -> PoolBuilder<Probe> {
        Pool::<Probe>::connect(self.address()).workers(1..=1)
    }

    fn start(&self) -> PoolHandle<Probe> {
        self.pool().start().expect("the pool starts")
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.0)).expect("a connection")
    }
}

/// S1, S2, C6, E5
fn a_pool_over_tcp_is_like_any_other() {
    run(async {
        let port = Port::new();
        let pool = port.pool().workers(2..=3).start().expect("the pool starts");
        let early = pool.send(Pid);
        let server = port.serving("");
        let worker = answer(early).await.expect("the server has come");
        assert!(children(server.pid()).contains(&worker));
        let checkout = pool.checkout().start();
        for number in 1..=3 {
            let all = answer(checkout.send(Remember(number))).await.expect("numbers");
            assert_eq!(all, (1..=number).collect::<Vec<_>>());
        }
        let bytes: Vec<u8> = (0..8 << 20).map(|at: u32| (at % 251) as u8).collect();
        let both = [checkout.send(Echo(bytes.clone())), checkout.send(Echo(bytes.clone()))];
        for echo in both {
            assert!(answer(echo).await.expect("the bytes") == bytes);
        }
        let argument = Blob::from(bytes[..3 << 20].to_vec());
        let mirrored = answer(checkout.send(Mirror(argument))).await.expect("a blob");
        assert!(mirrored.bytes().iter().rev().eq(&bytes[..3 << 20]));
        let panicked = failure(checkout.send(Panic("no".to_owned()))).await;
        assert_eq!(
            (panicked.kind(), panicked.panic().map(|panic| &*panic.message)),
            (FailureKind::Panic, Some("no"))
        );
        let again = failure(checkout.send(Pid)).await;
        assert_eq!(again.kind(), FailureKind::Panic, "it is remembered");
        drop(checkout);
        let died = failure(pool.send(Exit(3))).await;
        assert_eq!((died.kind(), died.ending()), (FailureKind::Died, Some(Ending::Exited { code: 3 })));
        for _ in 0..10 {
            answer(pool.send(Pid)).await.expect("a worker");
        }
        let stats = bounded("an answer", pool.server_stats()).await.expect("a server");
        assert_eq!((stats.pid, stats.clients), (server.pid(), 1));
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(children(server.pid()).is_empty());
    });
}

/// T3, W11
fn a_worker_over_tcp_is_ended_by_its_clock_and_by_its_guard() {
    run(async {
        let port = Port::new();
        let _server = port.serving("");
        let limit = Duration::from_millis(300);
        let pool = port.pool().hung_worker_timeout(limit).start().expect("the pool starts");
        let worker = served_by(&pool).await;
        let late = failure(pool.send_within(Duration::from_millis(50), Spin)).await;
        assert_eq!(late.kind(), FailureKind::Timeout);
        until("its worker is killed", || !runs(worker)).await;
        let hung = failure(pool.send_within(None, Spin)).await;
        assert_eq!((hung.kind(), hung.limit()), (FailureKind::Hung, Some(limit)));
        served_by(&pool).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// W7, E7
fn a_failure_over_tcp_shows_what_its_worker_printed_and_logged() {
    run(async {
        let port = Port::new();
        let _server = port.serving("");
        let pool = port.start();
        answer(pool.send(Print(3))).await.expect("it prints");
        // With so much printed that some of it is still on its way when it ends.
        answer(pool.send(Print(2000))).await.expect("it prints");
        let worker = served_by(&pool).await;
        let died = failure(pool.send(Exit(1))).await;
        assert_eq!(died.pid(), Some(worker));
        assert!(died.stderr().last().is_some_and(|last| last.ends_with("garbage 1999")), "{died:#}");
        assert!(died.peak_memory().is_some() && died.cpu_time().is_some());
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// G8, G9: the application does not share the memory in which the worker leaves it. The handler of the standard library,
/// which this server's `main` has installed, does its work as well.
fn what_a_worker_over_tcp_has_left_of_its_end_is_reported() {
    run(async {
        let port = Port::new();
        let _server = port.serving("");
        let pool = port.start();
        let died = failure(pool.send(PanicWithoutUnwinding("in C code".to_owned()))).await;
        assert_eq!(died.kind(), FailureKind::Died, "{died:#}");
        assert!(died.panic().is_some_and(|report| report.message.starts_with("in C code\n")), "{died:#}");
        let died = failure(pool.send(OverflowStack)).await;
        assert!(matches!(died.ending(), Some(Ending::Signaled { signal: 6, .. })), "{died:#}");
        assert!(died.stack_overflow() && died.to_string().contains("its stack overflowed"), "{died:#}");
        assert!(died.stderr().iter().any(|line| line.contains("has overflowed its stack")), "{died:#}");
        assert!(!failure(pool.send(AbortProcess)).await.stack_overflow());
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S7
fn over_tcp_a_client_that_is_killed_takes_its_worker_along() {
    run(async {
        let port = Port::new();
        let server = port.serving("");
        let mut client = Application::start("an_application", &format!("client at={}", port.address()));
        let worker: u32 = client.says("worker").parse().expect("a number");
        client.kill();
        client.ends();
        until("its worker has ended", || !runs(worker)).await;
        assert!(runs(server.pid()));
    });
}

/// S2, S4, S6
fn over_tcp_servers_come_and_go() {
    run(async {
        let port = Port::new();
        let mut first = port.serving("");
        let pool = port.pool().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Pid)).await.expect("a pid");
        let running = checkout.send(Slow(Duration::from_millis(200), 1));
        first.kill();
        first.ends();
        assert_eq!(answer(running).await, Ok(1), "a worker in use goes on");
        assert_eq!(answer(checkout.send(Pid)).await, Ok(worker));
        drop(checkout);
        until("nobody is left of it", || !runs(worker)).await;
        let mut next = port.serving("");
        until("there are as many as before", || children(next.pid()).len() == 2).await;
        settled(&pool, 2).await;
        let held = pool.checkout().start();
        let worker = answer(held.send(Pid)).await.expect("a pid");
        signal(next.pid(), Signal::TERM);
        next.tells("takes no more work").await;
        until("the idle one has ended", || children(next.pid()) == [worker]).await;
        let last = port.serving("");
        let waits = pool.send(Pid);
        assert_eq!(answer(held.send(Setups)).await, Ok(1));
        drop(held);
        let new = answer(waits).await.expect("a worker of the last one");
        assert!(children(last.pid()).contains(&new));
        next.tells("good bye").await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S4
fn over_tcp_a_server_is_taken_over_without_a_failed_call() {
    run(async {
        let _place = Place::new();
        let port = Port::new();
        let also = format!("also={}", port.address());
        let mut current = serving(&also);
        let mut load = Application::start("an_application", &format!("load at={}", port.address()));
        load.says("ready");
        for _ in 0..3 {
            let mut old = std::mem::replace(&mut current, serving(&format!("{also} take_over")));
            old.says("good bye");
            old.ends();
        }
        load.close_input();
        let told = load.says("served ");
        assert!(told.contains("failed [] "), "{told}");
    });
}

/// S10
fn plain_tcp_beyond_this_machine_is_refused_unless_it_is_forced() {
    let port = port();
    let anywhere = format!("tcp:0.0.0.0:{port}");
    // Inside of a runtime it would be refused for that.
    let refused = Server::<Probe>::new(Setup::default()).listen(&anywhere).expect("an address").run();
    let told = format!("{:?}", refused.expect_err("it is refused"));
    assert!(told.contains("allow_unauthenticated_beyond_loopback") && told.contains(&anywhere), "{told}");
    let _server = serving(&format!("at={anywhere} for_all"));
    run(async {
        // An address for documentation, which nobody has; it is not even tried.
        let abroad =
            Pool::<Probe>::connect("tcp:192.0.2.1:7").workers(1..=1).start().expect("the pool starts");
        let failed = failure(abroad.send_within(Duration::from_millis(200), Pid)).await;
        let told = format!("{failed:#}");
        assert!(told.contains("allow_unauthenticated_beyond_loopback"), "{told}");
        let here = Port(port).start();
        served_by(&here).await;
        for pool in [here, abroad] {
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
        for address in [format!("tls:127.0.0.1:{port}"), "tls:localhost:1".to_owned()] {
            let told = Pool::<Probe>::connect(&address).start().expect_err("no certificates").to_string();
            assert!(told.contains("needs certificates") && told.contains(&address), "{told}");
        }
    });
    let taken = Server::<Probe>::new(Setup::default()).listen(&anywhere).expect("an address");
    let taken = taken.allow_unauthenticated_beyond_loopback(true).run().expect_err("it is in use");
    assert!(format!("{taken:?}").contains("Address already in use"), "{taken:?}");
}

/// S9
fn whoever_says_nonsense_to_a_port_is_sent_away() {
    run(async {
        let port = Port::new();
        let mut server = port.serving("");
        let pool = port.start();
        let worker = served_by(&pool).await;
        let _silent: Vec<TcpStream> = (0..50).map(|_| port.connect()).collect();
        for nonsense in [&[0xff; 64][..], &[0; 4], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut stranger = port.connect();
            stranger.write_all(nonsense).expect("room");
            let mut heard = Vec::new();
            stranger.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            // Closed, also with what it had not read.
            let _ = stranger.read_to_end(&mut heard);
            assert!(heard.is_empty());
        }
        let told = server.tells("turned away").await;
        assert!(told.contains("127.0.0.1:") && told.contains("did not identify itself"), "{told}");
        assert_eq!(served_by(&pool).await, worker);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S10: what is said for an `Attach` of nobody's.
fn a_connection_that_names_nobody_gets_no_worker() {
    run(async {
        let port = Port::new();
        let mut server = port.serving("");
        let pool = port.start();
        let worker = served_by(&pool).await;
        let mut stranger = port.connect();
        // Attach { ticket: 7, number: 1 }
        stranger.write_all(&[3, 0, 0, 0, 6, 7, 1]).expect("room");
        assert_eq!(stranger.read(&mut [0; 8]).expect("the end"), 0);
        server.tells("turned away").await;
        assert_eq!(children(server.pid()), [worker]);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
