//! Servers and clients at ports that do not answer any more: they are frozen, or the network between them is cut.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use forkpool::PoolBuilder;
use forkpool::prelude::*;
use rustix::process::Signal;

use crate::harness::*;
use crate::network::{Port, port};
use crate::raw_client::*;
use crate::*;

tests! {
    a_frozen_server_is_dead_for_its_pool_and_its_workers_in_use_go_on,
    a_pool_goes_to_the_next_server_when_the_network_is_cut,
    calls_survive_a_network_that_is_cut_for_a_while,
    a_server_kills_the_workers_of_a_silent_client_and_no_earlier,
    a_busy_application_is_not_silent,
    a_large_argument_waits_for_a_worker_that_does_not_read,
    a_flood_of_pings_has_few_answers_and_holds_up_no_client,
    a_server_that_was_frozen_lets_its_workers_finish_as_long_as_it_may,
    times_that_cannot_work_are_refused_by_name,
}

/// How long a server of these tests may be silent.
const DEAD_AFTER: Duration = Duration::from_millis(600);

/// A network between a pool and its servers, which a test cuts: nothing arrives any more, and no end is reported.
struct Network {
    port: u16,
    line: Arc<Line>,
    accepting: Option<JoinHandle<()>>,
}

struct Line {
    to: AtomicU16,
    is_cut: AtomicBool,
    is_over: AtomicBool,
}

impl Network {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (to, is_cut, is_over) = (AtomicU16::new(server), AtomicBool::default(), AtomicBool::default());
        let line = Arc::new(Line { to, is_cut, is_over });
        let accepting = Some(std::thread::spawn({
            let line = line.clone();
            move || line.accept(&listener)
        }));
        Network { port, line, accepting }
    }

    fn pool(&self) -> PoolBuilder<Probe> {
        Pool::<Probe>::connect(format!("tcp:127.0.0.1:{}", self.port)).dead_after(DEAD_AFTER)
    }

    fn cut(&self, is_cut: bool) {
        self.line.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.line.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.accepting.take().map(JoinHandle::join).expect("a thread").expect("no panic");
    }
}

impl Line {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut copying = Vec::new();
        for client in listener.incoming() {
            let client = client.expect("a connection");
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            let to = self.to.load(Ordering::Relaxed);
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            let (client, server) = (Arc::new(client), Arc::new(server));
            for (from, to) in [(client.clone(), server.clone()), (server, client)] {
                let line = self.clone();
                copying
                    .push(std::thread::spawn(move || line.copy(&from, &to, line.to.load(Ordering::Relaxed))));
            }
        }
        copying.into_iter().for_each(|copying| copying.join().expect("no panic"));
    }

    /// Copies until an end or an error. A connection that was led to another server stays cut.
    fn copy(&self, mut from: &TcpStream, mut to: &TcpStream, server: u16) {
        from.set_read_timeout(Some(Duration::from_millis(10))).expect("a socket");
        let mut bytes = vec![0; 64 << 10];
        while !self.is_over.load(Ordering::Relaxed) {
            if self.is_cut.load(Ordering::Relaxed) || self.to.load(Ordering::Relaxed) != server {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            match from.read(&mut bytes) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Ok(count @ 1..) if to.write_all(&bytes[..count]).is_ok() => {}
                _ => {
                    let _ = to.shutdown(Shutdown::Both);
                    return;
                }
            }
        }
    }
}

/// Waits until the pool takes its server for dead, as the failure of a call that waits says.
async fn takes_it_for_dead(pool: &PoolHandle<Probe>) {
    let mut told = String::new();
    for _ in 0..20 {
        let failed = failure(pool.send_within(DEAD_AFTER, Pid)).await;
        told = format!("{failed:#}");
        if failed.kind() == FailureKind::NoServer && told.contains("has not answered for 600ms") {
            return;
        }
    }
    panic!("never silent: {told}");
}

/// A server that is frozen and goes on.
async fn survives_a_frozen_server(server: &Application, pool: PoolBuilder<Probe>) {
    let pool = pool.workers(1..=2).dead_after(DEAD_AFTER).start().expect("the pool starts");
    let held = pool.checkout().timeout(None).start();
    let worker = pid(&held).await;
    let running = actix_rt::spawn(held.send(Steps(1500)));
    signal(server.pid(), Signal::STOP);
    takes_it_for_dead(&pool).await;
    assert_eq!(bounded("an answer", running).await.expect("no panic").answer(), Ok(1500), "it goes on");
    let next = held.send(Steps(500));
    let waits = actix_rt::spawn(pool.send(Pid));
    signal(server.pid(), Signal::CONT);
    assert_eq!(answer(next).await, Ok(500), "its worker has not been killed");
    let new =
        bounded("an answer", waits).await.expect("no panic").expect("a worker of the server that is back");
    assert!(new != worker && children(server.pid()).contains(&new));
    assert_eq!(pid(&held).await, worker);
    drop(held);
    until("its worker has ended", || !runs(worker)).await;
    let mut clients = 0;
    while clients != 1 {
        clients = bounded("an answer", pool.server_stats()).await.expect("a server").clients;
    }
    bounded("the end", pool.stop(Duration::ZERO)).await;
    until("nothing is left", || children(server.pid()).is_empty()).await;
}

/// G10, S6
fn a_frozen_server_is_dead_for_its_pool_and_its_workers_in_use_go_on() {
    run(async {
        let port = Port::new();
        survives_a_frozen_server(&port.serving(""), port.pool()).await;
        #[cfg(feature = "tls")]
        {
            let place = crate::tls::Secured::new();
            survives_a_frozen_server(&place.serving("server"), place.pool("client")).await;
        }
    });
}

/// G10, C4
fn a_pool_goes_to_the_next_server_when_the_network_is_cut() {
    run(async {
        let (first, second) = (Port::new(), Port::new());
        let (mut lost, next) = (first.serving("dead=3000"), second.serving(""));
        let network = Network::to(first.0);
        let pool = network.pool().workers(1..=2).start().expect("the pool starts");
        let held = pool.checkout().start();
        let worker = pid(&held).await;
        let running = actix_rt::spawn(held.send(Within(Duration::from_secs(2), Steps(100_000))));
        until("it runs", || pool.stats().waited.count() == 2).await;
        network.line.to.store(second.0, Ordering::Relaxed);
        let other = answer(pool.send(Pid)).await.expect("a worker of the next server");
        assert!(children(next.pid()).contains(&other));
        let unanswered =
            bounded("an answer", running).await.expect("no panic").answer().expect_err("it is cut off");
        assert_eq!(unanswered.kind(), FailureKind::Timeout);
        let told = lost.tells("a client has been silent for too long").await;
        assert!(told.contains("dead_after=3s"), "{told}");
        until("the worker is killed", || !runs(worker)).await;
        drop(held);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(children(next.pid()).is_empty());
    });
}

/// G10, C4
fn calls_survive_a_network_that_is_cut_for_a_while() {
    run(async {
        let port = Port::new();
        let server = port.serving("");
        let network = Network::to(port.0);
        let pool = network.pool().workers(1..=2).start().expect("the pool starts");
        let held = pool.checkout().timeout(None).start();
        let worker = pid(&held).await;
        let running = actix_rt::spawn(held.send(Steps(1000)));
        until("it runs", || pool.stats().waited.count() == 2).await;
        network.cut(true);
        takes_it_for_dead(&pool).await;
        network.cut(false);
        assert_eq!(bounded("an answer", running).await.expect("no panic").answer(), Ok(1000));
        let other = answer(pool.send(Pid)).await.expect("a worker");
        assert!(children(server.pid()).contains(&other));
        assert_eq!(pid(&held).await, worker);
        drop(held);
        until("its worker has ended", || !runs(worker)).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// G10, S7
fn a_server_kills_the_workers_of_a_silent_client_and_no_earlier() {
    run(async {
        let port = Port::new();
        let mut server = port.serving("dead=3000");
        let mut client = Application::start("an_application", &format!("quiet at={}", port.address()));
        let worker = client.says("worker ");
        let freeze = |time: Duration| {
            signal(client.pid(), Signal::STOP);
            // The time that passes is what is tested.
            std::thread::sleep(time);
            signal(client.pid(), Signal::CONT);
        };
        freeze(Duration::from_millis(1500));
        client.go_on();
        assert_eq!(client.says("keeps "), worker, "a client may be paused");
        signal(client.pid(), Signal::STOP);
        server.tells("a client has been silent for too long").await;
        let pid = worker.parse().expect("a pid");
        until("its worker is killed", || !runs(pid)).await;
        signal(client.pid(), Signal::CONT);
        client.go_on();
        client.says("loses Died");
        assert_ne!(client.says("worker "), worker);
        client.kill();
        client.ends();
        until("nothing is left", || children(server.pid()).is_empty()).await;
    });
}

/// G10: pings come from a thread that the application does not block.
fn a_busy_application_is_not_silent() {
    run(async {
        let port = Port::new();
        let _server = port.serving("dead=3000");
        let pool = port.pool().dead_after(DEAD_AFTER).start().expect("the pool starts");
        let held = pool.checkout().start();
        let worker = pid(&held).await;
        // The time that passes is what is tested.
        std::thread::sleep(Duration::from_millis(4500));
        assert_eq!(pid(&held).await, worker);
        assert_eq!(bounded("an answer", pool.server_stats()).await.expect("a server").forked, 1);
        drop(held);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// G10, C6: a full window is no sign of death, however short the time of that is.
fn a_large_argument_waits_for_a_worker_that_does_not_read() {
    run(async {
        let port = Port::new();
        let _server = port.serving("dead=3000");
        let pool = port.pool().dead_after(Duration::from_millis(300)).timeout(None).start();
        let pool = pool.expect("the pool starts");
        let held = pool.checkout().start();
        let worker = pid(&held).await;
        let slow = held.send(Steps(4000));
        let bytes: Vec<u8> = (0..24 << 20).map(|at: u32| (at % 251) as u8).collect();
        let large = held.send(Echo(bytes.clone()));
        assert_eq!(answer(slow).await, Ok(4000));
        assert!(answer(large).await.expect("the bytes") == bytes);
        assert_eq!(pid(&held).await, worker);
        drop(held);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// The index of a ping, and of its answer.
const PING: u8 = 8;
const PONG: u8 = 10;
const INSPECTED: u8 = 7;

/// G10, S9
fn a_flood_of_pings_has_few_answers_and_holds_up_no_client() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let pool = place.start();
        let worker = served_by(&pool).await;
        let mut flooder = RawClient::identified(&place.0, &hello().await);
        let pings = 100_000;
        let flood = framed(&[PING]).repeat(pings);
        let flooding = on_a_thread(move || {
            flooder.0.write_all(&flood).expect("the server reads");
            flooder.send(&[INSPECT]);
            let kinds = std::iter::repeat_with(|| flooder.next().first().copied());
            kinds.take_while(|kind| *kind != Some(INSPECTED)).filter(|kind| *kind == Some(PONG)).count()
        });
        let flooding = actix_rt::spawn(flooding);
        for _ in 0..20 {
            assert_eq!(served_by(&pool).await, worker);
            bounded("an answer", pool.server_stats()).await.expect("a server");
        }
        let pongs = bounded("an answer", flooding).await.expect("no panic");
        assert!((1..=pings / 32).contains(&pongs), "{pongs} answers");
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(runs(server.pid()));
    });
}

/// G10: the limit of a server that takes no more work.
fn a_server_that_was_frozen_lets_its_workers_finish_as_long_as_it_may() {
    run(async {
        let place = Place::new();
        let mut server = serving("drain=3000");
        let pool = place.pool().timeout(None).start().expect("the pool starts");
        let held = pool.checkout().start();
        let worker = pid(&held).await;
        let running = actix_rt::spawn(held.send(Steps(1000)));
        until("it runs", || pool.stats().waited.count() == 2).await;
        signal(server.pid(), Signal::TERM);
        server.tells("takes no more work").await;
        let frozen = [server.pid(), worker];
        frozen.iter().for_each(|&process| signal(process, Signal::STOP));
        // The time that passes is what is tested.
        std::thread::sleep(Duration::from_millis(2500));
        frozen.iter().for_each(|&process| signal(process, Signal::CONT));
        assert_eq!(bounded("an answer", running).await.expect("no panic").answer(), Ok(1000));
        drop(held);
        server.tells("good bye").await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// P1, S9
fn times_that_cannot_work_are_refused_by_name() {
    run(async {
        let address = format!("tcp:127.0.0.1:{}", port());
        for (time, rule) in [(Duration::ZERO, "100ms"), (Duration::from_secs(86_401), "86400s")] {
            let refused = Pool::<Probe>::connect(&address).dead_after(time).start();
            let told = refused.expect_err("it is refused").to_string();
            assert!(told.contains("option dead_after cannot be") && told.contains(rule), "{told}");
        }
        for local in [Pool::<Probe>::connect("unix:/tmp/never-made"), pool()] {
            let told = local.dead_after(DEAD_AFTER).start().expect_err("it has no meaning").to_string();
            assert!(told.contains("option dead_after cannot be 600ms: only a pool"), "{told}");
        }
    });
    let server = forkpool::Server::<Probe>::new(Setup::default()).client_dead_after(Duration::from_secs(2));
    let told = server.listen("unix:/tmp/never-made").expect("an address").run();
    let told = told.expect_err("it is refused").to_string();
    assert!(told.contains("option client_dead_after cannot be 2s: it must be at least 3s"), "{told}");
}
