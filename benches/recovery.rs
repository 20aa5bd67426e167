//! From a worker's death to the next answer.
//!
//! The only worker of a pool is killed in the middle of a call; the clock stops when the next call, on any new
//! worker, is answered. Two things cannot be had cheaper: the notice of the death (end-of-file on a socket pair
//! of a killed process, to a blocked reader) and the start of another process (a bare fork server's). Their sum
//! is what we are measured against.

mod support;

use std::time::{Duration, Instant};

use forkpool::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use support::{
    Apprentice, BareForkServer, Placement, Report, Series, Setting, Sleep, Sleeper, Whereabouts, echo,
};

fn main() {
    support::run("recovery", &Placement::ALL, measure);
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(1..=1).start().expect("a pool");
    let (first, server) = pool.send(Whereabouts).await.expect("a worker");
    setting.place(first);
    setting.place(server);
    let mut bare_server = BareForkServer::start(setting);

    let mut ours = Series::seconds("forkpool, from kill -9 of the busy worker to the next reply");
    let mut notice = Series::seconds("notice: kill -9 to end-of-file, blocking reader");
    let mut bare = Series::seconds("start: bare fork server, to the child's first byte");
    for _ in 0..setting.rounds(200) {
        ours.push(recover(&pool).await);
        notice.push(notice_of_death(setting));
        bare.push(start(&mut bare_server));
    }

    let mut report = Report::default();
    [&ours, &notice, &bare].into_iter().for_each(|series| report.row(series));
    let limit = notice.median() + bare.median();
    report.ratio(&format!("recovery/notice_plus_start@{}", setting.placement), ours.median() / limit);
    pool.stop(Duration::ZERO).await;
    report
}

async fn recover(pool: &PoolHandle<Apprentice>) -> f64 {
    let busy = pool.checkout().start();
    let (pid, _) = busy.send(Whereabouts).await.expect("an answer").expect("a worker");
    let sleeping = busy.send(Sleep(Duration::from_secs(600)));
    support::until("the worker sleeps", || support::announces_sleep(pid)).await;

    let began = Instant::now();
    kill(pid);
    pool.send(echo()).await.expect("an echo");
    let took = began.elapsed();

    let failure = sleeping.await.expect("an answer").expect_err("it was killed");
    assert_eq!(failure.kind(), FailureKind::Died, "the call was lost to its worker's death");
    took.as_secs_f64()
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid is positive");
    kill_process(pid, Signal::KILL).expect("the worker is there");
}

fn notice_of_death(setting: Setting) -> f64 {
    let sleeper = Sleeper::start(setting);
    let began = Instant::now();
    sleeper.kill();
    let took = began.elapsed();
    drop(sleeper);
    took.as_secs_f64()
}

fn start(server: &mut BareForkServer) -> f64 {
    let began = Instant::now();
    server.fork();
    let took = began.elapsed();
    server.rest();
    took.as_secs_f64()
}
