//! A failed call is told to the handlers of the context it was made in, from the nearest outward.

use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn fail() -> Fail {
    Fail("no".to_owned())
}

/// How a call is made.
#[derive(Clone, Copy, Debug)]
enum Way {
    Awaited,
    Forgotten,
}

impl Way {
    /// Sends a message; an awaited one is awaited by a task.
    fn send<M>(self, checkout: &Addr<Checkout<Probe>>, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        Checkout<Probe>: Handler<M>,
        <Checkout<Probe> as Actor>::Context: actix::dev::ToEnvelope<Checkout<Probe>, M>,
    {
        match self {
            Way::Awaited => drop(actix_rt::spawn(checkout.send(message))),
            Way::Forgotten => checkout.do_send(message),
        }
    }
}

/// Makes one call fail in one way, in the context in force.
async fn make_fail(kind: FailureKind, way: Way, pool: &PoolHandle<Probe>, context: &ErrorContext) {
    let checkout = pool.checkout().start();
    pid(&checkout).await;
    let send = || match kind {
        FailureKind::Task => way.send(&checkout, fail()),
        FailureKind::Panic => way.send(&checkout, Panic("no".to_owned())),
        FailureKind::Died => way.send(&checkout, Exit(1)),
        FailureKind::Timeout => way.send(&checkout, Within(millis(20), Spin)),
        FailureKind::Aborted => {
            way.send(&checkout, Spin);
            checkout.do_send(Abort("enough".to_owned()));
        }
        FailureKind::Payload => way.send(&checkout, Echo(vec![0; 2000])),
        _ => way.send(&checkout, Setups),
    };
    match kind {
        // Not in the context: only what is behind it fails there.
        FailureKind::Cleared => checkout.do_send(fail()),
        FailureKind::Stopped => drop(bounded("the pool's end", pool.stop(Duration::ZERO)).await),
        _ => {}
    }
    context.run(send);
}

/// X3
#[test]
fn every_kind_of_failure_is_told_once_whether_awaited_or_forgotten() {
    run(async {
        let kinds = [
            FailureKind::Task,
            FailureKind::Panic,
            FailureKind::Died,
            FailureKind::Timeout,
            FailureKind::Aborted,
            FailureKind::Cleared,
            FailureKind::Stopped,
            FailureKind::Payload,
        ];
        for kind in kinds {
            for way in [Way::Awaited, Way::Forgotten] {
                let pool = pool().workers(1..=1).max_payload(1000).start().expect("the pool starts");
                let (outer, outside) = listening("outer");
                let (context, heard) = outer.run(|| listening("context"));
                make_fail(kind, way, &pool, &context).await;
                let told = heard.first().await;
                assert_eq!((told.failure().pool(), told.failure().call().is_some()), (Some("probe"), true));
                bounded("the pool's end", pool.stop(millis(100))).await;
                assert_eq!((heard.kinds(), outside.kinds()), (vec![kind], vec![]), "{kind} {way:?}");
            }
        }
    });
}

/// X3
#[test]
fn calls_to_the_pool_are_told_of_as_those_on_a_checkout() {
    run(async {
        let pool = pool_of_one();
        let (context, heard) = listening("context");
        let recipient: Recipient<Fail> = pool.addr().recipient();
        context.run(|| {
            pool.do_send(fail());
            pool.try_send(fail()).expect("the pool is there");
            pool.addr().do_send(fail());
            pool.addr().do_send(here(Within(None::<Duration>, fail())));
            recipient.do_send(fail());
        });
        let awaited =
            context.run(|| (pool.send(fail()), pool.send_within(None, fail()), recipient.send(fail())));
        assert_eq!(failure(awaited.0).await, Failure::task("no"), "the caller is told as without a context");
        assert_eq!(failure(awaited.1).await, Failure::task("no"));
        assert_eq!(failure(awaited.2).await, Failure::task("no"));
        until("all are told of", || heard.all().len() >= 8).await;
        bounded("the pool's end", pool.stop(millis(100))).await;
        assert_eq!(heard.kinds(), [FailureKind::Task; 8]);
        let calls = heard.all();
        assert!(calls.iter().all(|told| told.failure().call() == Some("Fail")));
    });
}

/// X3
#[test]
fn a_cleared_call_is_told_to_the_context_it_was_made_in() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        let [first, second, third] = ["first", "second", "third"].map(listening);
        first.0.run(|| checkout.do_send(fail()));
        second.0.run(|| checkout.do_send(Setups));
        let request = third.0.run(|| checkout.send(Setups));
        assert_eq!(failure(request).await.kind(), FailureKind::Cleared);
        let kinds = [first.1.kinds(), second.1.kinds(), third.1.kinds()];
        assert_eq!(kinds, [[FailureKind::Task], [FailureKind::Cleared], [FailureKind::Cleared]]);
    });
}

/// X3
#[test]
fn the_handler_has_run_before_a_caller_on_the_same_arbiter_goes_on() {
    run(async {
        let pool = pool_of_one();
        let (context, heard) = listening("context");
        let checkout = pool.checkout().in_context(&context).start();
        for round in 1..=20 {
            assert_eq!(failure(checkout.send(fail())).await, Failure::task("no"));
            assert_eq!(heard.all().len(), round);
        }
    });
}

/// X3
#[test]
fn a_call_given_up_and_a_call_that_succeeds_are_told_to_nobody() {
    run(async {
        let pool = pool_of_one();
        let (context, heard) = listening("context");
        let checkout = pool.checkout().keep_after_error(true).start();
        pid(&checkout).await;
        context.run(|| {
            let running = checkout.send(Slow(millis(30), 1));
            drop(checkout.send(fail()));
            checkout.do_send(Setups);
            drop(running);
        });
        let given_up = context.run(|| checkout.send(fail()));
        assert!(poll_once(&mut Box::pin(given_up)).is_pending());
        assert_eq!(answer(context.run(|| checkout.send(Remember(1)))).await, Ok(vec![1]));
        assert_eq!(heard.kinds(), []);
    });
}

/// X2, X5
#[test]
fn a_trace_leads_from_the_call_through_every_frame_to_the_root() {
    run(async {
        let pool = pool().workers(1..=1).name("hashers").start().expect("the pool starts");
        let (outer, heard) = listening("POST /signup");
        let outer_line = line!() - 1;
        let inner = outer.run(|| ErrorContext::named("hash the password"));
        let inner_line = line!() - 1;
        let checkout = pool.checkout().keep_after_error(true).start();
        let start = line!() - 1;
        let mut lines = Vec::new();
        inner.run(|| checkout.do_send(fail()));
        lines.push(start);
        until("it is told of", || heard.all().len() == 1).await;
        inner.run(|| checkout.do_send(here(fail())));
        lines.push(line!() - 1);
        until("it is told of", || heard.all().len() == 2).await;
        inner.run(|| checkout.do_send(here(Within(millis(1000), fail()))));
        lines.push(line!() - 1);
        until("it is told of", || heard.all().len() == 3).await;
        drop(checkout);
        inner.run(|| pool.do_send(fail()));
        lines.push(line!() - 1);
        assert_eq!(failure(inner.run(|| pool.send(fail()))).await.kind(), FailureKind::Task);
        lines.push(line!() - 1);
        until("all are told of", || heard.all().len() == lines.len()).await;
        for (told, line) in heard.all().iter().zip(lines) {
            let expected = format!(
                "no\n{0}:{line} - hashers -> Fail\n{0}:{inner_line} - hash the password\n{0}:{outer_line} - POST /signup",
                file!()
            );
            assert_eq!(told.to_string(), expected);
        }
    });
}

/// X4
#[test]
fn a_handlers_error_goes_to_the_next_one_outward_with_the_trace_as_it_was() {
    run(async {
        let pool = pool_of_one();
        let (root, beyond) = listening("root");
        let (outer, ended) = root.run(|| listening("outer"));
        let middle = outer.run(|| ErrorContext::named("middle"));
        let handed_on = Heard::default();
        let inner = middle.run(|| ErrorContext::named("inner").on_failure(handed_on.hands_on("worse")));
        let checkout = pool.checkout().in_context(&inner).start();
        assert_eq!(failure(checkout.send(fail())).await, Failure::task("no"));
        assert_eq!(
            (handed_on.texts(), ended.texts(), beyond.all().len()),
            (vec!["no".into()], vec!["worse".into()], 0)
        );
        assert_eq!(handed_on.all()[0].trace().to_string(), ended.all()[0].trace().to_string());
        assert_eq!(ended.all()[0].trace().frames().count(), 5);
    });
}

/// An actor that handles failures.
struct Listener {
    heard: Heard,
    hands_on: Option<&'static str>,
}

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<ContextFailure> for Listener {
    type Result = Result<(), Failure>;

    fn handle(&mut self, failure: ContextFailure, _: &mut Self::Context) -> Self::Result {
        self.heard.note(failure);
        self.hands_on.map_or(Ok(()), |text| Err(Failure::task(text)))
    }
}

/// X4, X6
#[test]
fn an_actor_hears_of_failures_and_may_hand_them_on() {
    run(async {
        let log = Log::start();
        let pool = pool_of_one();
        let (outer, outside) = listening("outer");
        let heard = Heard::default();
        for hands_on in [None, Some("worse")] {
            let listener = Listener { heard: heard.clone(), hands_on }.start();
            let recipient = listener.recipient();
            let context = outer.run(|| ErrorContext::named("inner").on_failure(recipient));
            context.run(|| pool.do_send(fail()));
        }
        until("both are told", || heard.all().len() == 2 && !outside.all().is_empty()).await;
        assert_eq!(outside.texts(), ["worse"]);
        assert_eq!(log.all().await, Vec::<String>::new());

        let dead = Quitter.start();
        let context = outer.run(|| ErrorContext::named("dead").on_failure(dead.clone().recipient()));
        until("the actor is gone", || !dead.connected()).await;
        context.run(|| pool.do_send(fail()));
        until("the outer handler is told", || outside.all().len() == 2).await;
        assert_eq!(outside.texts(), ["worse", "no"]);
        assert_eq!(log.all().await.len(), 1, "{:?}", log.all().await);
    });
}

/// An actor that ends at once.
struct Quitter;

impl Actor for Quitter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<ContextFailure> for Quitter {
    type Result = Result<(), Failure>;

    fn handle(&mut self, _: ContextFailure, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

/// X4
#[test]
fn what_no_handler_ends_is_logged_and_what_a_caller_alone_hears_is_not() {
    run(async {
        let log = Log::start();
        let pool = pool_of_one();
        let checkout = pool.checkout().keep_after_error(true).start();
        let handed_on = ErrorContext::named("handed on").on_failure(Heard::default().hands_on("worse"));
        let table = [
            ("without a context", None, "no", false),
            ("without a handler", Some(ErrorContext::named("frame")), "no", true),
            ("handed on by the last", Some(handed_on), "worse", true),
        ];
        for (name, context, text, logged_if_awaited) in table {
            let context = context.unwrap_or_else(|| ErrorContext::named("none").detached());
            let bare = name == "without a context";
            let send = || checkout.send(fail());
            let _ = Log::start();
            let awaited = if bare { send() } else { context.run(send) };
            assert_eq!(failure(awaited).await, Failure::task("no"));
            assert_eq!(
                log.all().await.len(),
                usize::from(logged_if_awaited),
                "{name}: {:?}",
                log.all().await
            );
            let _ = Log::start();
            if bare {
                checkout.do_send(fail());
            } else {
                context.run(|| checkout.do_send(fail()));
            }
            answer(checkout.send(Setups)).await.err();
            let forgotten: Vec<String> =
                log.all().await.into_iter().filter(|line| line.contains("probe -> Fail")).collect();
            assert_eq!(forgotten.len(), 1, "{name}: {:?}", log.all().await);
            assert!(forgotten[0].contains(&format!("error={text} ")), "{name}: {forgotten:?}");
        }
    });
}

/// X4, X6
#[test]
fn a_handler_that_panics_is_logged_and_the_failure_goes_on() {
    run(async {
        let log = Log::start();
        let pool = pool_of_one();
        let (outer, heard) = listening("outer");
        let inner = outer.run(|| {
            ErrorContext::named("inner").on_failure(|failure: ContextFailure| {
                assert_eq!(failure.kind(), FailureKind::Panic, "told to")
            })
        });
        let checkout = pool.checkout().keep_after_error(true).in_context(&inner).start();
        let worker = pid(&checkout).await;
        for _ in 0..3 {
            assert_eq!(failure(checkout.send(fail())).await, Failure::task("no"));
            assert_eq!(pid(&checkout).await, worker, "the checkout goes on");
        }
        assert_eq!(heard.texts(), ["no"; 3]);
        assert_eq!(log.all().await.len(), 3);
        assert!(
            log.all().await[0].contains("context=inner") && log.all().await[0].contains("told to"),
            "{:?}",
            log.all().await
        );
        drop(checkout);
        let next = pool.checkout().start();
        assert_eq!(pid(&next).await, worker, "the pool goes on");
    });
}

/// X6
#[test]
fn one_handler_serves_any_number_of_calls_and_runs_once_for_each_failure() {
    run(async {
        let pool = pool().workers(3..=3).start().expect("the pool starts");
        let (context, heard) = listening("context");
        let requests: Vec<_> =
            (0..200).map(|number| context.run(|| pool.send(Fail(format!("{number}"))))).collect();
        for request in requests {
            assert_eq!(failure(request).await.kind(), FailureKind::Task);
        }
        let mut texts = heard.texts();
        texts.sort_unstable_by_key(|text| text.parse::<u32>().expect("a number"));
        assert_eq!(texts, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
    });
}

/// X4
#[test]
fn a_call_that_a_handler_makes_runs_and_fails_to_the_handlers_further_out() {
    run(async {
        let pool = pool_of_one();
        let (outer, outside) = listening("outer");
        let checkout = pool.checkout().keep_after_error(true).start();
        pid(&checkout).await;
        let on_failure = {
            let checkout = checkout.downgrade();
            move |_: ContextFailure| {
                // On the very checkout whose call has failed.
                let checkout = checkout.upgrade().expect("it is there");
                checkout.do_send(Remember(7));
                checkout.do_send(Fail("again".to_owned()));
            }
        };
        let inner = outer.run(|| ErrorContext::named("inner").on_failure(on_failure));
        inner.run(|| checkout.do_send(fail()));
        assert_eq!(outside.first().await.failure().to_string(), "again");
        assert_eq!(answer(checkout.send(Remember(8))).await, Ok(vec![7, 8]));
        assert_eq!(outside.all().len(), 1);
    });
}

/// X2
#[test]
fn a_call_stands_in_its_senders_context_before_its_checkouts() {
    run(async {
        let pool = pool_of_one();
        let [(started, at_start), (bound, at_bound), (sender, at_sender)] =
            ["start", "bound", "sender"].map(listening);
        let (by_start, by_binding) = started.run(|| {
            let by_start = pool.checkout().keep_after_error(true).start();
            (by_start, pool.checkout().keep_after_error(true).in_context(&bound).start())
        });
        failure(by_start.send(fail())).await;
        failure(sender.run(|| by_start.send(fail()))).await;
        drop(by_start);
        failure(by_binding.send(fail())).await;
        failure(sender.run(|| by_binding.send(fail()))).await;
        assert_eq!([at_start, at_bound, at_sender].map(|heard| heard.all().len()), [1, 1, 2]);
    });
}

/// X9
#[test]
fn no_handler_outside_of_a_detached_context_is_told() {
    run(async {
        let log = Log::start();
        let pool = pool_of_one();
        let (outer, outside) = listening("outer");
        let detached = outer.run(|| ErrorContext::named("detached").detached());
        failure(detached.run(|| pool.send(fail()))).await;
        assert_eq!((outside.all().len(), log.all().await.len()), (0, 1));
        let (detached, heard) = outer.run(|| {
            let (context, heard) = listening("detached");
            (context.detached(), heard)
        });
        failure(detached.run(|| pool.send(fail()))).await;
        assert_eq!((outside.all().len(), heard.all().len(), log.all().await.len()), (0, 1, 1));
        assert_eq!(heard.all()[0].trace().frames().count(), 2);
    });
}
