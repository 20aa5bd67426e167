//! Servers that let in whoever shows a certificate, and are believed for one.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use forkpool::prelude::*;
use forkpool::{Certificates, Ending, PoolBuilder, Server};

use crate::harness::*;
use crate::roles::certificates;
use crate::*;

tests! {
    a_pool_over_tls_is_like_any_other,
    over_tls_servers_come_and_go,
    whoever_shows_no_certificate_of_the_authority_is_not_let_in,
    a_server_that_is_not_the_host_is_not_believed,
    each_side_is_told_whose_certificate_was_refused_by_whom,
    whoever_says_nonsense_or_nothing_to_a_tls_port_is_sent_away,
    certificates_that_cannot_be_used_say_why,
    certificates_of_a_pool_that_presents_none_are_refused_by_name,
}

/// A server at a port, by this certificate, and its address under a name.
pub struct Secured {
    port: u16,
}

impl Secured {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Secured { port: listener.local_addr().expect("its address").port() }
    }

    pub fn serving(&self, certificate: &str) -> Application {
        serving(&format!("at=tls:127.0.0.1:{} certificate={certificate}", self.port))
    }

    pub fn pool(&self, certificate: &str) -> PoolBuilder<Probe> {
        let pool = Pool::<Probe>::connect(format!("tls:localhost:{}", self.port)).workers(1..=1);
        pool.certificates(certificates(certificate))
    }

    async fn is_refused(&self, certificate: &str) -> String {
        let pool = self.pool(certificate).start().expect("the pool starts");
        let failed = failure(pool.send_within(Duration::from_millis(500), Pid)).await;
        assert_eq!(failed.kind(), FailureKind::NoServer);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        format!("{failed:#}")
    }
}

/// S1, S10, C6
fn a_pool_over_tls_is_like_any_other() {
    run(async {
        let place = Secured::new();
        let server = place.serving("server");
        let pool = place.pool("client").workers(2..=3).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let bytes: Vec<u8> = (0..2 << 20).map(|at: u32| (at % 251) as u8).collect();
        let both = [checkout.send(Echo(bytes.clone())), checkout.send(Echo(bytes.clone()))];
        for echo in both {
            assert!(answer(echo).await.expect("the bytes") == bytes);
        }
        assert_eq!(answer(checkout.send(Remember(1))).await, Ok(vec![1]));
        drop(checkout);
        let died = failure(pool.send(Exit(3))).await;
        assert_eq!((died.kind(), died.ending()), (FailureKind::Died, Some(Ending::Exited { code: 3 })));
        let late = failure(pool.send_within(Duration::from_millis(50), Spin)).await;
        assert_eq!(late.kind(), FailureKind::Timeout);
        let calls: Vec<_> = (0..200).map(|number| pool.send(Slow(Duration::ZERO, number))).collect();
        for (number, call) in (0..).zip(calls) {
            assert_eq!(answer(call).await, Ok(number));
        }
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(children(server.pid()).is_empty());
    });
}

/// S2, S6
fn over_tls_servers_come_and_go() {
    run(async {
        let place = Secured::new();
        let pool = place.pool("client").start().expect("the pool starts");
        let early = pool.send(Pid);
        let mut first = place.serving("server");
        answer(early).await.expect("the server has come");
        let checkout = pool.checkout().start();
        let running = checkout.send(Slow(Duration::from_millis(200), 1));
        until("it runs", || pool.stats().waited.count() == 2).await;
        first.kill();
        first.ends();
        assert_eq!(answer(running).await, Ok(1), "a worker in use goes on");
        drop(checkout);
        let next = place.serving("server");
        let worker = served_by(&pool).await;
        assert!(children(next.pid()).contains(&worker));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S10
fn whoever_shows_no_certificate_of_the_authority_is_not_let_in() {
    run(async {
        let place = Secured::new();
        let mut server = place.serving("server");
        let told = place.is_refused("stranger").await;
        assert!(told.contains("received fatal alert"), "{told}");
        let logged = server.tells("turned away").await;
        assert!(logged.contains("failed authentication") && logged.contains("UnknownIssuer"), "{logged}");
        // Plain bytes are no handshake, whatever they say.
        let plain = Pool::<Probe>::connect(format!("tcp:127.0.0.1:{}", place.port)).workers(1..=1).start();
        let plain = plain.expect("the pool starts");
        let failed = failure(plain.send_within(Duration::from_millis(200), Pid)).await;
        assert_eq!(failed.kind(), FailureKind::NoServer);
        bounded("the end", plain.stop(Duration::ZERO)).await;
        assert!(children(server.pid()).is_empty());
    });
}

/// S10
fn a_server_that_is_not_the_host_is_not_believed() {
    run(async {
        let place = Secured::new();
        for (certificate, expected) in [("elsewhere", "not valid for name"), ("stranger", "UnknownIssuer")] {
            let _server = place.serving(certificate);
            let told = place.is_refused("client").await;
            assert!(told.contains(expected), "{told}");
        }
    });
}

/// S10
fn each_side_is_told_whose_certificate_was_refused_by_whom() {
    run(async {
        let place = Secured::new();
        let mut server = place.serving("server");
        let told = place.is_refused("stranger").await;
        assert!(told.contains("the server refuses this application's certificate"), "{told}");
        let logged = server.tells("turned away").await;
        assert!(logged.contains("failed authentication, this server refuses its certificate"), "{logged}");
        drop(server);
        let mut impostor = place.serving("stranger");
        let told = place.is_refused("client").await;
        assert!(told.contains("this application refuses the server's certificate"), "{told}");
        let logged = impostor.tells("turned away").await;
        assert!(logged.contains(" refuses this server's certificate"), "{logged}");
        assert!(!logged.contains("failed authentication"), "the client has done nothing wrong: {logged}");
    });
}

/// S9
fn whoever_says_nonsense_or_nothing_to_a_tls_port_is_sent_away() {
    run(async {
        let place = Secured::new();
        let mut server = place.serving("server");
        let pool = place.pool("client").start().expect("the pool starts");
        let worker = served_by(&pool).await;
        let connect = || TcpStream::connect(("127.0.0.1", place.port)).expect("a connection");
        let mut strangers: Vec<TcpStream> = (0..300).map(|_| connect()).collect();
        // The beginning of a handshake, byte by byte, and no more.
        strangers.iter_mut().for_each(|stranger| drop(stranger.write_all(&[22, 3, 1, 2, 0, 1])));
        let mut nonsense = connect();
        nonsense.write_all(&[0xff; 600]).expect("room");
        let _ = nonsense.read_to_end(&mut Vec::new());
        server.tells("turned away").await;
        let late = place.pool("client").start().expect("the pool starts");
        served_by(&late).await;
        assert_eq!(served_by(&pool).await, worker);
        until("they have had their time", || descriptors_of(server.pid()).len() < 30).await;
        for pool in [pool, late] {
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

fn certificates_that_cannot_be_used_say_why() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apart/certificates");
    let file = |name: &str| folder.join(name);
    let table = [
        ("no.pem", "client.key", "authority.pem", "no certificate in"),
        ("client.key", "client.key", "authority.pem", "no certificate in"),
        ("client.pem", "client.pem", "authority.pem", "no private key in"),
        ("client.pem", "server.key", "authority.pem", "the certificates cannot be used"),
    ];
    for (chain, key, authorities, expected) in table {
        let error = Certificates::read(file(chain), file(key), file(authorities)).expect_err("of no use");
        assert!(format!("{error:?}").contains(expected), "{chain}, {key}: {error:?}");
    }
    let server = Server::<Probe>::new(Setup::default()).listen("tls:127.0.0.1:1").expect("an address");
    let told = server.run().expect_err("it has none").to_string();
    assert!(told.contains("needs certificates"), "{told}");
}

/// P1
fn certificates_of_a_pool_that_presents_none_are_refused_by_name() {
    run(async {
        for address in ["unix:/nowhere/s.sock", "tcp:127.0.0.1:1"] {
            let pool = Pool::<Probe>::connect(address).certificates(certificates("client"));
            let text = pool.start().expect_err("they are refused").to_string();
            assert!(
                text.contains("option certificates") && text.contains("tls:host:port"),
                "{address}: {text}"
            );
        }
    });
}
