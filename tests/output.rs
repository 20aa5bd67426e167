//! What workers print: where it goes, what it costs, and that it harms nobody.

mod harness;

use std::time::Duration;

use forkpool::prelude::*;
use harness::*;

const OUTPUT: &str = "forkpool::worker::output";

fn lines(stream: &str) -> Vec<Seen> {
    events(OUTPUT).into_iter().filter(|event| event.field("stream") == stream).collect()
}

fn texts(stream: &str) -> Vec<String> {
    lines(stream).iter().map(|event| event.message().to_owned()).collect()
}

fn say(out: &[&str], err: &[&str], then: Trick) -> Trick {
    let owned = |lines: &[&str]| lines.iter().map(ToString::to_string).collect();
    Trick::Say(owned(out), owned(err), Box::new(then))
}

/// W7
#[test]
fn lines_arrive_as_events_that_say_who_printed_them_during_which_call() {
    run(async {
        keep_events();
        let pool = mules().name("stable").start().expect("the pool starts");
        let pid = answer(pool.send(say(&["one", "two"], &["three"], Trick::Nothing))).await.expect("a pid");
        until("all of it is seen", || events(OUTPUT).len() == 3).await;
        assert_eq!(
            (texts("stdout"), texts("stderr")),
            (vec!["one".into(), "two".into()], vec!["three".into()])
        );
        for event in events(OUTPUT) {
            assert_eq!((event.field("pool"), event.field("worker")), ("stable", "1"));
            assert_eq!((event.field("pid"), event.field("call")), (pid.to_string().as_str(), "Trick"));
        }
        assert_eq!(lines("stdout")[0].level, tracing::Level::INFO);
        assert_eq!(lines("stderr")[0].level, tracing::Level::WARN);
    });
}

/// W7
#[test]
fn bytes_that_look_like_a_protocol_are_lines_like_any_other() {
    run(async {
        keep_events();
        let pool = mules().start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let garbage = "\u{0}\u{1}\u{2}\u{3}\u{7f}\u{10ffff}\r";
        assert_eq!(answer(checkout.send(say(&[garbage], &[garbage], Trick::Nothing))).await, Ok(worker));
        assert_eq!(answer(checkout.send(Trick::Nothing)).await, Ok(worker));
        until("it is seen", || events(OUTPUT).len() == 2).await;
        assert_eq!(texts("stdout"), [garbage.trim_end()]);
    });
}

/// W7
#[test]
fn a_gigabyte_on_standard_output_harms_nobody_and_keeps_nobody_waiting() {
    run(async {
        keep_events();
        let pool = mules().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let talker = pool.checkout().start();
        let text = "x".repeat(1023);
        let worker = answer(talker.send(Trick::Nothing)).await.expect("a pid");
        let request = talker.send(Trick::Repeat(1 << 20, text));
        // The application is served meanwhile.
        let neighbour = pool.checkout().start();
        for _ in 0..100 {
            assert!(answer(neighbour.send(Trick::Nothing)).await.is_ok());
        }
        // Longer than an answer takes otherwise: other tests want the processors as well.
        assert_eq!(within(PATIENCE * 5, "a gigabyte", request).await.answer(), Ok(worker));
        assert_eq!(answer(talker.send(say(&["the end"], &[], Trick::Nothing))).await, Ok(worker));
        let told = events(OUTPUT);
        assert!(told.len() < 100_000, "{} events", told.len());
        drop((talker, neighbour));
        settled(&pool, 2).await;
        pool.stop(Duration::ZERO).await;
        let left_out = |event: &Seen| event.field("lines").parse::<u64>().ok();
        let (told, left): (Vec<Seen>, u64) = {
            let seen = events(OUTPUT);
            let left = seen.iter().filter_map(left_out).sum();
            (seen.into_iter().filter(|event| !event.field("stream").is_empty()).collect(), left)
        };
        // Nothing is lost without being counted.
        assert_eq!(told.len() as u64 + left, (1 << 20) + 1);
    });
}

/// W7
#[test]
fn what_a_worker_says_last_is_told_before_its_end_is() {
    run(async {
        keep_events();
        let pool = mules().start().expect("the pool starts");
        let dying = say(&["last words"], &["goodbye"], Trick::Exit(3));
        let died = answer(pool.send(dying)).await.expect_err("it dies");
        assert_eq!(died.kind(), FailureKind::Died);
        assert_eq!(died.stderr(), ["goodbye"]);
        assert_eq!((texts("stdout"), texts("stderr")), (vec!["last words".into()], vec!["goodbye".into()]));
    });
}

/// W7
#[test]
fn a_child_that_a_worker_leaves_behind_keeps_nobody_waiting() {
    run(async {
        let pool = mules().start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let daemon = answer(checkout.send(Trick::LeaveDaemon)).await.expect("a pid");
        until("it has left its worker's group", || comm(daemon) == "sleep").await;
        let died = failure(checkout.send(Trick::Exit(3))).await;
        assert_eq!(died.kind(), FailureKind::Died);
        drop(checkout);
        settled(&pool, 1).await;
        pool.stop(Duration::ZERO).await;
        kill(daemon);
        gone(daemon).await;
    });
}

/// W7, G8
#[test]
fn a_program_that_listens_to_nothing_prints_what_its_workers_print() {
    let printed = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_worker_prints_for_the_test_above", "--include-ignored", "--nocapture"])
        .output()
        .expect("it runs");
    let printed = String::from_utf8_lossy(&printed.stderr);
    assert!(printed.contains("[mule/1] on standard output"), "{printed}");
    assert!(printed.contains("[mule/1] on standard error"), "{printed}");
    // G8: what a worker prints is data.
    assert!(printed.contains("[mule/1] \\u{1b}[2J") && !printed.contains('\x1b'), "{printed}");
}

#[test]
#[ignore = "it is what another test starts, in a program of its own"]
fn a_worker_prints_for_the_test_above() {
    run(async {
        let pool = mules().start().expect("the pool starts");
        let trick = say(&["on standard output", "\x1b[2J"], &["on standard error"], Trick::Nothing);
        assert!(answer(pool.send(trick)).await.is_ok());
        pool.stop(PATIENCE).await;
    });
}
