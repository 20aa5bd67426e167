//! Connections of every kind, and servers without the hook.

use std::os::unix::net::UnixListener as StdUnixListener;

use actix_web::dev::Extensions;
use actix_web::{App, HttpServer};
use forkpool::web::on_connect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::stage::*;
use crate::harness::*;
use crate::service::{Client, Service};

/// H2: the end of a Unix socket is told from half of an end.
#[test]
fn what_is_seen_of_a_client_at_a_unix_socket() {
    let rows = [
        (Leaving::Close, "ignore", Fate::Finished),
        (Leaving::Close, "reset", Fate::Told),
        (Leaving::Close, "half-close", Fate::Told),
        (Leaving::HalfClose, "reset", Fate::Finished),
        (Leaving::HalfClose, "half-close", Fate::Told),
        (Leaving::HalfCloseThenClose, "reset", Fate::Told),
    ];
    for (leaving, policy, expected) in rows {
        assert_eq!(run(at_a_unix_socket(leaving, policy)), expected, "{leaving:?}, {policy}");
    }
}

async fn at_a_unix_socket(leaving: Leaving, policy: &str) -> Fate {
    let stage = Stage::new();
    let path = std::env::temp_dir().join(format!("forkpool-web-{}", std::process::id()));
    let listener = StdUnixListener::bind(&path).expect("the path is free");
    let shared = stage.clone();
    // The listener at a port is there for `settle`.
    let service = Service::start(move |tcp| {
        let app = move || App::new().app_data(shared.clone()).configure(routes);
        let server = HttpServer::new(app).workers(1).disable_signals().on_connect(on_connect);
        Ok(server.listen(tcp)?.listen_uds(listener)?.run())
    });
    let mut client = UnixStream::connect(&path).await.expect("the server listens");
    std::fs::remove_file(&path).expect("it is there");
    let request = format!("GET /watch/{policy} HTTP/1.1\r\nhost: test\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("the server reads");
    assert_eq!(stage.next().await, Fate::Began);
    let mut kept = None;
    if leaving == Leaving::Close {
        drop(client);
    } else {
        client.shutdown().await.expect("it is open");
        kept = Some(client);
    }
    settle(&service).await;
    if leaving == Leaving::HalfCloseThenClose {
        assert_eq!(stage.has_happened(), None);
        kept = None;
        settle(&service).await;
    }
    let fate = stage.fate().await;
    if let Some(mut kept) = kept {
        let mut answer = Vec::new();
        bounded("the answer", kept.read_to_end(&mut answer)).await.expect("an end");
        assert!(answer.ends_with(b"done"), "half of it still reads");
    }
    service.stop().await;
    fate
}

/// H2
#[test]
fn clients_over_ipv6_are_seen() {
    run(async {
        let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
            eprintln!("skipped: this machine has no IPv6");
            return;
        };
        let address = listener.local_addr().expect("it is bound");
        let stage = Stage::new();
        let shared = stage.clone();
        let service = Service::start(move |_| {
            let app = move || App::new().app_data(shared.clone()).configure(routes);
            let server = HttpServer::new(app).workers(1).disable_signals().on_connect(on_connect);
            Ok(server.listen(listener)?.run())
        });
        let stream = bounded("a connection", TcpStream::connect(address)).await.expect("the server listens");
        let mut client = Client(stream);
        client.send("GET", "/watch/half-close", &[], b"").await;
        assert_eq!(stage.next().await, Fate::Began);
        drop(client);
        assert_eq!(stage.next().await, Fate::Told);
        service.stop().await;
    });
}

/// H2: what cannot be seen is said, once.
#[test]
fn a_server_without_the_hook_never_tells_and_warns_once() {
    run(async {
        keep_events();
        let stage = Stage::new();
        let service = serve(&stage, false, true);
        for policy in ["ignore", "half-close", "half-close"] {
            let client = begun(&service, &stage, &format!("/watch/{policy}")).await.0;
            let port = client.local_addr().expect("it is connected").port();
            drop(client);
            kernel_knows(service.address, port).await;
            settle(&service).await;
            assert_eq!(stage.has_happened(), None);
            let warnings = warnings("on_connect(forkpool::web::on_connect)");
            assert_eq!(warnings, usize::from(policy != "ignore"), "Ignore asks for nothing");
            stage.may_finish.add_permits(1);
            assert_eq!(stage.next().await, Fate::Finished);
        }
        service.stop().await;
    });
}

#[test]
fn a_connection_of_an_unknown_type_warns_once() {
    run(async {
        keep_events();
        for _ in 0..2 {
            on_connect(&"no connection", &mut Extensions::new());
        }
        assert_eq!(warnings("actix-web-rustls-0_23 or actix-web-openssl"), 1);
    });
}

fn warnings(text: &str) -> usize {
    events("forkpool").iter().filter(|event| event.message().contains(text)).count()
}
