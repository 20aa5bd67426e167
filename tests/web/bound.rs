//! Calls that are bound to their request, of clients that leave.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{App, HttpServer, web};
use forkpool::ClassHandle;
use forkpool::prelude::*;
use forkpool::web::{self as bound, ClientPolicy, Config, on_connect};

use crate::client::h2;
use crate::client::stage::{Leaving, leave};
use crate::harness::*;
use crate::service::{Client, Service, request};
use crate::yard::{Yard, outcome};

type Path = web::Path<(u64, String)>;

/// Makes a call, and another one if that failed; tells what both came to.
async fn task(pool: bound::Pool<Probe>, yard: web::Data<Yard>, path: Path) -> String {
    let (number, kind) = path.into_inner();
    let first = outcome(pool.send(yard.task(number, &kind)).await);
    yard.tell(&first);
    if first.contains(':') {
        yard.tell(outcome(pool.send(yard.task(number + 100, "ends")).await));
        yard.tell(outcome(pool.checkout().open().call(yard.task(number + 200, "ends")).await));
    }
    first
}

async fn batch(pool: bound::Pool<Probe>, yard: web::Data<Yard>, path: Path) -> String {
    let (number, kind) = path.into_inner();
    let answers = pool.send_batch(vec![yard.task(number, &kind), yard.task(number + 100, "ends")]).await;
    answers.into_iter().for_each(|answer| yard.tell(outcome(answer)));
    String::new()
}

async fn checkout(pool: bound::Pool<Probe>, yard: web::Data<Yard>, path: Path) -> String {
    let (number, kind) = path.into_inner();
    let checkout = pool.checkout().keep_after_error(true).open();
    let (first, second) =
        (checkout.call(yard.task(number, &kind)), checkout.call(yard.task(number + 100, "ends")));
    yard.tell(outcome(first.await));
    yard.tell(outcome(second.await));
    String::new()
}

async fn checkout_batch(pool: bound::Pool<Probe>, yard: web::Data<Yard>, path: Path) -> String {
    let (number, kind) = path.into_inner();
    let checkout = pool.checkout().open();
    for answer in checkout.call_batch(vec![yard.task(number, &kind), yard.task(number + 100, "ends")]).await {
        yard.tell(outcome(answer));
    }
    String::new()
}

async fn of_class(
    pool: bound::Pool<Probe>,
    class: web::Data<ClassHandle<Probe>>,
    yard: web::Data<Yard>,
    path: Path,
) -> String {
    let (number, kind) = path.into_inner();
    outcome(pool.class(&class).send(yard.task(number, &kind)).await)
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/task/{number}/{kind}", web::get().to(task))
        .route("/batch/{number}/{kind}", web::get().to(batch))
        .route("/checkout/{number}/{kind}", web::get().to(checkout))
        .route("/checkout-batch/{number}/{kind}", web::get().to(checkout_batch))
        .route("/class/{number}/{kind}", web::get().to(of_class));
}

/// A service on one thread, with the hook.
fn serve(pool: &PoolHandle<Probe>, yard: &web::Data<Yard>, config: Option<Config>) -> Service {
    let (pool, yard) = (pool.clone(), yard.clone());
    Service::start(move |listener| {
        let app = move || {
            let class = pool.class("thumbnails").most(1).expect("a class");
            let app =
                App::new().app_data(pool.clone()).app_data(yard.clone()).app_data(web::Data::new(class));
            match config.clone() {
                Some(config) => app.app_data(config).configure(routes),
                None => app.configure(routes),
            }
        };
        let server = HttpServer::new(app).workers(1).disable_signals().on_connect(on_connect);
        Ok(server.listen_auto_h2c(listener)?.run())
    })
}

fn half_close() -> Config {
    Config::default().client_policy(ClientPolicy::HalfClose)
}

async fn get(service: &Service, path: &str) -> String {
    let answer = request(service.address, "GET", path, &[], b"").await;
    assert_eq!(answer.status, StatusCode::OK.as_u16());
    answer.text()
}

/// H2
#[test]
fn the_worker_of_a_call_ends_with_its_client() {
    run(async {
        for (leaving, config) in [
            (Leaving::Reset, None),
            (Leaving::Reset, Some(Config::default())),
            (Leaving::Close, Some(half_close())),
            (Leaving::HalfClose, Some(half_close())),
        ] {
            for kind in ["task", "batch", "checkout", "checkout-batch"] {
                let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
                let service = serve(&pool, &yard, config.clone());
                let mut client = Client::connect(service.address).await;
                client.send("GET", &format!("/{kind}/1/spin"), &[], b"").await;
                let worker = yard.begun(1).await;
                let kept = leave(client.0, leaving).await;
                gone(worker).await;
                let next = get(&service, "/task/2/ends").await;
                assert_eq!(next, yard.began()[1].1.to_string(), "{kind} after {leaving:?}");
                assert_eq!(yard.numbers(), [1, 2], "{kind} after {leaving:?}");
                drop(kept);
                service.stop().await;
                pool.stop(Duration::ZERO).await;
            }
        }
    });
}

/// H2
#[test]
fn the_worker_of_a_call_ends_with_its_connection_of_http2() {
    run(async {
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let service = serve(&pool, &yard, None);
        for (number, kind) in (1..).zip(["task", "batch", "checkout", "checkout-batch"]) {
            let mut client = h2::Client::connect(service.address, false).await;
            let response = client.get(&format!("/{kind}/{number}/spin")).await;
            let worker = yard.begun(number).await;
            client.vanish().await;
            gone(worker).await;
            drop(response);
        }
        assert_eq!(yard.numbers(), [1, 2, 3, 4]);
        assert_eq!(get(&service, "/task/5/ends").await, yard.began()[4].1.to_string());
        service.stop().await;
    });
}

/// H2: a handler that goes on is told so, and calls that it makes later do not run.
#[test]
fn a_handler_is_told_that_its_client_is_gone() {
    run(async {
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let service = serve(&pool, &yard, Some(half_close()));
        let mut client = Client::connect(service.address).await;
        client.send("GET", "/task/1/spin", &[], b"").await;
        let worker = yard.begun(1).await;
        drop(client);
        let told = yard.told(3).await;
        for told in &told {
            assert!(
                told.starts_with("cancelled: Task was cancelled: the client of its request is gone"),
                "{told}"
            );
        }
        gone(worker).await;
        assert_eq!(yard.numbers(), [1]);
        let mut client = Client::connect(service.address).await;
        client.send("GET", "/batch/2/spin", &[], b"").await;
        yard.begun(2).await;
        drop(client);
        let told = yard.told(5).await;
        assert!(
            told[3..].iter().all(|told| told.starts_with("cancelled: ")),
            "one answer for each: {told:?}"
        );
        service.stop().await;
    });
}

/// H2
#[test]
fn a_call_that_waits_never_runs_once_its_client_is_gone() {
    run(async {
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let service = serve(&pool, &yard, Some(half_close()));
        let mut first = Client::connect(service.address).await;
        first.send("GET", "/task/1/gated", &[], b"").await;
        let worker = yard.begun(1).await;
        for (number, kind) in (2..).zip(["task", "batch", "checkout", "checkout-batch"]) {
            let mut waiting = Client::connect(service.address).await;
            waiting.send("GET", &format!("/{kind}/{number}/ends"), &[], b"").await;
            until("it waits", || pool.stats().waiting == 1).await;
            let told = yard.told(0).await.len();
            drop(waiting);
            assert!(yard.told(told + 1).await[told].starts_with("cancelled: "));
            until("it waits no more", || pool.stats().waiting == 0).await;
        }
        yard.open();
        assert_eq!(first.answer().await.text(), worker.to_string());
        assert_eq!(get(&service, "/task/9/ends").await, worker.to_string(), "no worker has ended");
        assert_eq!(yard.numbers(), [1, 9]);
        service.stop().await;
    });
}

/// H2: where that is agreed.
#[test]
fn a_call_may_finish_without_its_client() {
    run(async {
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let service = serve(&pool, &yard, Some(half_close().on_client_gone(OnCancel::Finish)));
        let mut client = Client::connect(service.address).await;
        client.send("GET", "/task/1/gated", &[], b"").await;
        let worker = yard.begun(1).await;
        drop(client);
        let told = yard.told(1).await;
        assert!(told[0].contains("it may finish"), "{told:?}");
        yard.open();
        assert_eq!(get(&service, "/task/2/ends").await, worker.to_string());
        assert_eq!(pool.stats().unheard, 1);
        service.stop().await;
    });
}

/// H2: here actix-web drops the handler itself, and forkpool has no hook.
#[test]
fn a_call_ends_with_the_future_of_its_handler() {
    run(async {
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let (handle, data) = (web::Data::new(pool.clone()), yard.clone());
        let service = Service::start(move |listener| {
            let app = move || {
                let app = App::new().app_data(Config::default().client_policy(ClientPolicy::Ignore));
                app.app_data(handle.clone()).app_data(data.clone()).configure(routes)
            };
            let server = HttpServer::new(app).workers(1).disable_signals().h1_allow_half_closed(false);
            Ok(server.listen(listener)?.run())
        });
        for (number, kind) in (1..).zip(["task", "batch", "checkout", "checkout-batch"]) {
            let mut client = Client::connect(service.address).await;
            client.send("GET", &format!("/{kind}/{number}/spin"), &[], b"").await;
            let worker = yard.begun(number).await;
            drop(client);
            gone(worker).await;
        }
        assert!(yard.told(0).await.is_empty(), "no handler went on");
        service.stop().await;
    });
}

#[test]
fn the_calls_of_a_class_are_bound_as_well() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        let yard = web::Data::new(Yard::new());
        let service = serve(&pool, &yard, Some(half_close()));
        let mut first = Client::connect(service.address).await;
        first.send("GET", "/class/1/spin", &[], b"").await;
        let worker = yard.begun(1).await;
        let mut second = Client::connect(service.address).await;
        second.send("GET", "/class/2/ends", &[], b"").await;
        until("it waits at the bulkhead", || pool.stats().waiting == 1).await;
        get(&service, "/task/3/ends").await;
        assert_eq!(yard.numbers(), [1, 3]);
        drop(first);
        gone(worker).await;
        second.answer().await;
        assert_eq!(yard.numbers(), [1, 3, 2]);
        service.stop().await;
    });
}

#[test]
fn a_pool_that_is_missing_is_an_error_that_says_what_to_add() {
    run(async {
        keep_events();
        let service = Service::start(|listener| {
            let app = || App::new().app_data(web::Data::new(Yard::new())).configure(routes);
            Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
        });
        let answer = request(service.address, "GET", "/task/1/ends", &[], b"").await;
        assert_eq!(answer.status, 500);
        assert!(!answer.text().contains("Probe"), "a client is not told");
        let found = || events("forkpool").into_iter().find(|event| event.message().contains("finds no pool"));
        until("it is logged", || found().is_some()).await;
        let event = found().expect("it was there");
        assert!(event.message().contains(".app_data(pool.clone())"), "{event:?}");
        assert!(event.field("worker").ends_with("Probe"), "{event:?}");
        assert_eq!(event.field("handler"), "/task/{number}/{kind}");
        service.stop().await;
    });
}
