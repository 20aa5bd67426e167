//! One log for one request: its own messages, those of the workers, and a timer for each call.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::harness::*;
use forkpool::prelude::*;
use forkpool::{FinishedLog, LogLevel, LogMessage, RequestLog};
use serde_json::json;

/// A log and where it is delivered.
fn request_log() -> (RequestLog, Receiver<FinishedLog>) {
    let (sender, delivered) = channel();
    (RequestLog::new(move |log| sender.send(log).expect("somebody waits for it")), delivered)
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

/// L3, L4
#[test]
fn the_log_of_a_request_has_its_messages_those_of_its_workers_and_its_calls() {
    run(async {
        let (log, outcome) = request_log();
        let (one, two) = (scribes(), scribes());
        log.info("before");
        for pool in [&one, &two] {
            let checkout = pool.checkout().log(&log).start();
            answer(checkout.send(Write::Spans)).await.expect("it is written");
            log.info("between");
        }
        drop(log);
        let log = delivered(&outcome).await;
        let of_a_call = ["in outer", "in inner", "without a parent", "behind both", "between"];
        assert_eq!(texts(&log), [&["before"][..], &of_a_call, &of_a_call].concat());
        let of_a_call = ["Write", "outer {\"later\":\"now\",\"page\":1}", "inner"];
        assert_eq!(timers(&log), [of_a_call, of_a_call].concat());
        for (call, spans) in [(0, [1, 2]), (3, [4, 5])] {
            let call = &log.timers[call];
            assert!(spans.iter().all(|&span| call.start <= log.timers[span].start));
            assert!(spans.iter().all(|&span| log.timers[span].end <= call.end));
        }
        assert!(log.timers.iter().all(|timer| timer.failure.is_none() && timer.end <= log.end));
        assert!(log.messages.is_sorted_by_key(|message| message.at));
        let fields = log.messages[1].fields().expect("fields");
        assert_eq!(fields.get("target"), Some(&json!("calls::harness::scribe")));
        for pool in [one, two] {
            pool.stop(Duration::ZERO).await;
        }
    });
}

/// L3, L4
#[test]
fn what_was_logged_before_a_worker_went_down_is_in_the_log_and_so_is_its_end() {
    run(async {
        let ends = [
            (End::Aborts, FailureKind::Died, "killed by SIGABRT"),
            (End::Panics, FailureKind::Panic, "told to"),
            (End::Hangs, FailureKind::Timeout, "300ms"),
        ];
        for (end, kind, text) in ends {
            let (log, outcome) = request_log();
            let pool = scribes();
            // The limit is for the one that hangs, whose worker has to be there to begin in time.
            pool.ready().await.expect("a worker");
            let limit = if kind == FailureKind::Timeout { Duration::from_millis(300) } else { PATIENCE };
            let checkout = pool.checkout().log(&log).timeout(limit).start();
            let first = checkout.send(Write::Then(end));
            let behind = checkout.send(Write::Spans);
            assert_eq!(failure(first).await.kind(), kind);
            assert_eq!(failure(behind).await.kind(), FailureKind::Cleared);
            drop((checkout, log));
            let log = delivered(&outcome).await;
            // A call that was cleared before it was written took no time.
            let cleared = "Write was not run: a call before it on its checkout failed";
            assert_eq!(texts(&log), ["before the end", cleared], "{end:?}");
            assert_eq!(timers(&log), ["Write", "to the end"]);
            let call = log.timers[0].failure.as_deref().expect("the call has failed");
            assert!(call.contains(text), "{call}");
            let span = log.timers[1].failure.as_deref();
            // A panic unwinds through the span, so that it is closed in time.
            assert_eq!(span.is_some(), !matches!(end, End::Panics), "{span:?}");
        }
    });
}

/// L4
#[test]
fn a_worker_that_is_cut_off_in_the_middle_of_a_record_leaves_the_whole_ones() {
    run(async {
        let pool = scribes();
        for least in 1..=30 {
            let (log, outcome) = request_log();
            let checkout = pool.checkout().log(&log).start();
            assert_eq!(failure(checkout.send(Write::UntilCut(least))).await.kind(), FailureKind::Died);
            drop((checkout, log));
            let log = delivered(&outcome).await;
            let number = |message: &LogMessage| message.fields()?.get("number")?.as_u64();
            let numbers: Vec<u64> = log.messages.iter().filter_map(number).collect();
            assert!(numbers.len() as u64 >= least && numbers.iter().copied().eq(0..numbers.len() as u64));
        }
    });
}

/// L6
#[test]
fn the_verbosity_of_the_log_decides_in_the_worker() {
    run(async {
        let pool = scribes();
        for (verbosity, texts_of_it, computed) in [
            (LogLevel::ERROR, &["an error"][..], 0),
            (LogLevel::WARN, &["an error", "a warning"], 0),
            (LogLevel::INFO, &["an error", "a warning", "an info"], 0),
            (LogLevel::DEBUG, &["an error", "a warning", "an info", "computed"], 1),
            (LogLevel::TRACE, &["an error", "a warning", "an info", "a trace", "computed"], 2),
            (LogLevel::ERROR, &["an error"], 2),
        ] {
            let (log, outcome) = request_log();
            let log = log.with_verbosity(verbosity);
            let checkout = pool.checkout().log(&log).start();
            answer(checkout.send(Write::EveryKind)).await.expect("it is written");
            assert_eq!(answer(checkout.send(Write::Computed)).await, Ok(computed));
            drop((checkout, log));
            assert_eq!(texts(&delivered(&outcome).await), texts_of_it, "{verbosity}");
        }
    });
}

/// L1, L3
#[test]
fn the_log_waits_for_what_was_sent_and_forgotten() {
    run(async {
        let pool = pool_of_one();
        let (log, outcome) = request_log();
        let checkout = pool.checkout().log(&log).start();
        for number in 0..20 {
            checkout.do_send(Slow(Duration::from_millis(1), number));
        }
        drop((checkout, log));
        let log = delivered(&outcome).await;
        assert_eq!(timers(&log), ["Slow"; 20]);
        assert!(log.timers.iter().all(|timer| timer.end.is_some() && timer.failure.is_none()));
    });
}

/// L3
#[test]
fn an_error_of_the_handlers_own_is_in_the_log() {
    run(async {
        let pool = pool_of_one();
        let (log, outcome) = request_log();
        let checkout = pool.checkout().log(&log).start();
        assert_eq!(failure(checkout.send(Fail("not today".to_owned()))).await, Failure::task("not today"));
        drop((checkout, log));
        let log = delivered(&outcome).await;
        let failure = log.timers[0].failure.as_deref().expect("it failed");
        assert!(failure.contains("not today"), "{failure}");
    });
}

/// L1, L4
#[test]
fn a_handler_adds_messages_timers_and_data_by_its_context() {
    run(async {
        let pool = scribes();
        let (log, outcome) = request_log();
        log.data("key", "from the application");
        let checkout = pool.checkout().log(&log).start();
        answer(checkout.send(Write::ByTheContext)).await.expect("it is written");
        drop((checkout, log));
        let log = delivered(&outcome).await;
        assert_eq!(texts(&log), ["an info", "between levels"]);
        assert_eq!(log.messages[1].level, LogLevel(15));
        assert_eq!(log.messages[0].fields(), None);
        assert_eq!(log.messages[1].items[1], json!({ "list": [1, 2] }));
        assert_eq!(timers(&log), ["Write", "a timer"]);
        assert!(log.timers[1].start <= log.messages[0].at && Some(log.messages[1].at) <= log.timers[1].end);
        assert_eq!(log.data.get("key"), Some(&json!([["nested", true]])));
    });
}

/// L3
#[test]
fn the_timer_of_a_call_begins_when_it_is_written_also_behind_another() {
    run(async {
        let pool = pool_of_one();
        let (log, outcome) = request_log();
        let checkout = pool.checkout().log(&log).start();
        let slow = |millis, number| checkout.send(Slow(Duration::from_millis(millis), number));
        // A worker that has answered once is written ahead to.
        answer(slow(0, 0)).await.expect("it runs");
        let first = slow(100, 1);
        let mut rounds = 0;
        until("the checkout has had its turn", || {
            rounds += 1;
            rounds > 2
        })
        .await;
        log.info("the second is sent");
        answer(slow(0, 2)).await.expect("it runs");
        answer(first).await.expect("it runs");
        drop((checkout, log));
        let log = delivered(&outcome).await;
        let sent = log.messages[0].at;
        let [_, first, second] = log.timers.as_slice() else { panic!("three calls: {log:?}") };
        assert!(first.start < sent && second.start >= sent, "{log:?}");
    });
}

/// L3
#[test]
fn a_call_that_no_worker_ever_had_is_told_of_by_a_message() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        let _ = answer(holder.send(Pid)).await;
        let (log, outcome) = request_log();
        let checkout = pool.checkout().log(&log).wait_timeout(Duration::from_millis(20)).start();
        assert_eq!(failure(checkout.send(Pid)).await.kind(), FailureKind::Timeout);
        drop((checkout, log));
        let log = delivered(&outcome).await;
        assert_eq!((timers(&log), log.messages.len()), (vec![], 1));
        assert_eq!(log.messages[0].level, LogLevel::ERROR);
        assert!(texts(&log)[0].contains("Pid"), "{:?}", texts(&log));
    });
}

/// L1
#[test]
fn a_context_says_what_has_odd_fields_or_the_severest_level() {
    run(async {
        let pool = scribes();
        for (verbosity, expected) in [(0, &["a text"][..]), (30, &["a text", "another"])] {
            let (log, outcome) = request_log();
            let checkout = pool.checkout().log(&log.clone().with_verbosity(LogLevel(verbosity))).start();
            answer(checkout.send(Write::OddFields)).await.expect("it is written");
            drop((checkout, log));
            let log = delivered(&outcome).await;
            assert_eq!(texts(&log), expected);
            let fields: Vec<_> = log.messages.iter().map(|message| message.items[1].clone()).collect();
            let all = [json!({ "message": "a field" }), json!({ "fields": 7 })];
            assert_eq!(fields, all[..expected.len()]);
        }
    });
}

/// L4
#[test]
fn a_thread_that_outlives_its_call_speaks_in_the_next_or_not_at_all() {
    run(async {
        let pool = scribes();
        answer(pool.send(Write::FromBehind)).await.expect("it is written");
        let (mut heard, mut rounds) = (0, 0);
        while rounds < 300 || heard == 0 {
            rounds += 1;
            assert!(rounds < 100_000, "the thread is never heard");
            let (log, outcome) = request_log();
            let checkout = pool.checkout().log(&log).start();
            answer(checkout.send(Write::EveryKind)).await.expect("the worker lives");
            drop((checkout, log));
            // Nobody hears what this one logs.
            answer(pool.send(Write::EveryKind)).await.expect("the worker lives");
            let log = delivered(&outcome).await;
            heard += texts(&log).iter().filter(|text| *text == "from behind").count();
            assert!(texts(&log).iter().any(|text| text == "an error"), "{rounds}");
        }
        assert_eq!(pool.stats().forked, 1);
    });
}

/// L3
#[test]
fn calls_that_run_when_their_system_ends_are_timers_that_failed() {
    run(async {
        let (log, outcome) = request_log();
        let pool = pool_of_one();
        let handle = pool.clone();
        on_an_arbiter(move || async move {
            let checkout = handle.checkout().log(&log).start();
            checkout.do_send(Slow(Duration::from_secs(60), 0));
            until("it runs", || handle.stats().leased == 1).await;
        })
        .await;
        let log = delivered(&outcome).await;
        assert_eq!(timers(&log), ["Slow"]);
        let failure = log.timers[0].failure.as_deref().expect("it has failed");
        assert!(failure.contains("the actix system ended"), "{failure}");
    });
}
