//! What is reported of workers that end by themselves: panics that do not unwind, overflows of the stack, a lack of
//! memory, and texts that a terminal would obey.

use actix::prelude::*;
use forkpool::prelude::*;
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::harness::{Deed, answer, builder, deeper, failure, rogue_failure, rogues, run};

/// A worker that ends in many ways.
pub struct Mortal;

impl Actor for Mortal {
    type Context = WorkerContext<Self>;
}

impl Worker for Mortal {
    type Config = Option<End>;

    fn setup(end: Option<End>, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        end.into_iter().for_each(play);
        Ok(Mortal)
    }
}

/// How it ends.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub enum End {
    Nothing,
    Panic(String),
    /// Panics where nothing may unwind.
    PanicWithoutUnwinding(String),
    /// Panics once more while it unwinds.
    PanicTwice(String, String),
    /// Catches a panic and goes on.
    Catch(String, Box<End>),
    /// Goes on with a panic that the hook has not seen.
    Resume(String),
    OverflowStack,
    /// Sends itself this signal.
    Raise(i32),
    /// Keeps all memory that it can get, down to the last few bytes, and panics.
    PanicWithoutMemory,
    Print(String, Box<End>),
    Exit(i32),
    Spin,
}

impl Handler<End> for Mortal {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, end: End, _: &mut WorkerContext<Self>) -> Self::Result {
        play(end);
        Ok(std::process::id())
    }
}

forkpool::interface!(Mortal { End });
forkpool::boot!(Mortal);

struct PanicsWhenDropped(String);

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("{}", self.0);
    }
}

extern "C" fn without_unwinding(text: &String) {
    panic!("{text}");
}

#[inline(never)]
pub fn a_function_that_panics(text: &str) {
    panic!("{text}");
}

fn play(end: End) {
    match end {
        End::Nothing => {}
        End::Panic(text) => a_function_that_panics(&text),
        End::PanicWithoutUnwinding(text) => without_unwinding(&text),
        End::PanicTwice(first, second) => {
            let _panics = PanicsWhenDropped(second);
            panic!("{first}");
        }
        End::Catch(text, then) => {
            let _caught = std::panic::catch_unwind(|| panic!("{text}"));
            play(*then);
        }
        End::Resume(text) => std::panic::resume_unwind(Box::new(text)),
        End::OverflowStack => {
            std::hint::black_box(deeper(0));
        }
        End::Raise(number) => {
            let signal = Signal::from_named_raw(number).expect("a signal");
            kill_process(getpid(), signal).expect("it is sent");
        }
        End::PanicWithoutMemory => {
            for size in [1 << 20, 64 << 10, 4 << 10, 256, 24] {
                let mut block = Vec::<u8>::new();
                while block.try_reserve_exact(size).is_ok() {
                    std::mem::forget(std::mem::take(&mut block));
                }
            }
            // A text with values in it would need memory before the panic begins.
            panic!("nothing is left");
        }
        End::Print(text, then) => {
            eprintln!("{text}");
            play(*then);
        }
        End::Exit(status) => std::process::exit(status),
        End::Spin => loop {
            std::hint::spin_loop();
        },
    }
}

pub fn mortals() -> forkpool::PoolBuilder<Mortal> {
    builder::<Mortal>(None).workers(1..=1)
}

fn is_abort(failure: &Failure) -> bool {
    matches!(failure.ending(), Some(Ending::Signaled { signal: 6, .. }))
}

/// G9: the panic's text arrives, although the process is aborted before it can send it.
#[test]
fn a_panic_that_cannot_unwind_is_reported_with_the_death_that_it_causes() {
    run(async {
        let pool = mortals().start().expect("the pool starts");
        let died = failure(pool.send(End::PanicWithoutUnwinding("in C code".to_owned()))).await;
        assert_eq!(died.kind(), FailureKind::Died, "{died:#}");
        assert!(is_abort(&died), "{died:#}");
        let report = died.panic().expect("a report");
        assert!(report.message.starts_with("in C code\n"), "{died:#}");
        assert!(report.location.as_deref().is_some_and(|place| place.contains("endings.rs:")), "{died:#}");
        assert!(died.to_string().contains(", after it panicked: in C code at "), "{died}");

        let died = failure(pool.send(End::PanicTwice("first".to_owned(), "second".to_owned()))).await;
        assert_eq!(died.kind(), FailureKind::Died, "{died:#}");
        let report = died.panic().expect("a report");
        assert!(report.message.starts_with("first\nsecond"), "{died:#}");
        assert!(is_abort(&died) && died.to_string().lines().count() == 1, "{died:#}");
    });
}

/// G8
#[test]
fn a_panic_that_was_caught_is_not_taken_for_another_one() {
    run(async {
        let pool = mortals().start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let caught = |then| End::Catch("caught".to_owned(), Box::new(then));
        assert!(answer(checkout.send(caught(End::Nothing))).await.is_ok());
        let panicked = failure(checkout.send(End::Resume("resumed".to_owned()))).await;
        let report = panicked.panic().expect("a report");
        assert_eq!((report.message.as_str(), &report.location), ("resumed", &None), "{panicked:#}");
        drop(checkout);

        let panicked = failure(pool.send(caught(End::Resume("resumed".to_owned())))).await;
        assert!(panicked.panic().is_some_and(|report| report.message == "resumed"), "{panicked:#}");
        let panicked = failure(pool.send(caught(End::Panic("in earnest".to_owned())))).await;
        assert!(panicked.panic().is_some_and(|report| report.message == "in earnest"), "{panicked:#}");
        let panicked = failure(pool.send(End::Resume("a text".to_owned()))).await;
        assert!(panicked.panic().is_some_and(|report| report.message == "a text"), "{panicked:#}");

        // The panic of an earlier call has nothing to do with the end of the worker in a later one.
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(caught(End::Nothing))).await.is_ok());
        let died = failure(checkout.send(End::Exit(3))).await;
        assert_eq!((died.ending(), died.panic()), (Some(Ending::Exited { code: 3 }), None), "{died:#}");
    });
}

/// G9: all memory that the worker may have is in use when it panics.
#[test]
fn a_panic_without_memory_is_a_panic_with_its_text() {
    run(async {
        let pool = mortals().memory_limit(64 << 20).start().expect("the pool starts");
        let panicked = failure(pool.send(End::PanicWithoutMemory)).await;
        assert_eq!(panicked.kind(), FailureKind::Panic, "{panicked:#}");
        assert!(panicked.panic().is_some_and(|report| report.message == "nothing is left"), "{panicked:#}");
        assert!(answer(pool.send(End::Nothing)).await.is_ok());
    });
}

/// G8
#[test]
fn an_overflow_of_the_stack_is_told_from_other_faults() {
    run(async {
        let pool = mortals().start().expect("the pool starts");
        let died = failure(pool.send(End::OverflowStack)).await;
        assert_eq!(died.kind(), FailureKind::Died, "{died:#}");
        assert!(matches!(died.ending(), Some(Ending::Signaled { signal: 11, .. })), "{died:#}");
        assert!(died.stack_overflow(), "{died:#}");
        assert!(died.to_string().ends_with(", its stack overflowed"), "{died}");
        let died = failure(pool.send(End::Raise(11))).await;
        assert!(matches!(died.ending(), Some(Ending::Signaled { signal: 11, .. })), "{died:#}");
        assert!(!died.stack_overflow() && died.to_string().contains("killed by SIGSEGV"), "{died:#}");
        pool.stop(std::time::Duration::ZERO).await;

        let pool =
            builder::<Mortal>(Some(End::OverflowStack)).workers(1..=1).start().expect("the pool starts");
        let failed = failure(pool.send(End::Nothing)).await;
        assert_eq!(failed.kind(), FailureKind::Setup, "{failed:#}");
        assert!(failed.stack_overflow() && failed.to_string().contains("its stack overflowed"), "{failed:#}");
    });
}

/// G8: its process is looked at before anything is claimed of it.
#[test]
fn a_worker_that_closes_its_channel_and_lives_is_told_from_one_that_ends() {
    run(async {
        let rogues = rogues();
        let died = rogue_failure(rogues.send(Deed::HangUp)).await;
        assert_eq!((died.kind(), died.ending()), (FailureKind::Died, None), "{died:#}");
        assert!(died.to_string().ends_with("it closed its channel and was killed"), "{died}");
        assert!(died.peak_memory().is_some() && died.cpu_time().is_some(), "{died:#}");
        let died = rogue_failure(rogues.send(Deed::Exit(3))).await;
        assert_eq!(died.ending(), Some(Ending::Exited { code: 3 }), "{died:#}");
        assert!(!died.to_string().contains("channel"), "{died}");
    });
}

/// G8, E8: a worker does not move the cursor of a terminal that shows its failure.
#[test]
fn what_a_worker_says_is_data_wherever_a_failure_shows_it() {
    run(async {
        let pool = mortals().start().expect("the pool starts");
        let evil = "\x1b[2J\x1b]0;title\x07\u{9b}31m\u{202e}\r\u{8}end";
        let printed = End::Print(evil.to_owned(), Box::new(End::Panic(evil.to_owned())));
        let panicked = failure(pool.send(printed)).await;
        assert_eq!(panicked.kind(), FailureKind::Panic);
        assert!(panicked.panic().is_some_and(|report| report.message == evil), "the value is as it was");
        let hidden =
            |text: &str| text.chars().any(|char| (char.is_control() && char != '\n') || char == '\u{202e}');
        for text in [panicked.to_string(), format!("{panicked:#}"), format!("{panicked:?}")] {
            assert!(!hidden(&text), "{text:?}");
            assert!(text.contains("\\u{1b}[2J") && text.contains("end"), "{text:?}");
        }
        assert!(!hidden(&panicked.panic().expect("a report").to_string()));
        assert_eq!(panicked.to_string().lines().count(), 1);
        let task = Failure::task(evil);
        assert!(!hidden(&task.to_string()) && !hidden(&format!("{task:?}")), "{task:?}");
    });
}
