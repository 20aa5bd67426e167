//! The dashboard: what it shows, who may act, and what others are told.

use std::time::{Duration, Instant};

use actix_web::{App, HttpServer, guard, web};
use forkpool::prelude::*;
use forkpool::web::{Dashboard, Detail, dashboard};
use serde_json::{Value, json};

use crate::client::h2;
use crate::harness::*;
use crate::service::{Answer, Client, Service, request};
use crate::yard::Yard;

/// Serves what `make` makes for each of two threads, below `/ops`.
fn serve(make: impl Fn() -> Dashboard + Clone + Send + 'static) -> Service {
    Service::start(|listener| {
        let app = move || App::new().service(web::scope("/ops").service(make()));
        let server = HttpServer::new(app).workers(2).disable_signals();
        Ok(server.listen_auto_h2c(listener)?.run())
    })
}

fn is_admin(context: &guard::GuardContext<'_>) -> bool {
    context.head().headers().get("authorization").is_some_and(|value| value == "admin")
}

fn with_actions(pool: &PoolHandle<Probe>) -> impl Fn() -> Dashboard + Clone + Send + 'static {
    let pool = pool.clone();
    move || dashboard("/_pool", &pool).read_only(false).guard(guard::fn_guard(is_admin))
}

async fn get(service: &Service, path: &str) -> Answer {
    request(service.address, "GET", path, &[], b"").await
}

async fn get_json(service: &Service, path: &str) -> Value {
    let answer = get(service, path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

const JSON: (&str, &str) = ("content-type", "application/json");
const SCRIPT: (&str, &str) = ("x-forkpool", "1");
const ADMIN: (&str, &str) = ("authorization", "admin");

/// Sends an action as a script of an administrator does.
async fn act(service: &Service, path: &str) -> (u16, String) {
    let answer = request(service.address, "POST", path, &[JSON, SCRIPT, ADMIN], b"{}").await;
    (answer.status, answer.text())
}

/// Removes what changes while nothing happens.
fn at_rest(mut snapshot: Value) -> Value {
    snapshot["uptime"] = Value::Null;
    for worker in snapshot["workers"].as_array_mut().expect("workers") {
        worker["age"] = Value::Null;
        worker["cpu_time"] = Value::Null;
    }
    snapshot
}

/// M1: the numbers are those of the snapshot.
#[test]
fn the_data_is_the_snapshot_of_each_pool() {
    run(async {
        let named = |name: &str| pool().name(name).workers(1..=2).start().expect("the pool starts");
        let pools = [named("a b?c"), named("a b?c")];
        for pool in &pools {
            assert!(answer(pool.send(Pid)).await.is_ok());
            settled(pool, 1).await;
        }
        let shown = pools.clone();
        let service = serve(move || dashboard("/_pool", &shown));
        let overview = get_json(&service, "/ops/_pool/snapshot.json").await;
        assert_eq!((&overview["actions"], &overview["dossiers"]), (&json!(false), &json!(false)));
        for (at, key) in ["a b?c", "a b?c-2"].into_iter().enumerate() {
            let mut expected = serde_json::to_value(pools[at].snapshot()).expect("JSON");
            expected["key"] = json!(key);
            assert_eq!(at_rest(overview["pools"][at].clone()), at_rest(expected));
        }
        assert_eq!(get(&service, "/ops/_pool/other.json").await.status, 404);
        service.stop().await;
    });
}

/// M3: a page without anything from elsewhere, which no other page may frame, and whose scripts nothing can imitate.
#[test]
fn the_page_runs_its_own_script_and_no_other() {
    run(async {
        let pool = pool_of_one();
        let service = serve(move || dashboard("/_pool", &pool));
        let mut nonces = Vec::new();
        for path in ["/ops/_pool", "/ops/_pool/"] {
            let page = get(&service, path).await;
            assert_eq!(
                (page.status, page.headers["content-type"].as_str()),
                (200, "text/html; charset=utf-8")
            );
            let policy = page.headers["content-security-policy"].clone();
            let nonce = policy.split("script-src 'nonce-").nth(1).and_then(|rest| rest.split('\'').next());
            let nonce = nonce.expect("a nonce").to_owned();
            assert_eq!(
                policy,
                format!(
                    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
                     connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
                )
            );
            assert_eq!(page.text().matches(&format!("nonce=\"{nonce}\"")).count(), 2);
            nonces.push(nonce);
        }
        assert_ne!(nonces[0], nonces[1]);
        for path in ["/ops/_pool", "/ops/_pool/snapshot.json", "/ops/_pool/failures.json", "/ops/_pool/other"]
        {
            let headers = get(&service, path).await.headers;
            assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
            assert_eq!(headers["cache-control"], "no-store", "{path}");
            assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
            assert!(headers["content-security-policy"].contains("frame-ancestors 'none'"), "{path}");
        }
        service.stop().await;
    });
}

#[test]
fn the_application_may_choose_the_nonce() {
    run(async {
        let pool = pool_of_one();
        let service =
            serve(move || dashboard("/_pool", &pool).csp_nonce(|request| request.query_string().to_owned()));
        let page = get(&service, "/ops/_pool?abc123").await;
        assert!(page.headers["content-security-policy"].contains("script-src 'nonce-abc123'"));
        assert!(page.text().contains("<script nonce=\"abc123\">"));
        for bad in ["", "a'b", "a%22b"] {
            let page = get(&service, &format!("/ops/_pool?{bad}")).await;
            assert_eq!(page.status, 500, "{bad:?}");
            assert!(!page.text().contains("script"), "{}", page.text());
        }
        service.stop().await;
    });
}

/// M3
#[test]
fn a_read_only_dashboard_has_no_actions() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let before = pool.snapshot().workers;
        let shown = pool.clone();
        let service = serve(move || dashboard("/_pool", &shown));
        let (key, number) = (pool.name().to_owned(), before[0].number);
        for action in [
            "recycle",
            "pause",
            "resume",
            &format!("workers/{number}/kill"),
            &format!("workers/{number}/drain"),
        ] {
            assert_eq!(act(&service, &format!("/ops/_pool/{key}/{action}")).await.0, 404, "{action}");
        }
        let after = pool.snapshot();
        assert_eq!((after.workers[0].pid, after.paused), (before[0].pid, false));
        service.stop().await;
    });
}

/// M3: the caller of a killed worker is told, another worker takes its place, and the log says who did it.
#[test]
fn an_administrator_kills_a_worker() {
    run(async {
        keep_events();
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let service = serve(with_actions(&pool));
        let yard = Yard::new();
        let call = pool.send(yard.task(0, "spin"));
        // One that was only written to the worker would run on the next one.
        yard.begun(1).await;
        let victim = pool.snapshot().workers.remove(0);
        let path = format!("/ops/_pool/{}/workers/{}/kill", pool.name(), victim.number);
        assert_eq!(act(&service, &path).await, (200, "the worker is killed".to_owned()));
        gone(victim.pid).await;
        assert_eq!(answer(call).await.expect_err("it was killed").kind(), FailureKind::Aborted);
        settled(&pool, 1).await;
        let shown = get_json(&service, "/ops/_pool/snapshot.json").await;
        let pids: Vec<&Value> = shown["pools"][0]["workers"].as_array().into_iter().flatten().collect();
        assert!(pids.iter().all(|worker| worker["pid"] != json!(victim.pid)), "{pids:?}");
        assert_eq!(act(&service, &path).await, (404, "there is no such worker any more".to_owned()));
        until("it is logged", || events("forkpool::web").len() == 2).await;
        let logged = events("forkpool::web");
        assert_eq!(logged[0].message(), "a viewer of the dashboard acted: the worker is killed");
        assert_eq!((logged[0].field("action"), logged[0].field("pool")), ("kill", pool.name()));
        assert!(logged[0].field("peer").starts_with("127.0.0.1:"), "{logged:?}");
        assert_eq!(logged[1].level, tracing::Level::WARN);
        service.stop().await;
    });
}

/// M3
#[test]
fn an_administrator_drains_recycles_and_pauses() {
    run(async {
        let pool = pool().name("a+b%? ü").workers(1..=1).start().expect("the pool starts");
        settled(&pool, 1).await;
        let service = serve(with_actions(&pool));
        let of_pool = |action: &str| format!("/ops/_pool/a%2Bb%25%3F%20%C3%BC/{action}");
        let mut pid = pool.snapshot().workers[0].pid;
        let drain = of_pool(&format!("workers/{}/drain", pool.snapshot().workers[0].number));
        for path in [drain, of_pool("recycle")] {
            assert_eq!(act(&service, &path).await.0, 200, "{path}");
            gone(pid).await;
            settled(&pool, 1).await;
            pid = pool.snapshot().workers[0].pid;
        }
        assert_eq!(act(&service, &of_pool("pause")).await, (200, "the pool is paused".to_owned()));
        assert_eq!(act(&service, &of_pool("pause")).await.0, 409);
        assert_eq!(get_json(&service, "/ops/_pool/snapshot.json").await["pools"][0]["paused"], json!(true));
        assert_eq!(act(&service, &of_pool("resume")).await.0, 200);
        assert_eq!(act(&service, &of_pool("resume")).await.0, 409);
        assert_eq!(answer(pool.send(Pid)).await, Ok(pid));
        for (path, status) in [("other/pause", 404), ("a%2Bb%25%3F%20%C3%BC/workers/x/kill", 404)] {
            assert_eq!(act(&service, &format!("/ops/_pool/{path}")).await.0, status, "{path}");
        }
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert_eq!(act(&service, &of_pool("pause")).await.0, 409);
        assert_eq!(act(&service, &of_pool("recycle")).await.0, 409);
        service.stop().await;
    });
}

/// A method and headers, and the status and a part of the line that they are answered with.
type Refused<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

/// M3: what the page itself would not send, and what the guard refuses, changes nothing and is told why.
#[test]
fn nothing_of_another_origin_is_obeyed() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let service = serve(with_actions(&pool));
        let own = ("origin", "http://test");
        let site = |site| ("sec-fetch-site", site);
        let form = ("content-type", "application/x-www-form-urlencoded");
        let table: &[Refused<'_>] = &[
            ("POST", &[JSON, SCRIPT], 403, "guard"),
            ("POST", &[JSON, SCRIPT, ("authorization", "user")], 403, "guard"),
            ("POST", &[SCRIPT, ADMIN], 415, "application/json"),
            ("POST", &[form, SCRIPT, ADMIN], 415, "application/json"),
            ("POST", &[("content-type", "text/plain"), SCRIPT, ADMIN], 415, "application/json"),
            ("POST", &[("content-type", "application/jsonp"), SCRIPT, ADMIN], 415, "application/json"),
            ("POST", &[JSON, ADMIN], 403, "x-forkpool"),
            ("POST", &[JSON, SCRIPT, ADMIN, ("origin", "http://evil.test")], 403, "Origin"),
            ("POST", &[JSON, SCRIPT, ADMIN, ("origin", "null")], 403, "Origin"),
            ("POST", &[JSON, SCRIPT, ADMIN, own, site("cross-site")], 403, "Sec-Fetch-Site"),
            ("POST", &[JSON, SCRIPT, ADMIN, own, site("same-site")], 403, "Sec-Fetch-Site"),
            ("GET", &[JSON, SCRIPT, ADMIN], 405, "POST"),
            ("PUT", &[JSON, SCRIPT, ADMIN], 405, "POST"),
            ("OPTIONS", &[ADMIN, ("origin", "http://evil.test")], 405, "POST"),
        ];
        let path = format!("/ops/_pool/{}/pause", pool.name());
        for (method, headers, status, why) in table {
            let answer = request(service.address, method, &path, headers, b"").await;
            assert_eq!(answer.status, *status, "{method} {headers:?}: {}", answer.text());
            assert!(answer.text().contains(why), "{method} {headers:?}: {}", answer.text());
            assert!(!answer.headers.keys().any(|name| name.starts_with("access-control")), "{headers:?}");
            assert!(!pool.snapshot().paused, "{method} {headers:?}");
        }
        let good: &[(&str, &str)] =
            &[("content-type", "Application/JSON; charset=utf-8"), SCRIPT, ADMIN, own, site("same-origin")];
        assert_eq!(request(service.address, "POST", &path, good, b"{}").await.status, 200);
        assert!(pool.snapshot().paused);
        service.stop().await;
    });
}

/// M3: over HTTP/2 the host is in the pseudo-header.
#[test]
fn the_host_of_http2_is_compared_as_well() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let service = serve(with_actions(&pool));
        let mut client = h2::Client::connect(service.address, false).await;
        assert!(client.text("/ops/_pool/snapshot.json").await.starts_with("{\"version\""));
        for (origin, status, is_paused) in [("http://evil.test", 403, false), ("http://test", 200, true)] {
            let request = http::Request::post(format!("http://test/ops/_pool/{}/pause", pool.name()));
            let headers = [JSON, SCRIPT, ADMIN, ("origin", origin)];
            let request =
                headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
            let response = client.send(request.body(()).expect("a request")).await;
            let response = bounded("a response", response).await.expect("a response");
            assert_eq!(response.status().as_u16(), status, "{origin}");
            assert_eq!(pool.snapshot().paused, is_paused, "{origin}");
        }
        client.vanish().await;
        service.stop().await;
    });
}

/// M3
#[test]
fn a_guard_of_the_views_hides_all_of_it() {
    run(async {
        let pool = pool_of_one();
        let service =
            serve(move || dashboard("/_pool", &pool).guard(guard::fn_guard(is_admin)).guard_viewing(true));
        for path in ["/ops/_pool", "/ops/_pool/snapshot.json", "/ops/_pool/failures.json"] {
            assert_eq!(get(&service, path).await.status, 404, "{path}");
            assert_eq!(request(service.address, "GET", path, &[ADMIN], b"").await.status, 200, "{path}");
        }
        service.stop().await;
    });
}

/// M3: an application that forgets its guard does not start, and says what to add.
#[test]
fn guards_that_are_missing_or_guard_nothing_end_the_start() {
    run(async {
        let pool = pool_of_one();
        let guarded = || dashboard("/_pool", &pool).guard(guard::fn_guard(is_admin));
        for (dashboard, expected) in [
            (
                dashboard("/_pool", &pool).read_only(false),
                "forkpool::web::dashboard(\"/_pool\", …).read_only(false).guard(",
            ),
            (guarded(), ".guard(…).guard_viewing(true)"),
            (dashboard("/_pool", &pool).guard_viewing(true), ".guard_viewing(true).guard("),
        ] {
            let started = actix_rt::spawn(async move {
                actix_web::test::init_service(App::new().service(dashboard)).await;
            });
            let panic = started.await.expect_err("it panics").into_panic();
            let text = panic.downcast_ref::<String>().expect("a text");
            assert!(text.contains(expected), "{text}");
        }
    });
}

/// M3: what failures say is shown where that was asked for.
#[test]
fn dossiers_are_shown_on_demand() {
    run(async {
        let pool = pool().name("<b>").workers(1..=1).start().expect("the pool starts");
        assert!(answer(pool.send(Panic("the secret of a user".to_owned()))).await.is_err());
        assert!(answer(pool.send(Exit(3))).await.is_err());
        for (detail, shows) in [(Detail::Kind, false), (Detail::Lines, true)] {
            let shown = pool.clone();
            let service = serve(move || dashboard("/_pool", &shown).show_dossiers(detail));
            let snapshot = get(&service, "/ops/_pool/snapshot.json").await.text();
            assert_eq!(snapshot.contains("the secret of a user"), shows);
            let failures = get_json(&service, "/ops/_pool/failures.json").await;
            let failures = &failures["pools"][0]["failures"];
            let panic = &failures[0];
            assert_eq!((&panic["kind"], &panic["call"]), (&json!("panic"), &json!("Panic")));
            assert_eq!(failures.to_string().contains("the secret of a user"), shows);
            let dossier = panic["dossier"].as_str().unwrap_or_default();
            assert_eq!(dossier.contains("\n  panic       | the secret of a user\n"), shows, "{dossier}");
            let later = get_json(&service, "/ops/_pool/failures.json?pool=%3Cb%3E&since=1").await;
            let later = later["pools"][0]["failures"].as_array().expect("failures");
            assert_eq!(later.iter().map(|failure| &failure["number"]).collect::<Vec<_>>(), [&json!(2)]);
            assert_eq!(get(&service, "/ops/_pool/failures.json?pool=other").await.status, 404);
            assert_eq!(get(&service, "/ops/_pool/failures.json?since=x").await.status, 400);
            service.stop().await;
        }
    });
}

/// M2: viewers at the same time see one snapshot, on all threads of the server.
#[test]
fn viewers_share_snapshots() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let shown = pool.clone();
        let service = serve(move || dashboard("/_pool", &shown));
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(Client::connect(service.address).await);
        }
        let before = pool.snapshot().uptime;
        let mut uptimes = Vec::new();
        for at in 0..200 {
            let client = &mut clients[at % 8];
            client.send("GET", "/ops/_pool/snapshot.json", &[], b"").await;
            let overview: Value = serde_json::from_slice(&client.answer().await.body).expect("JSON");
            uptimes.push(overview["pools"][0]["uptime"].as_f64().expect("a number"));
        }
        let passed = (pool.snapshot().uptime - before).as_secs_f64();
        assert!(uptimes.is_sorted(), "time goes on: {uptimes:?}");
        uptimes.dedup();
        let most = passed / 0.9 + 2.0;
        assert!(uptimes.len() as f64 <= most, "{} snapshots in {passed} s", uptimes.len());
        drop(clients);
        service.stop().await;
    });
}

/// M2: the application is woken once for all of its viewers, however they began.
#[test]
fn viewers_are_to_ask_again_at_the_same_moment() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let shown = pool.clone();
        let service = serve(move || dashboard("/_pool", &shown));
        // The moments that the answers mean are known as well as the times of the answers are.
        let mut moments = Vec::new();
        for _ in 0..20 {
            let asked = Instant::now();
            let answer = get(&service, "/ops/_pool/snapshot.json").await;
            let answered = Instant::now();
            let wait: u64 = answer.headers["x-forkpool-ask-again"].parse().expect("milliseconds");
            assert!((500..=1500).contains(&wait), "{wait}");
            let wait = Duration::from_millis(wait);
            moments.push((asked + wait, answered + wait + Duration::from_millis(1)));
            actix_rt::time::sleep(Duration::from_millis(29)).await;
        }
        // They differ by whole seconds.
        let (first, slack) = (moments[0].0, moments[0].1 - moments[0].0);
        for &(earliest, latest) in &moments {
            let mut seconds = (0..60).map(|seconds| first + Duration::from_secs(seconds));
            assert!(seconds.any(|at| earliest <= at + slack && at <= latest), "of {moments:?}");
        }
        service.stop().await;
    });
}

/// A dashboard looks on: its pool ends with the last handle, and is shown as it is.
#[test]
fn a_dashboard_does_not_keep_its_pools_running() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let pid = pool.snapshot().workers[0].pid;
        let dashboard = dashboard("/_pool", &pool);
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Pid)).await.is_ok());
        drop(pool);
        let app = actix_web::test::init_service(App::new().service(dashboard)).await;
        let status = async || {
            let request = actix_web::test::TestRequest::get().uri("/_pool/snapshot.json").to_request();
            let overview: Value = actix_web::test::call_and_read_body_json(&app, request).await;
            overview["pools"][0]["status"].clone()
        };
        assert_eq!(status().await, json!("closing"));
        drop(checkout);
        gone(pid).await;
        let patience = std::time::Instant::now() + PATIENCE;
        while status().await != json!("stopped") {
            assert!(std::time::Instant::now() < patience, "the pool has not stopped");
            actix_rt::time::sleep(Duration::from_millis(1)).await;
        }
    });
}
