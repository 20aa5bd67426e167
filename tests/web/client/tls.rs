//! The same behind TLS.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix_web::{App, HttpServer, web};
use forkpool::web::on_connect;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::h2;
use super::stage::{Fate, Leaving, Stage, kernel_knows, routes, settle};
use crate::harness::*;
use crate::service::Service;

/// H2
#[test]
fn what_is_seen_of_a_client_of_http1_behind_tls() {
    let rows = [
        (Leaving::Close, "ignore", Fate::Finished),
        (Leaving::Close, "reset", Fate::Finished),
        (Leaving::Close, "half-close", Fate::Told),
        (Leaving::HalfClose, "reset", Fate::Finished),
        (Leaving::HalfClose, "half-close", Fate::Told),
    ];
    for (leaving, policy, expected) in rows {
        assert_eq!(run(of_http1(leaving, policy)), expected, "{leaving:?}, {policy}");
    }
}

/// H2: actix-web takes an end below TLS that TLS knows nothing of for an error, and drops the handler itself.
#[test]
fn a_connection_that_is_cut_below_tls_ends_its_handler() {
    assert_eq!(run(of_http1(Leaving::Cut, "ignore")), Fate::Dropped);
    assert_eq!(run(of_http1(Leaving::Cut, "reset")), Fate::Dropped);
    let fate = run(of_http1(Leaving::Cut, "half-close"));
    assert!(matches!(fate, Fate::Told | Fate::Dropped), "{fate:?}");
}

async fn of_http1(leaving: Leaving, policy: &str) -> Fate {
    let stage = Stage::new();
    let (service, address) = serve(&stage);
    let mut client = connect(address, b"http/1.1").await;
    // A client that closes before it has read what it was sent resets the connection, and the server sends tickets.
    let request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    bounded("a request", client.write_all(request)).await.expect("the server reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"here") {
        answer.push(bounded("a response", client.read_u8()).await.expect("a response"));
    }
    let request = format!("GET /watch/{policy} HTTP/1.1\r\nhost: test\r\n\r\n");
    bounded("a request", client.write_all(request.as_bytes())).await.expect("the server reads");
    assert_eq!(stage.next().await, Fate::Began);
    let port = client.get_ref().0.local_addr().expect("it is connected").port();
    let mut kept = None;
    if leaving != Leaving::Cut {
        // It says so in TLS, and closes its half of the connection below.
        bounded("a half of an end", client.shutdown()).await.expect("it is open");
        kept = Some(client).filter(|_| leaving == Leaving::HalfClose);
    } else {
        drop(client);
    }
    kernel_knows(address, port).await;
    settle(&service).await;
    let fate = stage.fate().await;
    drop(kept);
    service.stop().await;
    fate
}

/// H2
#[test]
fn a_client_of_http2_behind_tls_is_seen_to_leave() {
    for policy in ["ignore", "reset", "half-close"] {
        run(async {
            let stage = Stage::new();
            let (service, address) = serve(&stage);
            let stream = connect(address, b"h2").await;
            let port = stream.get_ref().0.local_addr().expect("it is connected").port();
            let mut client = h2::Client::over(stream, port).await;
            drop(client.get(&format!("/watch/{policy}")).await);
            assert_eq!(stage.next().await, Fate::Began);
            client.vanish().await;
            assert_eq!(stage.next().await, Fate::Told, "{policy}");
            service.stop().await;
        });
    }
}

/// A server behind TLS at this address, which serves in the clear as well.
fn serve(stage: &web::Data<Stage>) -> (Service, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let chain = vec![CertificateDer::from_pem_file(file("server.pem")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(file("server.key")).expect("a key");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("a pair");
    let stage = stage.clone();
    let service = Service::start(move |plain| {
        let app = move || App::new().app_data(stage.clone()).configure(routes);
        let server = HttpServer::new(app).workers(1).disable_signals().on_connect(on_connect);
        Ok(server.listen(plain)?.listen_rustls_0_23(listener, config)?.run())
    });
    (service, address)
}

async fn connect(address: SocketAddr, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(file("authority.pem")).expect("a certificate");
    roots.add(authority).expect("an authority");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = bounded("a connection", TcpStream::connect(address)).await.expect("the server listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    bounded("a handshake", connecting).await.expect("the server is believed")
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../apart/certificates").join(name)
}
