//! What this program is when it is no test.

use std::time::Duration;

use actix::System;
use forkpool::prelude::*;
use forkpool::{Server, ServerError};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use seccompiler::{SeccompAction, SeccompFilter};

use crate::amoeba::{Amoeba, Division};
use crate::harness::*;
use crate::picky::{Picky, Threads};

/// Plays a role: a word, and options of the form `name=value`.
pub fn play(role: &str, address: &str) {
    let words: Vec<&str> = role.split_whitespace().collect();
    for word in &words {
        match word.split_once('=') {
            Some(("refuse", refusal)) => refuse(refusal),
            Some(("without", folder)) => {
                if let Err(error) = hide(folder) {
                    return println!("skipped: {error}");
                }
            }
            _ => {}
        }
    }
    let value = |wanted: &str| {
        words.iter().find_map(|word| word.split_once('=').filter(|(name, _)| *name == wanted)).map(|it| it.1)
    };
    match words[0] {
        "pool" => {
            let limit = value("limit").map_or(2, |limit| limit.parse().expect("seconds"));
            System::new().block_on(pool(Duration::from_secs(limit)));
        }
        "heir" => System::new().block_on(heir(words.contains(&"unlimited"))),
        "starved" => System::new().block_on(starved()),
        "crowd" => System::new().block_on(crowd()),
        "amoebas" => System::new().block_on(crate::copies::amoebas_of_an_application()),
        "divides" => System::new().block_on(crate::copies::dividing_application()),
        "divided" => divided(address),
        "server" => server(address, value("log"), value("threads")),
        other => panic!("no part {other:?}"),
    }
}

/// Has the kernel refuse calls to this process and all that it starts: `close_range:ENOSYS`.
fn refuse(refusal: &str) {
    let (call, error) = refusal.split_once(':').expect("a call and an error");
    let number = match call {
        "close_range" => libc::SYS_close_range,
        "madvise" => libc::SYS_madvise,
        "memfd_create" => libc::SYS_memfd_create,
        "pidfd_open" => libc::SYS_pidfd_open,
        "prctl" => libc::SYS_prctl,
        "pidfd_send_signal" => libc::SYS_pidfd_send_signal,
        "pwritev2" => libc::SYS_pwritev2,
        "setpgid" => libc::SYS_setpgid,
        "signalfd" => libc::SYS_signalfd4,
        other => panic!("no number for {other}"),
    };
    let error = match error {
        "ENOSYS" => libc::ENOSYS,
        "EPERM" => libc::EPERM,
        other => panic!("no number for {other}"),
    };
    let refusal = SeccompAction::Errno(error.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture");
    let rules = [(number, Vec::new())].into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture).expect("a filter");
    let filter: seccompiler::BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter(&filter).expect("the kernel has filters");
}

/// Puts an empty folder in the place of `/proc` or `/dev`, for this process and all that it starts.
fn hide(folder: &str) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("none"), format!("/{folder}").as_str(), Some("tmpfs"), MsFlags::empty(), none)
}

/// An application: calls, a blob, a worker that is killed and one that exits.
async fn pool(limit: Duration) {
    let pool = match builder::<Probe>(Setup::default()).workers(1..=1).start() {
        Ok(pool) => pool,
        Err(error) => return println!("refused: {}", one_line(&format!("{error:?}"))),
    };
    match answer(pool.send_within(limit, Pid)).await {
        Ok(pid) => println!("served by {pid}"),
        Err(failure) => {
            println!("failed: {}", one_line(&format!("{failure:#}")));
            bounded("the end", pool.stop(Duration::ZERO)).await;
            return;
        }
    }
    let blob = pool.blob(1 << 20).expect("there is room");
    answer(pool.send(Mirror(blob.freeze()))).await.expect("a blob");
    let hung = failure(pool.send_within(Duration::from_millis(50), Spin)).await;
    assert_eq!(hung.kind(), FailureKind::Timeout);
    assert_eq!(failure(pool.send(Exit(3))).await.kind(), FailureKind::Died);
    answer(pool.send(Setups)).await.expect("a worker");
    bounded("the end", pool.stop(Duration::ZERO)).await;
    println!("stopped");
}

/// An application whose fork server dies, together with its worker, when it is told to go on.
async fn heir(unlimited: bool) {
    let pool = builder::<Probe>(Setup::default()).workers(1..=1).start().expect("the pool starts");
    answer(pool.send(Pid)).await.expect("a worker");
    println!("ready");
    wait_to_go_on();
    kill(the_server().await);
    assert_eq!(failure(pool.send(Exit(3))).await.kind(), FailureKind::Died);
    let limit = (!unlimited).then_some(Duration::from_secs(2));
    let failed = failure(pool.send_within(limit, Pid)).await;
    println!("failed: {}", one_line(&format!("{failed:#}")));
    bounded("the end", pool.stop(Duration::ZERO)).await;
}

/// An application whose fork server may not wait for as many descriptors as it has.
async fn starved() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let pool = builder::<Probe>(Setup::default()).workers(1..=1).start().expect("the pool starts");
    settled(&pool, 1).await;
    let server = the_server().await;
    let one = Rlimit { current: Some(1), ..getrlimit(Resource::Nofile) };
    let pid = Pid::from_raw(i32::try_from(server).expect("a pid"));
    prlimit(pid, Resource::Nofile, one).expect("a limit");
    // Wakes it, and may still be answered.
    let _ = bounded("an answer", pool.server_stats()).await;
    until("there is another server", || servers().iter().any(|&other| other != server)).await;
    bounded("the end", pool.stop(Duration::ZERO)).await;
    println!("stopped");
}

/// An application with several workers, one after the other as well.
async fn crowd() {
    let pool = builder::<Probe>(Setup::default()).workers(5..=5).start().expect("the pool starts");
    settled(&pool, 5).await;
    for _ in 0..4 {
        assert_eq!(failure(pool.send(Exit(3))).await.kind(), FailureKind::Died);
    }
    settled(&pool, 5).await;
    bounded("the end", pool.stop(Duration::ZERO)).await;
    println!("stopped");
}

/// A server whose preload forks.
fn divided(address: &str) {
    let ended = Server::<Amoeba>::new(Division::Preload)
        .listen(address)
        .map_err(ServerError::from)
        .and_then(Server::run);
    match ended {
        Ok(()) => println!("good bye"),
        Err(error) => println!("refused: {}", one_line(&format!("{error:?}"))),
    }
}

/// A server; `log` is how its subscriber is: `stderr` or `panics`.
fn server(address: &str, log: Option<&str>, threads: Option<&str>) {
    match log {
        Some("stderr") => {
            let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).finish();
            tracing::subscriber::set_global_default(log).expect("the only one");
        }
        Some("panics") => {
            use tracing_subscriber::layer::SubscriberExt;
            let printed = tracing_subscriber::fmt::layer().with_writer(std::io::stdout).with_ansi(false);
            let log = tracing_subscriber::registry().with(PanicsOnce::default()).with(printed);
            tracing::subscriber::set_global_default(log).expect("the only one");
        }
        _ => {}
    }
    let ended = match threads {
        Some(count) => {
            let server = Server::<Picky>::new(Threads::Left(count.parse().expect("a number")));
            server.listen(address).map_err(ServerError::from).and_then(Server::run)
        }
        None => Server::<Probe>::new(Setup::default())
            .listen(address)
            .map_err(ServerError::from)
            .and_then(Server::run),
    };
    match ended {
        Ok(()) => println!("good bye"),
        Err(error) => println!("refused: {}", one_line(&format!("{error:?}"))),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// A layer that panics at the first fork of a worker.
#[derive(Default)]
struct PanicsOnce(std::sync::atomic::AtomicBool);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for PanicsOnce {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let is_fork = event.metadata().fields().field("pid").is_some();
        if is_fork && !self.0.swap(true, std::sync::atomic::Ordering::Relaxed) {
            panic!("told to panic");
        }
    }
}
