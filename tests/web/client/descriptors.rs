//! What watching costs: a descriptor per connection, for as long as a request of it watches.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use actix_web::{App, HttpRequest, HttpServer, web};
use forkpool::web::{ClientGone, ClientPolicy, on_connect};

use super::h2;
use super::stage::*;
use crate::harness::*;
use crate::service::{Client, Service};

/// Watches for a moment.
async fn glance(request: HttpRequest) -> String {
    let mut gone = ClientGone::of(&request, ClientPolicy::HalfClose);
    let another = gone.clone();
    let is_gone = poll_fn(|cx| Poll::Ready(pin!(&mut gone).poll(cx).is_ready())).await;
    drop(another);
    is_gone.to_string()
}

/// H2
#[test]
fn a_hundred_requests_over_ten_connections_leave_no_descriptor() {
    run(async {
        let service = Service::start(|listener| {
            let app = || {
                let app = App::new().route("/here", web::get().to(async || "here"));
                app.route("/glance", web::get().to(glance))
            };
            let server = HttpServer::new(app).workers(1).disable_signals().on_connect(on_connect);
            Ok(server.listen(listener)?.run())
        });
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = Client::connect(service.address).await;
            client.send("GET", "/here", &[], b"").await;
            assert_eq!(client.answer().await.text(), "here");
            clients.push(client);
        }
        let before = descriptors();
        for _ in 0..10 {
            for client in &mut clients {
                client.send("GET", "/glance", &[], b"").await;
                assert_eq!(client.answer().await.text(), "false");
            }
        }
        assert_eq!(descriptors(), before);
        drop(clients);
        service.stop().await;
    });
}

/// H2
#[test]
fn a_connection_has_one_duplicate_while_its_requests_watch() {
    run(async {
        let stage = Stage::new();
        let service = serve(&stage, true, true);
        let mut client = h2::Client::connect(service.address, false).await;
        assert_eq!(client.text("/").await, "here");
        let idle = descriptors().len();
        let mut responses = Vec::new();
        for _ in 0..10 {
            responses.push(client.get("/watch/reset").await);
            assert_eq!(stage.next().await, Fate::Began);
        }
        // A handler tells that it has begun before it watches.
        assert_eq!(client.text("/").await, "here");
        assert_eq!(descriptors().len(), idle + 1);
        stage.may_finish.add_permits(10);
        for response in responses {
            assert_eq!(h2::text(response).await, "done");
        }
        assert_eq!(client.text("/").await, "here");
        assert_eq!(descriptors().len(), idle);
        client.vanish().await;
        service.stop().await;
    });
}

/// H2: a handler of HTTP/2 may outlive its connection.
#[test]
fn a_watch_does_not_keep_a_connection_open() {
    run(async {
        let stage = Stage::new();
        let late = stage.clone();
        let service = Service::start(move |listener| {
            let stage = late.clone();
            let app = move || {
                App::new().app_data(stage.clone()).configure(routes).route("/late", web::get().to(late_look))
            };
            let server = HttpServer::new(app).workers(1).disable_signals().on_connect(on_connect);
            Ok(server.listen_auto_h2c(listener)?.run())
        });
        let mut client = h2::Client::connect(service.address, false).await;
        let port = client.port;
        drop(client.get("/late").await);
        assert_eq!(stage.next().await, Fate::Began);
        client.vanish().await;
        kernel_knows(service.address, port).await;
        assert_eq!(stage.next().await, Fate::Told);
        settle(&service).await;
        until("the server's side is closed although its handler goes on", || !is_open(port)).await;
        // Most likely one of them has the number that the connection had.
        let mut others = Vec::new();
        for _ in 0..4 {
            others.push(begun(&service, &stage, "/watch/half-close").await);
        }
        stage.may_finish.add_permits(1);
        assert_eq!(stage.next().await, Fate::Told, "the first handler asks again");
        assert_eq!(stage.has_happened(), None, "the others are there");
        stage.may_finish.add_permits(4);
        for other in &mut others {
            assert_eq!(other.answer().await.text(), "done");
        }
        drop(others);
        service.stop().await;
    });
}

/// Watches its connection to its end, waits, and asks anew about a connection that is gone by then.
async fn late_look(stage: web::Data<Stage>, request: HttpRequest) -> &'static str {
    stage.tell(Fate::Began);
    let gone = ClientGone::of(&request, ClientPolicy::Reset);
    let mut kept = gone.clone();
    (&mut kept).await;
    stage.tell(Fate::Told);
    stage.may_finish.acquire().await.expect("it stays open").forget();
    ClientGone::of(&request, ClientPolicy::Reset).await;
    stage.tell(Fate::Told);
    drop((gone, kept));
    "late"
}

/// Whether the server has not closed its side of a connection yet.
fn is_open(client_port: u16) -> bool {
    let client = format!(":{client_port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // ESTABLISHED or CLOSE_WAIT.
        fields.len() > 3 && fields[2].ends_with(&client) && ["01", "08"].contains(&fields[3])
    })
}
