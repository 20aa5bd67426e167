//! What a context carries: it follows code that waits and messages that carry it, with its locals, and its baggage
//! travels.

use std::future::Future;
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq)]
struct RequestId(u64);

fn request_id() -> Option<u64> {
    ErrorContext::local_value::<RequestId>().map(|id| id.0)
}

fn fail() -> Fail {
    Fail("no".to_owned())
}

/// X7
#[test]
fn a_handler_sees_the_locals_of_its_own_frame_and_not_those_further_in() {
    run(async {
        let pool = pool_of_one();
        let seen = Heard::default();
        let handler = {
            let seen = seen.clone();
            move |failure: ContextFailure| {
                assert_eq!((request_id(), ErrorContext::local_value::<&str>()), (Some(1), None));
                assert_eq!(failure.context().get(), Some(RequestId(1).into()));
                seen.note(failure);
            }
        };
        let outer = ErrorContext::named("outer").local(RequestId(1)).on_failure(handler);
        let inner = outer.run(|| ErrorContext::named("inner").local(RequestId(2)).local("inside"));
        let checkout = pool.checkout().start();
        inner
            .scope(async {
                assert_eq!(failure(checkout.send(fail())).await, Failure::task("no"));
                assert_eq!(request_id(), Some(2));
            })
            .await;
        assert_eq!((seen.texts(), request_id()), (vec!["no".to_owned()], None));
    });
}

/// X10
#[test]
fn a_context_is_in_force_at_every_step_of_its_future_and_of_no_other() {
    run(async {
        let step = |id| async move {
            for _ in 0..50 {
                assert_eq!(request_id(), id);
                actix_rt::task::yield_now().await;
            }
        };
        let scope = move |id| ErrorContext::named("task").local(RequestId(id)).scope(step(Some(id)));
        let tasks = [
            actix_rt::spawn(scope(1)),
            actix_rt::spawn(scope(2)),
            actix_rt::spawn(step(None)),
            // Within another, and on another thread.
            actix_rt::spawn(ErrorContext::named("outer").local(RequestId(4)).scope(async move {
                scope(3).await;
                step(Some(4)).await;
            })),
        ];
        for task in tasks {
            bounded("a task", task).await.expect("it does not panic");
        }
        on_a_thread(move || block_on(scope(5))).await;
        assert_eq!(request_id(), None);
    });
}

/// X10
#[test]
fn calls_behind_an_await_are_made_in_the_context() {
    run(async {
        let pool = pool_of_one();
        let (context, heard) = listening("context");
        let checkout = pool.checkout().start();
        context
            .scope(async {
                pid(&checkout).await;
                actix_rt::time::sleep(Duration::from_millis(1)).await;
                checkout.do_send(fail());
            })
            .await;
        assert_eq!(heard.first().await.context().name(), "context");
    });
}

/// A message that carries its sender's context to another actor.
#[derive(Message)]
#[rtype(result = "()")]
struct Job {
    context: Option<ErrorContext>,
    checkout: Addr<Checkout<Probe>>,
}

/// An actor that makes its senders' calls.
struct Clerk;

impl Actor for Clerk {
    type Context = Context<Self>;
}

impl Handler<Job> for Clerk {
    type Result = ();

    fn handle(&mut self, Job { context, checkout }: Job, ctx: &mut Context<Self>) {
        let context = context.expect("the sender's context");
        let calls = async move { checkout.send(EchoText("text".to_owned())).await.map(|_| checkout) };
        let calls = calls.into_actor(self).map(|checkout, _, _| {
            // Behind the await, in the step of an actor's future.
            assert_eq!(request_id(), Some(7));
            checkout.expect("an answer").do_send(fail());
        });
        ctx.spawn(context.scope_actor(calls));
        assert_eq!(request_id(), None);
    }
}

/// X10
#[test]
fn a_context_follows_the_messages_of_actors_that_carry_it() {
    run(async {
        let pool = pool_of_one();
        let (context, heard) = listening("context");
        let checkout = pool.checkout().start();
        let arbiter = Arbiter::new();
        let clerk = Clerk::start_in_arbiter(&arbiter.handle(), |_| Clerk);
        let answered = context.local(RequestId(7)).run(|| {
            let context = ErrorContext::current();
            clerk.send(Job { context, checkout: checkout.clone() })
        });
        bounded("the clerk", answered).await.expect("an answer");
        assert_eq!(heard.first().await.failure().to_string(), "no");
        drop(clerk);
        arbiter.stop();
        on_a_thread(move || arbiter.join().expect("the arbiter ends")).await;
    });
}

/// X10
#[test]
fn a_context_is_captured_on_the_thread_that_sends() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().keep_after_error(true).start();
        pid(&checkout).await;
        let (context, heard) = listening("context");
        let sender = context.clone();
        on_a_thread(move || {
            let recipient: Recipient<Fail> = checkout.clone().recipient();
            let failed = sender.run(|| recipient.send(fail()));
            assert_eq!(block_on(failed).expect("an answer"), Err(Failure::task("no")));
            sender.run(|| checkout.try_send(fail())).expect("a mailbox is never full");
            drop(block_on(checkout.send(Setups)));
        })
        .await;
        until("both are told of", || heard.all().len() == 2).await;
    });
}

/// X11
#[test]
fn baggage_is_read_in_the_worker_and_belongs_to_its_call() {
    run(async {
        let pool = pool_of_one();
        let tenant = |name: &str| Tenant(name.to_owned());
        let outer = ErrorContext::named("outer").baggage(tenant("acme")).expect("it travels");
        let inner = outer.run(|| ErrorContext::named("inner")).baggage(7_u64).expect("it travels");
        let other = inner.run(|| ErrorContext::named("other")).baggage(tenant("other")).expect("it travels");
        let large = vec![1_u8; 60_000];
        let large = inner.run(|| ErrorContext::named("large")).baggage(large).expect("it travels");
        let detached = inner.run(|| ErrorContext::named("detached").detached());
        let local = inner.run(|| ErrorContext::named("local").local(tenant("it is not baggage")));
        let table = [
            (None, (None, None)),
            (Some(&outer), (Some("acme"), None)),
            (Some(&inner), (Some("acme"), Some(7))),
            (Some(&other), (Some("other"), Some(7))),
            (Some(&large), (Some("acme"), Some(7))),
            (Some(&detached), (None, None)),
            (Some(&local), (Some("acme"), Some(7))),
        ];
        let checkout = pool.checkout().start();
        // All at once: most wait until there is a worker, and then stand in its pipe together.
        let mut answers = Vec::new();
        for (context, (name, number)) in table {
            let send = || checkout.send(Baggage);
            let request = context.map_or_else(send, |context| context.run(send));
            answers.push((request, (name.map(tenant), number)));
        }
        for (request, expected) in answers {
            assert_eq!(answer(request).await, Ok(expected));
        }
        drop(checkout);
        let bound = pool.checkout().in_context(&inner).start();
        assert_eq!(answer(bound.send(Baggage)).await, Ok((Some(tenant("acme")), Some(7))));
        drop(bound);
        assert_eq!(answer(outer.run(|| pool.send(Baggage))).await, Ok((Some(tenant("acme")), None)));
        assert_eq!(answer(pool.send(Baggage)).await, Ok((None, None)));
    });
}

/// X11
#[test]
fn baggage_does_not_count_as_payload() {
    run(async {
        let pool = pool().workers(1..=1).max_payload(1000).start().expect("the pool starts");
        let context = ErrorContext::named("context").baggage(vec![0_u8; 65_000]).expect("it travels");
        let echo = |length| context.run(|| pool.send(Echo(vec![0; length])));
        assert_eq!(answer(echo(997)).await.map(|bytes| bytes.len()), Ok(997));
        assert_eq!(failure(echo(999)).await.kind(), FailureKind::Payload);
        let checkout = pool.checkout().in_context(&context).start();
        assert_eq!(answer(checkout.send(Echo(vec![0; 997]))).await.map(|bytes| bytes.len()), Ok(997));
        assert_eq!(failure(checkout.send(Echo(vec![0; 999]))).await.kind(), FailureKind::Payload);
    });
}

/// Calls in a row that show whether anything grows with them.
const MANY: u64 = 80_000;

/// Memory that this process has in use, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Makes calls with `calls`, some first and then many, and compares memory.
async fn stays_flat<F: Future<Output = ()>>(what: &str, calls: impl Fn(u64) -> F) {
    calls(MANY / 10).await;
    let before = resident();
    calls(MANY).await;
    let grown = resident().saturating_sub(before);
    // A frame kept for each call would take more than 4 MiB.
    assert!(grown < 2 << 10, "{what}: {grown} KiB more");
}

/// X8
#[test]
fn calls_made_one_after_the_other_do_not_lengthen_the_chain() {
    run(async {
        let pool = pool_of_one();
        let (context, heard) = listening("context");
        let checkout = pool.checkout().start();
        let (context, checkout) = (&context, &checkout);
        let calls = |many| {
            context.scope(async move {
                let depth = || ErrorContext::current().expect("a context").depth();
                for number in 0..many {
                    let call = Slow(Duration::ZERO, number);
                    assert_eq!(checkout.send(call).await.expect("an answer"), Ok(number));
                }
                assert_eq!(depth(), 1);
            })
        };
        within(PATIENCE * 10, "the calls", stays_flat("a loop", calls)).await;
        assert_eq!(heard.kinds(), []);
    });
}

/// An actor that makes each call from the reply to the one before.
struct Relay {
    context: ErrorContext,
    checkout: Addr<Checkout<Probe>>,
    left: u64,
    done: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Actor for Relay {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let context = self.context.clone();
        context.run(|| self.next(ctx));
    }
}

impl Relay {
    fn next(&mut self, ctx: &mut Context<Self>) {
        let context = ErrorContext::current().expect("a context");
        assert_eq!((context.depth(), request_id()), (2, Some(7)));
        let call = self.checkout.send(Setups).into_actor(self);
        let then = call.map(|answer, relay, ctx| {
            assert_eq!(answer.expect("an answer"), Ok(1));
            relay.left -= 1;
            match relay.left {
                0 => relay.done.take().into_iter().for_each(|done| done.send(()).expect("it is awaited")),
                _ => relay.next(ctx),
            }
        });
        ctx.spawn(context.scope_actor(then));
    }
}

/// X8
#[test]
fn calls_made_from_reply_handlers_do_not_lengthen_the_chain() {
    run(async {
        let pool = pool_of_one();
        let context = ErrorContext::named("outer").local(RequestId(7));
        let context = context.run(|| ErrorContext::named("inner"));
        let checkout = pool.checkout().start();
        let calls = |left| {
            let (done, all) = tokio::sync::oneshot::channel();
            let context = context.clone();
            Relay { context, checkout: checkout.clone(), left, done: Some(done) }.start();
            async { all.await.expect("all calls are made") }
        };
        within(PATIENCE * 10, "the calls", stays_flat("reply handlers", calls)).await;
    });
}

/// What an error has to say for itself, from the most to the least.
macro_rules! errors {
    ($($message:ident => $error:ident;)+) => {
        $(
            #[derive(Serialize, Deserialize)]
            struct $message;

            impl Message for $message {
                type Result = Result<(), $error>;
            }

            impl Handler<$message> for Odd {
                type Result = Result<(), $error>;

                fn handle(&mut self, _: $message, _: &mut WorkerContext<Self>) -> Self::Result {
                    Err($error)
                }
            }

            impl From<Failure> for $error {
                fn from(_: Failure) -> Self {
                    $error
                }
            }
        )+
        forkpool::interface!(Odd { $($message),+ });
    };
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[error("it has a text")]
struct Shown;

#[derive(Debug, Serialize, Deserialize)]
struct Debugged;

#[derive(Serialize, Deserialize)]
struct Mute;

struct Odd;

impl Actor for Odd {
    type Context = WorkerContext<Self>;
}

impl Worker for Odd {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Odd)
    }
}

errors! {
    Show => Shown;
    Debug => Debugged;
    Say => Mute;
}
forkpool::boot!(Odd);

/// X3
#[test]
fn an_error_of_the_users_own_type_is_told_by_the_best_text_it_has() {
    run(async {
        let pool = builder::<Odd>(()).workers(1..=1).start().expect("the pool starts");
        let (context, heard) = listening("context");
        let checkout = pool.checkout().in_context(&context).keep_after_error(true).start();
        assert!(answer(checkout.send(Show)).await.is_err());
        assert!(answer(checkout.send(Debug)).await.is_err());
        assert!(answer(checkout.send(Say)).await.is_err());
        assert_eq!(heard.texts(), ["it has a text", "Debugged", "contexts::context_scopes::Mute"]);
        for (told, call) in heard.all().iter().zip(["Show", "Debug", "Say"]) {
            assert_eq!(told.kind(), FailureKind::Task);
            assert_eq!((told.failure().pool(), told.failure().call()), (Some("odd"), Some(call)));
        }
    });
}
