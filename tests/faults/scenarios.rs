//! What happens to a pool while one kernel call fails. Each scenario is a process.

use std::time::Duration;

use forkpool::prelude::*;
use forkpool::{PoolBuilder, Server, StartError};
use rustix::process::Signal;

use crate::errors;
use crate::harness::*;

/// The variable that makes this program a scenario, with its name.
pub const SCENARIO: &str = "FORKPOOL_SWEEP_SCENARIO";

/// The names of all scenarios.
pub const NAMES: &[&str] = &["life", "lazy", "kill", "loss", "reconnect"];

/// Attempts of a call after which a pool has not come back. Each has five seconds.
const ATTEMPTS: usize = 4;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Plays a scenario; panics if a promise is broken.
pub fn play(name: &str) {
    run(async {
        match name {
            "life" => life().await,
            "lazy" => lazy().await,
            "kill" => killed().await,
            "loss" => server_loss().await,
            "reconnect" => reconnect().await,
            other => panic!("no scenario {other:?}"),
        }
    });
    println!("done");
}

/// A start, calls, a death, and a stop.
async fn life() {
    let pool = started(|| pool().workers(2..=2).blob_memory(1 << 20)).await;
    works(&pool).await;
    if let Ok(mut blob) = pool.blob(3) {
        std::io::Write::write_all(&mut blob, b"abc").expect("there is room");
        if let Some(mirrored) = explained(pool.send(Mirror(blob.freeze()))).await {
            assert_eq!(*mirrored.bytes(), *b"cba");
        }
    }
    let checkout = pool.checkout().start();
    if explained(checkout.send(Remember(1))).await.is_some()
        && let Some(all) = explained(checkout.send(Remember(2))).await
    {
        assert_eq!(all, [1, 2], "both calls are of one worker");
    }
    drop(checkout);
    let ended = failure(pool.send(Exit(3))).await;
    println!("ended: {ended}");
    works(&pool).await;
    settled(&pool, 2).await;
    stopped(pool).await;
}

/// A pool that asks for its first worker when it is called, so that nothing follows the first message to its server.
async fn lazy() {
    let pool = started(|| pool().workers(0..=1)).await;
    the_server().await;
    works(&pool).await;
    stopped(pool).await;
}

/// A call whose worker has to be killed.
async fn killed() {
    let pool = started(|| pool().workers(1..=1)).await;
    works(&pool).await;
    let spun = failure(pool.send_within(Duration::from_millis(100), Spin)).await;
    println!("spun: {spun}");
    works(&pool).await;
    settled(&pool, 1).await;
    stopped(pool).await;
}

/// The pool's own server ends while a call runs.
async fn server_loss() {
    let pool = started(|| pool().workers(2..=2)).await;
    works(&pool).await;
    settled(&pool, 2).await;
    let slow = pool.send(Slow(Duration::from_millis(100), 7));
    kill(the_server().await);
    if let Some(number) = explained(slow).await {
        assert_eq!(number, 7);
    }
    works(&pool).await;
    settled(&pool, 2).await;
    stopped(pool).await;
}

/// A server that is a program of its own ends, and another one comes.
async fn reconnect() {
    let mut server = serving();
    let pool = started(|| Pool::<Probe>::connect(address()).transport(transport()).workers(2..=2)).await;
    works(&pool).await;
    settled(&pool, 2).await;
    signal(server.pid(), Signal::INT);
    server.ends();
    let mut server = serving();
    works(&pool).await;
    settled(&pool, 2).await;
    stopped(pool).await;
    signal(server.pid(), Signal::TERM);
    server.ends();
}

fn address() -> String {
    format!("unix:{}", std::env::var(ADDRESS).expect("a path"))
}

/// The variable with the path of the scenario's server.
pub const ADDRESS: &str = "FORKPOOL_SWEEP_ADDRESS";

/// Is the server of a scenario.
pub fn serve() {
    let log = tracing_subscriber::fmt().with_writer(std::io::stdout).with_ansi(false).finish();
    tracing::subscriber::set_global_default(log).expect("the only one");
    let server = Server::<Probe>::new(Setup::default()).listen(address()).expect("an address");
    if let Err(error) = server.run() {
        println!("refused: {}", format!("{error:?}").replace('\n', " "));
    }
}

/// A server that serves. The first one may be refused something; it says what.
fn serving() -> Application {
    for _ in 0..2 {
        let mut server = Application::start("a_server", "server");
        match server.says_either("serves", "refused:") {
            None => {
                server.is_not_listened_to();
                return server;
            }
            Some(refusal) => {
                assert!(names_the_fault(&refusal), "the server does not say why it ends: {refusal}");
                server.ends();
            }
        }
    }
    panic!("no server comes");
}

/// Starts a pool. The first attempt may be refused something; it says what.
async fn started(builder: impl Fn() -> PoolBuilder<Probe>) -> PoolHandle<Probe> {
    let start = || builder().timeout(CALL_TIMEOUT).start();
    match start() {
        Ok(pool) => pool,
        Err(error) => {
            let error: StartError = error;
            println!("not started: {error:?}");
            assert!(names_the_fault(&format!("{error:?}")), "the start does not say why it fails: {error:?}");
            start().expect("the next attempt starts")
        }
    }
}

/// Waits for a result; a failure says what failed unless the worker is gone.
async fn explained<T>(call: impl Future<Output = impl Answered<Answer = Result<T, Failure>>>) -> Option<T> {
    match answer(call).await {
        Ok(result) => Some(result),
        Err(failure) => {
            println!("failed: {failure:#}");
            assert!(
                is_lost(&failure) || names_the_fault(&format!("{failure:#}")),
                "the call does not say why it failed"
            );
            None
        }
    }
}

/// Whether the failure is that of a worker that is gone. One that ends during its set-up may end because the connection
/// to it has ended, as the fault says.
fn is_lost(failure: &Failure) -> bool {
    let fault = std::env::var("FORKPOOL_FAULT").unwrap_or_default();
    let ends_connection = [":EPIPE:", ":ECONNRESET:"].iter().any(|error| fault.contains(error));
    match failure.kind() {
        FailureKind::Died | FailureKind::Cleared => true,
        FailureKind::Setup => ends_connection,
        _ => false,
    }
}

/// Calls until a call works. Each one before says why it does not.
async fn works(pool: &PoolHandle<Probe>) {
    for _ in 0..ATTEMPTS {
        if explained(pool.send(Pid)).await.is_some() {
            return;
        }
    }
    panic!("the pool does not come back");
}

async fn stopped(pool: PoolHandle<Probe>) {
    bounded("the stop", pool.stop(Duration::ZERO)).await;
}

/// Whether a text has the call that fails or its error.
fn names_the_fault(text: &str) -> bool {
    let fault = std::env::var("FORKPOOL_FAULT").unwrap_or_default();
    let fields: Vec<&str> = fault.split(':').collect();
    let [_, call, _, error, ..] = fields[..] else { return false };
    text.contains(call) || text.contains(&errors::text(error))
}
