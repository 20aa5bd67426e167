//! What a request has around it: a span, an error context and a log.

use std::sync::mpsc::{Receiver, Sender, channel};

use actix_web::{App, HttpServer, web};
use forkpool::prelude::*;
use forkpool::web::{self as bound, ClientPolicy, Config, Requests, on_connect};
use forkpool::{ContextFailure, FinishedLog, LogLevel, LogMessage, RequestLog};
use serde_json::json;

use crate::harness::*;
use crate::service::{Client, Service, request};
use crate::yard::{Yard, outcome};

/// The context and the span in force.
async fn place() -> String {
    // In force again after a pause as well.
    actix_rt::task::yield_now().await;
    let context = ErrorContext::current().map(|context| context.name().to_owned());
    let span = tracing::Span::current().metadata().map(tracing::Metadata::name);
    format!("{context:?} {span:?}")
}

/// Writes into its log by itself and by a worker.
async fn write(pool: bound::Pool<Scribe>, log: RequestLog) -> String {
    log.warn("from the handler");
    outcome(pool.send(Write::EveryKind).await)
}

async fn fail(pool: bound::Pool<Probe>) -> actix_web::Result<String> {
    let failure = pool.send(Fail("not today".to_owned())).await.expect_err("it fails");
    Err(actix_web::error::ErrorBadGateway(failure.to_string()))
}

async fn task(pool: bound::Pool<Probe>, yard: web::Data<Yard>, path: web::Path<(u64, String)>) -> String {
    outcome(pool.send(yard.task(path.0, &path.1)).await)
}

async fn logged(_: RequestLog) -> &'static str {
    "there is one"
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/place/{id}", web::get().to(place))
        .service(web::scope("/v{version}").route("/users/{id}/place", web::post().to(place)))
        .route("/write", web::get().to(write))
        .route("/fail/{id}", web::get().to(fail))
        .route("/task/{number}/{kind}", web::get().to(task))
        .route("/logged", web::get().to(logged))
        .default_service(web::to(place));
}

fn serve<W: Worker>(pool: &PoolHandle<W>, yard: &web::Data<Yard>, requests: Requests) -> Service {
    let (pool, yard) = (pool.clone(), yard.clone());
    Service::start(move |listener| {
        let app = move || {
            App::new()
                .app_data(pool.clone())
                .app_data(yard.clone())
                .app_data(Config::default().client_policy(ClientPolicy::HalfClose))
                .wrap(requests.clone())
                .configure(routes)
        };
        let server = HttpServer::new(app).workers(1).disable_signals().on_connect(on_connect);
        Ok(server.listen(listener)?.run())
    })
}

/// A middleware with logs, and where they come to.
fn with_logs() -> (Requests, Receiver<FinishedLog>) {
    let (sender, delivered): (Sender<FinishedLog>, _) = channel();
    let deliver = move |log| sender.send(log).expect("the test waits for it");
    (Requests::new().request_log(deliver), delivered)
}

async fn delivered(logs: &Receiver<FinishedLog>) -> FinishedLog {
    let mut log = None;
    until("a log is delivered", || {
        log = logs.try_recv().ok();
        log.is_some()
    })
    .await;
    log.expect("it was there")
}

/// The ends of requests that were told, as method, route and status, once there are so many.
async fn ends(count: usize) -> Vec<[String; 3]> {
    until("the ends are told", || events("forkpool::web").len() >= count).await;
    let fields = |event: &Seen| ["method", "route", "status"].map(|name| event.field(name).to_owned());
    events("forkpool::web").iter().map(fields).collect()
}

#[test]
fn a_request_has_a_span_and_a_context_that_is_called_by_its_route() {
    run(async {
        keep_events();
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let service = serve(&pool, &yard, Requests::new());
        for (method, path, name) in [
            ("GET", "/place/7", "GET /place/{id}"),
            ("POST", "/v2/users/7/place", "POST /v{version}/users/{id}/place"),
            ("PUT", "/nothing/here", "PUT (none)"),
        ] {
            let answer = request(service.address, method, path, &[], b"").await;
            assert_eq!(answer.text(), format!("Some({name:?}) Some(\"request\")"));
        }
        request(service.address, "GET", "/fail/7", &[], b"").await;
        let expected = [
            ["GET", "/place/{id}", "200"],
            ["POST", "/v{version}/users/{id}/place", "200"],
            ["PUT", "(none)", "200"],
            ["GET", "/fail/{id}", "502"],
        ];
        assert_eq!(ends(4).await, expected);
        service.stop().await;
    });
}

#[test]
fn a_request_whose_client_is_gone_has_the_status_499_in_the_log() {
    run(async {
        keep_events();
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let (requests, logs) = with_logs();
        // The bound call sees it, and the handler goes on to a response that no client reads.
        let service = serve(&pool, &yard, requests.clone());
        let mut client = Client::connect(service.address).await;
        client.send("GET", "/task/1/spin", &[], b"").await;
        yard.begun(1).await;
        drop(client);
        assert_eq!(ends(1).await, [["GET", "/task/{number}/{kind}", "499"]]);
        assert_eq!(delivered(&logs).await.data.get("status"), Some(&json!(499)));
        service.stop().await;
        // The handler is dropped.
        let (handle, data) = (pool.clone(), yard.clone());
        let service = Service::start(move |listener| {
            let app = move || {
                let app = App::new().app_data(handle.clone()).app_data(data.clone());
                app.wrap(requests.clone()).configure(routes)
            };
            let server = HttpServer::new(app).workers(1).disable_signals().h1_allow_half_closed(false);
            Ok(server.listen(listener)?.run())
        });
        let mut client = Client::connect(service.address).await;
        client.send("GET", "/task/2/spin", &[], b"").await;
        let worker = yard.begun(2).await;
        drop(client);
        gone(worker).await;
        assert_eq!(ends(2).await[1], ["GET", "/task/{number}/{kind}", "499"]);
        assert_eq!(delivered(&logs).await.data.get("status"), Some(&json!(499)));
        service.stop().await;
    });
}

#[test]
fn the_log_of_a_request_has_what_its_workers_say() {
    run(async {
        let (pool, yard) = (scribes(), web::Data::new(Yard::new()));
        let (requests, logs) = with_logs();
        let service = serve(&pool, &yard, requests.verbosity(LogLevel::WARN));
        for _ in 0..2 {
            let answer = request(service.address, "GET", "/write", &[], b"").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let log = delivered(&logs).await;
            let texts = Vec::from_iter(log.messages.iter().map(LogMessage::text));
            assert_eq!(texts, ["from the handler", "an error", "a warning"]);
            let timers = Vec::from_iter(log.timers.iter().map(|timer| timer.name.as_str()));
            assert_eq!(timers, ["Write"]);
            let value = |name: &str| log.data.get(name).cloned();
            assert_eq!(value("method"), Some(json!("GET")));
            assert_eq!(value("route"), Some(json!("/write")));
            assert_eq!(value("status"), Some(json!(200)));
        }
        service.stop().await;
    });
}

#[test]
fn a_handler_that_wants_a_log_where_there_is_none_is_an_error() {
    run(async {
        keep_events();
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let service = serve(&pool, &yard, Requests::new());
        assert_eq!(request(service.address, "GET", "/logged", &[], b"").await.status, 500);
        let is_told = || events("forkpool").iter().any(|event| event.message().contains(".request_log("));
        until("it is logged", is_told).await;
        service.stop().await;
        let (requests, logs) = with_logs();
        let service = serve(&pool, &yard, requests);
        assert_eq!(request(service.address, "GET", "/logged", &[], b"").await.status, 200);
        delivered(&logs).await;
        service.stop().await;
    });
}

/// X4: the handler of the web request is told, and makes a response of it.
#[test]
fn the_failure_of_an_awaited_call_is_told_to_handlers_and_by_itself_to_none() {
    run(async {
        keep_events();
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let (sender, failures) = channel();
        let named = Requests::new().context(move |context, request| {
            let (sender, path) = (sender.clone(), request.path().to_owned());
            context.on_failure(move |failure: ContextFailure| {
                sender
                    .send(format!("{} in {} at {path}", failure.failure(), failure.context().name()))
                    .expect("the test listens");
            })
        });
        for requests in [Requests::new(), named] {
            let service = serve(&pool, &yard, requests);
            assert_eq!(request(service.address, "GET", "/fail/7", &[], b"").await.status, 502);
            service.stop().await;
        }
        let mut told = None;
        until("the handler is told", || {
            told = failures.try_recv().ok();
            told.is_some()
        })
        .await;
        assert_eq!(told.as_deref(), Some("not today in GET /fail/{id} at /fail/7"));
        let is_unended = |event: &Seen| event.message().contains("no handler has ended it");
        assert!(!events("forkpool").iter().any(is_unended));
    });
}
