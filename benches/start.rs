//! From nothing to an answer: what a worker that does not exist yet costs its first caller.
//!
//! The pool's fork server is up and no worker exists. Beside it: a bare fork server of the same size (this
//! program, one thread, asked by one byte; the child's first byte is the end), which is the limit, and starting
//! this program from scratch with `std::process::Command`.

mod support;

use std::time::{Duration, Instant};

use forkpool::prelude::*;
use support::{Apprentice, BareForkServer, Placement, Report, Series, Setting};

fn main() {
    support::run("start", &Placement::ALL, measure);
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(0..=20).start().expect("a pool");
    support::place_server(setting, &pool).await;
    let mut bare_server = BareForkServer::start(setting);

    let mut ours = Series::seconds("forkpool, from no worker to the first reply");
    let mut bare = Series::seconds("bare fork server, to the child's first byte");
    let mut command = Series::seconds("std::process::Command, to the first byte");
    for _ in 0..setting.rounds(300) {
        ours.push(support::first_reply(&pool).await);
        bare.push(first_byte(&mut bare_server));
        command.push(first_byte_from_scratch());
    }

    let mut report = Report::default();
    let at = setting.placement;
    [&ours, &bare, &command].into_iter().for_each(|series| report.row(series));
    report.ratio(&format!("start/bare_fork_server@{at}"), ours.median() / bare.median());
    report.ratio(&format!("start/command@{at}"), ours.median() / command.median());
    pool.stop(Duration::ZERO).await;
    report
}

fn first_byte(server: &mut BareForkServer) -> f64 {
    let began = Instant::now();
    server.fork();
    let took = began.elapsed();
    server.rest();
    took.as_secs_f64()
}

fn first_byte_from_scratch() -> f64 {
    let began = Instant::now();
    let process = support::first_byte_of_a_command();
    let took = began.elapsed();
    drop(process);
    took.as_secs_f64()
}
