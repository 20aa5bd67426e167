//! Failures as responses: the right status, a neutral line, and the report in the log once.

use std::time::Duration;

use actix_web::dev::Service as _;
use actix_web::{App, HttpServer, ResponseError, web};
use forkpool::prelude::*;
use tracing::Instrument as _;

use crate::harness::*;
use crate::service::{Answer, Service, request};

/// Stands in what must not leave the application.
const SECRET: &str = "secret";

/// A failure of this kind that is full of secrets.
fn made_up(kind: &str) -> Failure {
    let text = format!(
        r#"{{"line": "{SECRET}", "kind": "{kind}", "text": "{SECRET}", "pool": "{SECRET}", "call": "{SECRET}",
            "worker": {{"number": 7, "pid": 4711, "stderr": ["{SECRET}"], "log": ["{SECRET}"]}},
            "retry_after": {{"secs": 10, "nanos": 1}}}}"#
    );
    let failure: Failure = serde_json::from_str(&text).expect("a failure");
    assert_eq!(failure.kind().to_string(), kind);
    assert_eq!((failure.pid(), failure.stderr().len()), (Some(4711), 1), "it was understood");
    failure
}

/// The reports that were logged.
fn reports() -> Vec<Seen> {
    events("forkpool").into_iter().filter(|event| event.fields.contains_key("report")).collect()
}

fn retry_after(answered: &Answer) -> Option<u64> {
    answered.headers.get("retry-after").map(|seconds| seconds.parse().expect("whole seconds"))
}

#[track_caller]
fn assert_is_neutral(answered: &Answer, path: &str) {
    let body = answered.text();
    assert!(!body.is_empty() && body.lines().count() == 1, "{path}: {body:?}");
    let is_plain = |char: char| char.is_ascii_lowercase() || " ,;".contains(char);
    assert!(body.chars().all(is_plain), "{path}: {body:?}");
    for word in [SECRET, "panic", "garbage", "probe", "rogue", "pid", "signal", "worker"] {
        assert!(!body.contains(word), "{path}: {body:?}");
    }
    assert!(!format!("{:?}", answered.headers).contains(SECRET), "{path}: {answered:?}");
}

async fn of_kind(kind: web::Path<String>) -> Result<String, Failure> {
    Err(made_up(&kind))
}

/// H1
#[test]
fn every_kind_of_failure_has_its_status_and_tells_its_client_nothing_else() {
    let table = [
        ("task", 500),
        ("panic", 500),
        ("setup", 503),
        ("timeout", 504),
        ("hung", 504),
        ("died", 500),
        ("aborted", 503),
        ("protocol", 500),
        ("cleared", 503),
        ("cancelled", 503),
        ("payload", 500),
        ("overloaded", 503),
        ("quarantined", 503),
        ("stopped", 503),
        ("no server", 503),
        ("elsewhere", 500),
        ("other", 500),
    ];
    run(async {
        let service = Service::start(|listener| {
            let app = || App::new().route("/{kind}", web::get().to(of_kind));
            Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
        });
        for (kind, status) in table {
            let path = format!("/{}", kind.replace(' ', "%20"));
            let answered = request(service.address, "GET", &path, &[], b"").await;
            assert_eq!(answered.status, status, "{kind}");
            assert_is_neutral(&answered, kind);
            assert_eq!(answered.text(), made_up(kind).public(), "{kind}");
            assert_eq!(answered.headers["content-type"], "text/plain; charset=utf-8");
            let waits = ["setup", "cleared", "overloaded", "quarantined", "stopped", "no server"];
            let expected = waits.contains(&kind).then_some(11..=13);
            assert_eq!(retry_after(&answered).is_some(), expected.is_some(), "{kind}");
            assert!(retry_after(&answered).is_none_or(|wait| (11..=13).contains(&wait)), "{answered:?}");
        }
        service.stop().await;
    });
}

/// Pools in which calls fail, each in its way.
struct Stage {
    probes: PoolHandle<Probe>,
    limited: PoolHandle<Probe>,
    guarded: PoolHandle<Probe>,
    broken: PoolHandle<Probe>,
    panicking: PoolHandle<Probe>,
    without_server: PoolHandle<Probe>,
    stopped: PoolHandle<Probe>,
    rogues: PoolHandle<Rogue>,
}

const SHORT: Duration = Duration::from_millis(100);

impl Stage {
    async fn set() -> Self {
        let one = |setup: Setup| builder::<Probe>(setup).workers(0..=1);
        let (error, panic) = (Script::Error(SECRET.to_owned()), Script::Panic(SECRET.to_owned()));
        let stopped = pool_of_one();
        stopped.stop(Duration::ZERO).await;
        Stage {
            probes: pool().workers(1..=1).max_payload(1000).start().expect("the pool starts"),
            limited: pool().workers(1..=1).memory_limit(WRECK_LIMIT).start().expect("the pool starts"),
            guarded: pool()
                .workers(1..=1)
                .timeout(None)
                .hung_worker_timeout(SHORT)
                .start()
                .expect("the pool starts"),
            broken: one(Setup { script: error, ..Setup::default() }).start().expect("the pool starts"),
            panicking: one(Setup { script: panic, ..Setup::default() }).start().expect("the pool starts"),
            without_server: one(Setup { preload: Script::Exit(1), ..Setup::default() })
                .timeout(SHORT * 5)
                .start()
                .expect("the pool starts"),
            stopped,
            rogues: rogues(),
        }
    }

    /// What becomes of a call to a worker that has printed something before.
    async fn probe<M, T>(&self, pool: &PoolHandle<Probe>, deed: M) -> Result<T, Failure>
    where
        Probe: forkpool::Accepts<M>,
        M: actix::Message<Result = Result<T, Failure>> + serde::Serialize,
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        let checkout = pool.checkout().open();
        checkout.call::<Print, _, _>(Print(3)).await?;
        checkout.call(deed).await
    }

    async fn die(&self, way: &str) -> Result<String, Failure> {
        let probes = &self.probes;
        match way {
            "panic" => self.probe(probes, Panic(SECRET.to_owned())).await?,
            "panic-without-unwinding" => self.probe(probes, PanicWithoutUnwinding(SECRET.to_owned())).await?,
            "exit" => self.probe(probes, Exit(3)).await?,
            "abort" => self.probe(probes, AbortProcess).await?,
            "segfault" => self.probe(probes, Raise(11)).await?,
            "kill" => self.probe(probes, Raise(9)).await?,
            "stack-overflow" => self.probe(probes, OverflowStack).await?,
            "memory" => self.probe(&self.limited, Hoard(1 << 30)).await?,
            "timeout" => probes.send_within(SHORT, Spin).await?,
            "hung" => self.probe(&self.guarded, Spin).await?,
            "error" => self.probe(probes, Fail(SECRET.to_owned())).await?,
            "garbage" => return Err(rogue_failure(self.rogues.send(Deed::Babble(vec![255; 8]))).await),
            "closed-channel" => return Err(rogue_failure(self.rogues.send(Deed::HangUp)).await),
            "setup-error" => drop(self.broken.send(Pid).await?),
            "setup-panic" => drop(self.panicking.send(Pid).await?),
            "no-server" => drop(self.without_server.send(Pid).await?),
            "stopped" => drop(self.stopped.send(Pid).await?),
            "large-message" => drop(probes.send(Echo(vec![0; 2000])).await?),
            // One byte more than its message, which is just not too large.
            "large-reply" => drop(probes.send(Echo(vec![0; 998])).await?),
            "killed" => {
                let call = probes.send(Spin);
                let running =
                    || probes.snapshot().workers.iter().find(|worker| worker.call.is_some()).cloned();
                until("the call runs", || running().is_some()).await;
                running().iter().for_each(|worker| assert!(probes.kill_worker(worker.number)));
                call.await?;
            }
            "aborted" => {
                let checkout = probes.checkout().open();
                checkout.abort(SECRET);
                checkout.call(Print(3)).await?;
            }
            "cleared" => {
                let checkout = probes.checkout().open();
                let (first, second) = (checkout.call(Fail(SECRET.to_owned())), checkout.call(Spin));
                failure(first).await;
                second.await?;
            }
            way => panic!("nothing dies by {way}"),
        }
        Ok("it lives".to_owned())
    }
}

async fn die(way: web::Path<String>, stage: web::Data<Stage>) -> Result<String, Failure> {
    stage.die(&way).await
}

/// H1
#[test]
fn whatever_kills_a_call_its_client_gets_a_neutral_line_and_the_log_has_the_report_once() {
    let table = [
        ("panic", 500, "panic"),
        ("panic-without-unwinding", 500, "died"),
        ("exit", 500, "died"),
        ("abort", 500, "died"),
        ("segfault", 500, "died"),
        ("kill", 500, "died"),
        ("stack-overflow", 500, "died"),
        ("memory", 500, "died"),
        ("timeout", 504, "timeout"),
        ("hung", 504, "hung"),
        ("error", 500, "task"),
        ("garbage", 500, "protocol"),
        ("closed-channel", 500, "died"),
        ("setup-error", 503, "setup"),
        ("setup-panic", 503, "setup"),
        ("no-server", 503, "no server"),
        ("stopped", 503, "stopped"),
        ("large-message", 413, "payload"),
        ("large-reply", 500, "payload"),
        ("killed", 503, "aborted"),
        ("aborted", 503, "aborted"),
        ("cleared", 503, "cleared"),
    ];
    run(async {
        keep_events();
        let stage = web::Data::new(Stage::set().await);
        let service = Service::start(|listener| {
            let app = move || {
                App::new().app_data(stage.clone()).route("/{way}", web::get().to(die)).wrap_fn(
                    |request, next| {
                        let span = tracing::info_span!("request", path = request.path());
                        next.call(request).instrument(span)
                    },
                )
            };
            Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
        });
        for (way, status, kind) in table {
            let path = format!("/{way}");
            let answered = request(service.address, "GET", &path, &[], b"").await;
            assert_eq!(answered.status, status, "{way}: {}", answered.text());
            assert_is_neutral(&answered, way);
            let of_request = || reports().into_iter().find(|report| report.span.get("path") == Some(&path));
            until(&format!("the report of {way} is logged"), || of_request().is_some()).await;
            let report = of_request().expect("it was there");
            let of_kind = format!("  kind        {kind}");
            let is_its_own = report.field("report").lines().any(|line| line == of_kind);
            assert!(is_its_own, "{way}: {report:?}");
            assert_eq!(report.field("status"), status.to_string(), "{way}");
        }
        service.stop().await;
        assert_eq!(reports().len(), table.len(), "one each, and nothing without a request");
    });
}

#[test]
fn a_failure_is_reported_once_however_many_responses_are_made_of_it() {
    run(async {
        keep_events();
        let failure = made_up("died");
        for clone in [failure.clone(), failure.clone()] {
            assert_eq!(clone.error_response().status(), 500);
            assert_eq!(forkpool::web::json_response(&clone).status(), 500);
        }
        assert_eq!(forkpool::web::status(&failure), 500);
        let levels: Vec<_> = events("forkpool").iter().map(|event| event.level).collect();
        let (error, debug) = (tracing::Level::ERROR, tracing::Level::DEBUG);
        assert_eq!(levels, [error, debug, debug, debug]);
        assert_eq!(reports().len(), 1);
        assert_eq!(made_up("overloaded").error_response().status(), 503);
        assert_eq!(reports().last().map(|report| report.level), Some(tracing::Level::WARN));
    });
}

async fn pid(pool: web::Data<PoolHandle<Probe>>) -> Result<String, Failure> {
    Ok(pool.send(Pid).await?.to_string())
}

/// H4
#[test]
fn a_full_pool_is_answered_503_at_once_with_a_time_to_come_back() {
    run(async {
        let pool = pool().workers(1..=1).max_waiting(1).timeout(None).start().expect("the pool starts");
        let data = web::Data::new(pool.clone());
        let service = Service::start(|listener| {
            let app = move || App::new().app_data(data.clone()).route("/", web::get().to(pid));
            Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
        });
        let holder = pool.checkout().start();
        answer(holder.send(Pid)).await.expect("a worker");
        let waiting = pool.checkout().start();
        // Nothing is released meanwhile, so an answer comes at once or not at all.
        for _ in 0..3 {
            let answered = request(service.address, "GET", "/", &[], b"").await;
            assert_eq!(answered.status, 503);
            assert_eq!(answered.text(), "the service is busy; try again later");
            assert!(retry_after(&answered).is_some_and(|seconds| seconds >= 1), "{answered:?}");
        }
        drop((holder, waiting));
        until("there is room", || pool.stats().waiting == 0).await;
        let answered = request(service.address, "GET", "/", &[], b"").await;
        assert_eq!(answered.status, 200, "{answered:?}");
        service.stop().await;
    });
}
