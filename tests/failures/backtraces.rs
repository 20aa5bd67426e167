//! Backtraces of panics: only where the environment of the application asks for them, and with the names of functions.

use std::time::Duration;

use actix::System;

use crate::endings::{End, Mortal, mortals};
use crate::harness::{Application, answer, bounded, builder, failure, role, run};

/// An application whose handlers and set-up panic; it prints what it is told.
#[test]
#[ignore = "an application that other tests run"]
fn an_application_that_panics() {
    if role().is_none() {
        return;
    }
    let panic = |text: &str| End::Panic(text.to_owned());
    System::new().block_on(async {
        let pool = mortals().start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let (first, behind) = (checkout.send(panic("on purpose")), checkout.send(End::Nothing));
        let panicked = answer(first).await.expect_err("a panic");
        println!("handler: {:?}", panicked.panic().map(|report| &report.backtrace));
        let cleared = answer(behind).await.expect_err("it is cleared");
        let later = failure(checkout.send(End::Nothing)).await;
        println!("clones: {} {}", cleared.to_string().lines().count(), later == panicked);
        drop(checkout);
        pool.stop(Duration::ZERO).await;

        let pool = builder::<Mortal>(Some(panic("in the set-up"))).workers(1..=1).start();
        let pool = pool.expect("the pool starts");
        let failed = failure(pool.send(End::Nothing)).await;
        println!("setup: {:?}", failed.panic().map(|report| &report.backtrace));
        let failed = bounded("an attempt", pool.ready()).await.expect_err("it panics");
        println!("ready: {:?}", failed.panic().map(|report| &report.backtrace));
        pool.stop(Duration::ZERO).await;
    });
}

fn start(backtrace: Option<&str>, lib_backtrace: Option<&str>) -> Application {
    let variables = [("RUST_BACKTRACE", backtrace), ("RUST_LIB_BACKTRACE", lib_backtrace)];
    Application::start_with_variables(&variables, "backtraces::an_application_that_panics", "panics")
}

/// G9, E1
#[test]
fn a_panic_has_a_backtrace_with_names_where_the_environment_asks_for_it() {
    run(async {
        for wanted in ["1", "full"] {
            let mut application = start(Some(wanted), Some("0"));
            for mark in ["handler:", "setup:", "ready:"] {
                let text = application.says(mark);
                assert!(text.contains("endings::a_function_that_panics"), "{wanted} {mark} {text}");
                assert!(text.contains("tests/failures/endings.rs:"), "{wanted} {mark} {text}");
                let shows_ours = text.contains("panic_capture");
                assert_eq!(shows_ours, wanted == "full", "{wanted} {mark} {text}");
                if mark == "handler:" {
                    assert_eq!(application.says("clones:"), "1 true");
                }
            }
            assert!(application.ends().success());
        }
    });
}

/// G9
#[test]
fn no_backtrace_is_captured_where_nothing_asks_for_it() {
    run(async {
        for (backtrace, lib_backtrace) in [(None, None), (Some("0"), None), (None, Some("1"))] {
            let mut application = start(backtrace, lib_backtrace);
            for mark in ["handler:", "setup:", "ready:"] {
                assert_eq!(application.says(mark), "Some(\"\")", "{backtrace:?} {lib_backtrace:?}");
            }
            assert!(application.ends().success());
        }
    });
}
