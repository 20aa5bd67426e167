//! Servers that are programs of their own, and the applications that come to them.
//!
//! A server is alone in its process, where a test is beside the thread that waits for it; so this program has a `main` of
//! its own, which is a server, an application, or runs the tests.
#[path = "../harness/mod.rs"]
mod harness;

mod actions;
mod clerks;
mod defiance;
mod faults;
mod handover;
mod hostile;
mod interfaces;
mod lending;
mod lives;
mod namespaces;
mod network;
mod parked;
mod paths;
mod raw_client;
mod relay;
mod restarts;
mod roles;
mod services;
mod silence;
mod stop_signals;
mod strangers;
mod stuck;
#[cfg(feature = "tls")]
mod tls;
mod upgrades;

use std::path::PathBuf;

use forkpool::PoolBuilder;
use forkpool::prelude::*;
use harness::*;

/// The address of one test's servers, which are children of that test's process; whatever they leave there is removed at
/// the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        Place(Place::of(std::process::id()))
    }

    fn of(test: u32) -> PathBuf {
        std::env::temp_dir().join(format!("forkpool-apart-{test}.sock"))
    }

    fn address(&self) -> String {
        format!("unix:{}", self.0.display())
    }

    /// A pool of one worker from here.
    fn pool(&self) -> PoolBuilder<Probe> {
        Pool::<Probe>::connect(self.address()).workers(1..=1).transport(transport())
    }

    /// The same, started.
    fn start(&self) -> PoolHandle<Probe> {
        self.pool().start().expect("the pool starts")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("sock.lock"));
    }
}

/// The process of the worker that answers.
async fn served_by(pool: &PoolHandle<Probe>) -> u32 {
    answer(pool.send(Pid)).await.expect("a worker")
}

/// A server at this test's place, with what [`roles::server`] knows of options.
fn server(options: &str) -> Application {
    Application::start("an_application", &format!("server {options}"))
}

/// The same once somebody can come.
fn serving(options: &str) -> Application {
    let mut server = server(options);
    server.says("serves");
    server
}

fn main() {
    // A process in a namespace of its own does not know the test's number, so it may be told.
    let test = |role: &str| role.split_whitespace().find_map(|word| word.strip_prefix("test=")?.parse().ok());
    let place = role().as_deref().and_then(test).unwrap_or_else(std::os::unix::process::parent_id);
    let place = Place::of(place);
    match role() {
        Some(role) => roles::play(&role, &format!("unix:{}", place.display())),
        None => run_tests(&tests()),
    }
}

fn tests() -> Vec<Tests> {
    vec![
        lives::TESTS,
        parked::TESTS,
        restarts::TESTS,
        handover::TESTS,
        interfaces::TESTS,
        faults::TESTS,
        strangers::TESTS,
        lending::TESTS,
        hostile::TESTS,
        paths::TESTS,
        namespaces::TESTS,
        services::TESTS,
        stop_signals::TESTS,
        upgrades::TESTS,
        stuck::TESTS,
        defiance::TESTS,
        network::TESTS,
        silence::TESTS,
        actions::TESTS,
        #[cfg(feature = "tls")]
        tls::TESTS,
    ]
}
