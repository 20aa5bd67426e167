//! The deadline of a request, and that of its calls.

use std::time::Duration;

use actix_web::{App, HttpServer, web};
use forkpool::prelude::*;
use forkpool::web::{self as bound, Config};

use crate::harness::*;
use crate::service::{Service, request};
use crate::yard::{Yard, outcome};

const HEADER: &str = "x-request-timeout-ms";

/// What handlers in workers see: of a call, of one with a shorter and a longer limit, of a batch, and on a checkout.
async fn left(pool: bound::Pool<Probe>) -> String {
    let single = outcome(pool.send(TimeLeft).await);
    let short = outcome(pool.send_within(Duration::from_millis(400), TimeLeft).await);
    let long = outcome(pool.send_within(Duration::from_secs(900), TimeLeft).await);
    let batch = pool.send_batch(vec![TimeLeft]).await.into_iter().map(outcome).collect::<String>();
    let checkout = pool.checkout().timeout(None).open();
    let direct = outcome(checkout.call(TimeLeft).await);
    let direct_long = outcome(checkout.call_within(Duration::from_secs(900), TimeLeft).await);
    [single, short, long, batch, direct, direct_long].join(",")
}

/// A call that is too long, and one that is made behind it.
async fn late(pool: bound::Pool<Probe>, yard: web::Data<Yard>) -> String {
    let first = outcome(pool.send(yard.task(1, "spin")).await);
    let second = outcome(pool.send(yard.task(2, "ends")).await);
    format!("{first}|{second}")
}

/// Many calls, each of which is short enough.
async fn many(pool: bound::Pool<Probe>, way: web::Path<String>) -> String {
    let messages = || Vec::from_iter((0..1000).map(|number| Slow(Duration::from_millis(20), number)));
    let checkout = pool.checkout().open();
    let answers = match way.as_str() {
        "batch" => {
            drop(checkout);
            pool.send_batch(messages()).await
        }
        "checkout-batch" => checkout.call_batch(messages()).await,
        _ => {
            let calls = Vec::from_iter(messages().into_iter().map(|message| checkout.call(message)));
            let mut answers = Vec::new();
            for call in calls {
                answers.push(call.await);
            }
            answers
        }
    };
    outcome(answers.into_iter().find(Result::is_err).expect("not all of them run"))
}

fn serve(pool: &PoolHandle<Probe>, yard: &web::Data<Yard>, config: Config) -> Service {
    let (pool, yard) = (pool.clone(), yard.clone());
    Service::start(move |listener| {
        let app = move || {
            App::new()
                .app_data(web::Data::new(config.clone()))
                .app_data(web::Data::new(pool.clone()))
                .app_data(yard.clone())
                .route("/left", web::get().to(left))
                .route("/late", web::get().to(late))
                .route("/many/{way}", web::get().to(many))
        };
        Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
    })
}

/// H3
#[test]
fn handlers_in_workers_see_the_deadline_of_the_request() {
    run(async {
        let pool = pool().workers(1..=1).timeout(Duration::from_secs(600)).start().expect("the pool starts");
        let yard = web::Data::new(Yard::new());
        let most = Config::default().deadline_header(HEADER).most(Duration::from_secs(300));
        let none = Config::default().deadline_header(HEADER);
        for (config, header, limits) in [
            // Of a call, a short one, a long one, a batch, and two on a checkout.
            (&none, None, [Some(600_000), Some(400), Some(900_000), Some(600_000), None, Some(900_000)]),
            (&none, Some("200000"), [200_000, 400, 200_000, 200_000, 200_000, 200_000].map(Some)),
            (&most, None, [300_000, 400, 300_000, 300_000, 300_000, 300_000].map(Some)),
            (&most, Some("200000"), [200_000, 400, 200_000, 200_000, 200_000, 200_000].map(Some)),
            (&most, Some("500000"), [300_000, 400, 300_000, 300_000, 300_000, 300_000].map(Some)),
        ] {
            let service = serve(&pool, &yard, config.clone());
            let headers: Vec<_> = header.into_iter().map(|value| (HEADER, value)).collect();
            let answer = request(service.address, "GET", "/left", &headers, b"").await;
            let text = answer.text();
            let left = text.split(',').map(|left| match left {
                "None" => None,
                some => {
                    let millis = some.strip_prefix("Some(").and_then(|some| some.strip_suffix(')'));
                    Some(millis.and_then(|millis| millis.parse::<u64>().ok()).expect("a number"))
                }
            });
            let left = Vec::from_iter(left);
            assert_eq!(left.len(), limits.len(), "{text}");
            for (left, limit) in left.into_iter().zip(limits) {
                // Half of it has not passed, unless it is short.
                let fits = left
                    .zip(limit)
                    .is_none_or(|(left, limit)| left <= limit && (limit == 400 || left > limit / 2));
                assert!(fits && left.is_some() == limit.is_some(), "{header:?}: {text} of {limits:?}");
            }
            service.stop().await;
        }
    });
}

/// H3
#[test]
fn calls_end_at_the_deadline_of_the_request() {
    run(async {
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let service = serve(&pool, &yard, Config::default().deadline_header(HEADER));
        settled(&pool, 1).await;
        let answer = request(service.address, "GET", "/late", &[(HEADER, "300")], b"").await;
        let text = answer.text();
        let (first, second) = text.split_once('|').expect("two outcomes");
        assert!(first.starts_with("timeout: ") && second.starts_with("timeout: "), "{text}");
        assert_eq!(yard.numbers(), [1]);
        gone(yard.began()[0].1).await;
        for way in ["batch", "checkout-batch", "checkout"] {
            let answer =
                request(service.address, "GET", &format!("/many/{way}"), &[(HEADER, "500")], b"").await;
            let text = answer.text();
            assert!(
                text.starts_with("timeout: ") && text.contains("the deadline of its request"),
                "{way}: {text}"
            );
        }
        service.stop().await;
    });
}

/// H3
#[test]
fn a_deadline_that_is_no_time_is_a_bad_request() {
    run(async {
        let (pool, yard) = (pool_of_one(), web::Data::new(Yard::new()));
        let service =
            serve(&pool, &yard, Config::default().deadline_header(HEADER).most(Duration::from_millis(1000)));
        for value in ["0", "-1", "1.5", "soon", "", "1s"] {
            let answer = request(service.address, "GET", "/left", &[(HEADER, value)], b"").await;
            assert_eq!(answer.status, 400, "{value:?}");
            let text = answer.text();
            assert!(text.contains(HEADER) && text.contains("milliseconds above zero"), "{text}");
        }
        service.stop().await;
    });
}
