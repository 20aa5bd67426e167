//! The request log of a context, which all calls below it report to, and the failures that a context expects.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;
use forkpool::{FinishedLog, LogMessage};

const SOON: Duration = Duration::from_millis(50);

/// A log and where it is delivered.
fn request_log() -> (RequestLog, Receiver<FinishedLog>) {
    let (sender, delivered) = channel();
    (RequestLog::new(move |log| sender.send(log).expect("the test waits for it")), delivered)
}

/// A context that puts a log in force, and where that is delivered.
fn logging(name: &str) -> (ErrorContext, Receiver<FinishedLog>) {
    let (log, outcome) = request_log();
    (ErrorContext::named(name).log(&log), outcome)
}

async fn delivered(of: &Receiver<FinishedLog>) -> FinishedLog {
    let mut log = None;
    until("the log is delivered", || {
        log = of.try_recv().ok();
        log.is_some()
    })
    .await;
    log.expect("it was there")
}

fn texts(log: &FinishedLog) -> Vec<String> {
    log.messages.iter().map(LogMessage::text).collect()
}

fn timers(log: &FinishedLog) -> Vec<&str> {
    log.timers.iter().map(|timer| timer.name.as_str()).collect()
}

fn fail() -> Fail {
    Fail("no".to_owned())
}

/// L10, L4
#[test]
fn a_call_of_every_way_below_a_context_is_in_its_log_with_what_its_worker_logs() {
    run(async {
        let pool = scribes();
        let spans = ["in outer", "in inner", "without a parent", "behind both"];
        for way in 0..7 {
            let (context, outcome) = logging("request");
            let write = || Write::Spans;
            let held = pool.clone();
            let work = context.scope(async move {
                match way {
                    0 => drop(answer(held.send(write())).await),
                    1 => held.do_send(write()),
                    2 => drop(answer(held.send_batch(vec![write()])).await),
                    3 => drop(answer(held.addr().send(here(write()))).await),
                    4 => drop(answer(held.checkout().start().send(write())).await),
                    5 => drop(answer(held.checkout().open().call(write())).await),
                    _ => drop(answer(held.checkout().start().send(Batch(vec![write()]))).await),
                }
            });
            work.await;
            drop(context);
            let log = delivered(&outcome).await;
            assert_eq!(texts(&log), spans, "way {way}");
            assert_eq!(timers(&log), ["Write", "outer {\"later\":\"now\",\"page\":1}", "inner"], "way {way}");
        }
    });
}

/// L10
#[test]
fn a_call_from_a_thread_without_an_arbiter_is_in_the_log_of_its_context() {
    run(async {
        let pool = pool_of_one();
        let (context, outcome) = logging("request");
        let (sender, inside) = (pool.clone(), context.clone());
        on_a_thread(move || inside.run(|| block_on(sender.send(Pid)).expect("it runs"))).await;
        drop(context);
        assert_eq!(timers(&delivered(&outcome).await), ["Pid"]);
    });
}

/// L10: calls of several requests stand in one lane, one behind the other.
#[test]
fn calls_behind_others_in_a_lane_are_in_the_logs_of_their_own_contexts() {
    run(async {
        let pool = scribes();
        settled(&pool, 1).await;
        let (contexts, outcomes): (Vec<_>, Vec<_>) = (0..4).map(|_| logging("request")).unzip();
        let mut awaited = Vec::new();
        for (number, context) in contexts.iter().enumerate() {
            match number % 2 {
                0 => awaited.push(context.run(|| pool.send(Write::Many(number as u64)))),
                _ => context.run(|| pool.do_send(Write::Many(number as u64))),
            }
        }
        // Between them, and in no context.
        pool.do_send(Write::Many(9));
        for call in awaited {
            assert!(answer(call).await.is_ok());
        }
        drop(contexts);
        for (number, outcome) in outcomes.iter().enumerate() {
            let log = delivered(outcome).await;
            assert_eq!(texts(&log), vec!["one of many"; number]);
            assert_eq!(timers(&log), ["Write"]);
        }
    });
}

/// L10, L3
#[test]
fn calls_that_fail_are_in_the_log_whether_or_not_a_worker_had_them() {
    run(async {
        let pool = pool_of_one();
        let (context, outcome) = logging("request");
        let holder = pool.checkout().start();
        pid(&holder).await;
        let waiting = context.run(|| pool.send_within(SOON, Pid));
        assert_eq!(failure(waiting).await.kind(), FailureKind::Timeout);
        drop(holder);
        assert_eq!(failure(context.run(|| pool.send(fail()))).await, Failure::task("no"));
        context.run(|| pool.do_send(Panic("told to".to_owned())));
        drop(context);
        let log = delivered(&outcome).await;
        assert_eq!(timers(&log), ["Fail", "Panic"]);
        let failures: Vec<&str> = log.timers.iter().filter_map(|timer| timer.failure.as_deref()).collect();
        assert!(failures[0] == "no" && failures[1].contains("told to"), "{failures:?}");
        let [text] = &texts(&log)[..] else { panic!("{:?}", texts(&log)) };
        assert!(text.starts_with("Pid timed out at its limit of 50ms while waiting"), "{text}");
    });
}

/// L10
#[test]
fn the_log_of_a_checkout_comes_before_that_of_a_context_and_an_inner_one_before_an_outer_one() {
    run(async {
        let pool = pool_of_one();
        let (outer, of_outer) = logging("outer");
        let (own, of_own) = request_log();
        let (inner, of_inner) = outer.run(|| logging("inner"));
        let below = inner.run(|| ErrorContext::named("below"));
        let detached = inner.run(|| ErrorContext::named("detached").detached());
        let (kept, of_kept) = outer.run(|| logging("kept"));
        let kept = kept.detached();

        assert!(answer(outer.run(|| pool.send(Setups))).await.is_ok());
        assert!(answer(inner.run(|| pool.send(Pid))).await.is_ok());
        assert!(answer(below.run(|| pool.send(Pid))).await.is_ok());
        assert!(answer(detached.run(|| pool.send(Descriptors))).await.is_ok());
        assert!(answer(kept.run(|| pool.send(Standing))).await.is_ok());
        let checkout = inner.run(|| pool.checkout().log(&own).start());
        assert!(answer(outer.run(|| checkout.send(Remember(1)))).await.is_ok());
        drop(checkout);
        // One that is sent outside of every context uses the checkout's, and one in another context that one's.
        let checkout = pool.checkout().in_context(&below).start();
        assert!(answer(checkout.send(Remember(2))).await.is_ok());
        assert!(answer(outer.run(|| checkout.send(Echo(Vec::new())))).await.is_ok());
        assert!(answer(detached.run(|| checkout.send(Descriptors))).await.is_ok());
        drop((checkout, own, outer, inner, below, detached, kept));

        assert_eq!(timers(&delivered(&of_own).await), ["Remember"]);
        assert_eq!(timers(&delivered(&of_outer).await), ["Setups", "Echo"]);
        assert_eq!(timers(&delivered(&of_inner).await), ["Pid", "Pid", "Remember"]);
        assert_eq!(timers(&delivered(&of_kept).await), ["Standing"]);
    });
}

/// L10, L1
#[test]
fn the_log_of_a_context_is_delivered_once_the_context_and_its_calls_are_gone() {
    run(async {
        let pool = pool_of_one();
        let gate = Scratch::path();
        let (context, outcome) = logging("request");
        let below = context.run(|| ErrorContext::named("below"));
        below.run(|| pool.do_send(AwaitFile(gate.get().to_owned())));
        until("it runs", || pool.stats().leased == 1).await;
        drop(context);
        assert!(outcome.try_recv().is_err(), "a context below still has it");
        drop(below);
        assert!(outcome.try_recv().is_err(), "the call still has it");
        std::fs::write(gate.get(), "").expect("a file");
        assert_eq!(timers(&delivered(&outcome).await), ["AwaitFile"]);
        assert!(outcome.try_recv().is_err(), "it is delivered once");
    });
}

/// Returns whether a failure is one of the kind that the contexts below expect.
fn is_no(failure: &Failure) -> bool {
    failure.kind() == FailureKind::Task && failure.to_string() == "no"
}

/// X12
#[test]
fn an_expected_failure_reaches_its_caller_and_no_handler() {
    run(async {
        let errors = Log::start();
        let pool = pool_of_one();
        let (outer, outside) = listening("outer");
        let heard = Heard::default();
        let context = outer.run(|| ErrorContext::named("context").expects(is_no).on_failure(heard.ends()));
        let bare = outer.run(|| ErrorContext::named("without a handler").expects(is_no));
        for context in [&context, &bare] {
            let below = context.run(|| ErrorContext::named("below"));
            assert_eq!(failure(below.run(|| pool.send(fail()))).await, Failure::task("no"));
            below.run(|| pool.do_send(fail()));
            let checkout = pool.checkout().keep_after_error(true).in_context(&below).start();
            assert_eq!(failure(checkout.send(fail())).await, Failure::task("no"));
            checkout.do_send(fail());
            let opened = pool.checkout().keep_after_error(true).in_context(&below).open();
            drop(checkout);
            assert_eq!(failure(opened.call(fail())).await, Failure::task("no"));
            drop(opened);
            let batch = answer(below.run(|| pool.send_batch(vec![fail()]))).await;
            assert_eq!(batch, [Err(Failure::task("no"))]);
            // What is not expected is reported as before.
            below.run(|| pool.do_send(Fail("worse".to_owned())));
        }
        until("the unexpected ones are told", || heard.all().len() + outside.all().len() >= 2).await;
        bounded("the pool's end", pool.stop(PATIENCE)).await;
        assert_eq!((heard.texts(), outside.texts()), (vec!["worse".to_owned()], vec!["worse".to_owned()]));
        assert_eq!(errors.all().await, Vec::<String>::new(), "what is expected is not logged");
    });
}

/// X12: the calls stand in one lane, and each has a context of its own.
#[test]
fn each_call_behind_others_in_a_lane_is_looked_at_by_its_own_context() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let (outer, outside) = listening("outer");
        let expecting = outer.run(|| ErrorContext::named("expecting").expects(is_no));
        let calls: Vec<_> = (0..6)
            .map(|number| if number % 2 == 0 { &expecting } else { &outer })
            .map(|context| context.run(|| pool.send(fail())))
            .collect();
        for call in calls {
            assert_eq!(failure(call).await, Failure::task("no"));
        }
        bounded("the pool's end", pool.stop(PATIENCE)).await;
        assert_eq!(outside.texts(), ["no"; 3]);
    });
}

/// X12, X4
#[test]
fn inner_handlers_come_before_an_outer_context_that_expects_what_they_pass_on() {
    run(async {
        let pool = pool_of_one();
        let (outmost, outside) = listening("outmost");
        let expecting = outmost.run(|| ErrorContext::named("expecting").expects(is_no));
        let inner = Heard::default();
        for text in ["no", "worse"] {
            let context = expecting.run(|| ErrorContext::named("inner").on_failure(inner.hands_on(text)));
            assert_eq!(failure(context.run(|| pool.send(fail()))).await, Failure::task("no"));
        }
        let actor = Relay { heard: inner.clone() }.start().recipient();
        let context = expecting.run(|| ErrorContext::named("actor").on_failure(actor));
        assert_eq!(failure(context.run(|| pool.send(fail()))).await, Failure::task("no"));
        until("the actor is told", || inner.all().len() == 3).await;
        bounded("the pool's end", pool.stop(PATIENCE)).await;
        assert_eq!((inner.texts(), outside.texts()), (vec!["no".to_owned(); 3], vec!["worse".to_owned()]));
    });
}

/// An actor that passes every failure on.
struct Relay {
    heard: Heard,
}

impl Actor for Relay {
    type Context = Context<Self>;
}

impl Handler<ContextFailure> for Relay {
    type Result = Result<(), Failure>;

    fn handle(&mut self, failure: ContextFailure, _: &mut Context<Self>) -> Self::Result {
        self.heard.note(failure.clone());
        Err(failure.into_failure())
    }
}

/// X12, G1
#[test]
fn a_check_that_panics_expects_nothing_and_an_expected_failure_is_in_the_request_log() {
    run(async {
        let pool = pool_of_one();
        let (context, heard) = listening("panics");
        let context = context.expects(|failure| failure.kind() == FailureKind::Task && panic!("told to"));
        assert_eq!(failure(context.run(|| pool.send(fail()))).await, Failure::task("no"));
        assert_eq!(heard.texts(), ["no"]);
        let (log, outcome) = request_log();
        let context = ErrorContext::named("logs").log(&log).expects(is_no);
        assert_eq!(failure(context.run(|| pool.send(fail()))).await, Failure::task("no"));
        drop((context, log));
        let log = delivered(&outcome).await;
        assert_eq!((timers(&log), log.timers[0].failure.as_deref()), (vec!["Fail"], Some("no")));
    });
}

/// E11: what a user of the application may see has nothing of what has happened.
#[test]
fn the_public_text_of_a_real_failure_has_no_path_no_pid_no_place_and_no_argument() {
    run(async {
        let pool = pool_of_one();
        let secret = "/etc/secret 4711";
        let failures = [
            failure(pool.send(Fail(secret.to_owned()))).await,
            failure(pool.send(Panic(secret.to_owned()))).await,
            failure(pool.send(Exit(7))).await,
            failure(pool.send_within(SOON, Spin)).await,
        ];
        for failure in failures {
            let text = failure.public();
            let is_plain = |c: char| c.is_ascii_lowercase() || " ;,".contains(c);
            assert!(text.chars().all(is_plain), "{failure}: {text}");
            assert_ne!(text, failure.to_string());
        }
    });
}
