//! Applications whose standard error or subscriber cannot take what the library tells: the pool serves all the same.
mod harness;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use harness::*;
use rustix::pipe::{PipeFlags, pipe_with};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Panics at every second event.
struct Panicking(AtomicU32);

impl<S: tracing::Subscriber> Layer<S> for Panicking {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) % 2 == 1, "a subscriber that panics");
    }
}

/// Makes standard error a pipe that is full and that is not read. Returns the end that is not read.
fn fill_stderr(waits: bool) -> OwnedFd {
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).expect("a pipe");
    let mut pipe = File::from(writer);
    while pipe.write(&[b'.'; 4096]).is_ok() {}
    while pipe.write(b".").is_ok() {}
    let flags = rustix::fs::fcntl_getfl(&pipe).expect("flags");
    let flags = if waits { flags - rustix::fs::OFlags::NONBLOCK } else { flags };
    rustix::fs::fcntl_setfl(&pipe, flags).expect("other flags");
    rustix::stdio::dup2_stderr(&pipe).expect("another standard error");
    reader
}

fn close_stderr_reader() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    drop(reader);
    rustix::stdio::dup2_stderr(writer).expect("another standard error");
}

/// Spoils standard error and sets a subscriber, as the role says. Returns what has to stay open.
fn spoil(role: &str) -> Option<OwnedFd> {
    if role.ends_with("with a subscriber") {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    }
    match role.split(',').next().unwrap_or_default() {
        "a full pipe" => Some(fill_stderr(true)),
        "a full pipe that does not wait" => Some(fill_stderr(false)),
        "a closed pipe" => {
            close_stderr_reader();
            None
        }
        "a full disk" => {
            rustix::stdio::dup2_stderr(File::options().write(true).open("/dev/full").expect("a file"))
                .expect("another standard error");
            None
        }
        "a subscriber that panics" => {
            let subscriber = tracing_subscriber::registry().with(Panicking(AtomicU32::new(0)));
            tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
            None
        }
        other => panic!("no role: {other}"),
    }
}

#[test]
#[ignore = "an application that other tests run"]
fn an_application() {
    let Some(role) = role() else { return };
    let _kept_open = spoil(&role);
    System::new().block_on(async {
        let pool = pool().workers(1..=2).start().expect("the pool starts");
        let mut died = 0;
        for _ in 0..3 {
            died += u32::from(failure(pool.send(Exit(3))).await.kind() == FailureKind::Died);
        }
        // More than the pipes between them hold.
        answer(pool.send(Print(40_000))).await.expect("printed");
        // Each fails outside of any context, which is logged: more events than may wait to be told.
        for _ in 0..5000 {
            pool.do_send(Fail("nothing handles this".to_owned()));
        }
        let mut answered = 0;
        for _ in 0..20 {
            answered += answer(pool.send(Setups)).await.expect("an answer");
        }
        // The books count no dead workers.
        until("all workers are idle", || pool.stats().idle == pool.stats().workers()).await;
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        println!("died {died}, answered {answered}, {report}");
    });
}

fn serves(role: &str) {
    run(async {
        let mut application = Application::start("an_application", role);
        assert_eq!(application.says("died "), "3, answered 20, nothing is left");
        assert!(application.ends().success());
    });
}

/// G1
#[test]
fn standard_error_that_is_a_full_pipe_holds_up_nothing() {
    serves("a full pipe");
    serves("a full pipe, with a subscriber");
}

/// G1
#[test]
fn standard_error_that_is_a_full_pipe_and_does_not_wait_ends_nothing() {
    serves("a full pipe that does not wait");
    serves("a full pipe that does not wait, with a subscriber");
}

/// G1
#[test]
fn standard_error_that_is_a_closed_pipe_ends_nothing() {
    serves("a closed pipe");
    serves("a closed pipe, with a subscriber");
}

/// G1
#[test]
fn standard_error_on_a_full_disk_ends_nothing() {
    serves("a full disk");
    serves("a full disk, with a subscriber");
}

/// G1
#[test]
fn a_subscriber_that_panics_ends_nothing() {
    serves("a subscriber that panics");
}
