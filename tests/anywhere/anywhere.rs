//! Pools and servers where something is refused: a system call, a file, their own program, or an output.
//!
//! What is refused to a process is refused to all that it starts. So this program has a `main` of its own, which is an
//! application or a server to which something is refused, or runs the tests.
#[path = "../harness/mod.rs"]
mod harness;

mod outputs;
mod picky;
mod preloads;
mod programs;
mod refusals;
mod roles;

use std::path::PathBuf;

use harness::*;

/// The address of one test's servers.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        Place(Place::of(std::process::id()))
    }

    fn of(test: u32) -> PathBuf {
        std::env::temp_dir().join(format!("forkpool-anywhere-{test}.sock"))
    }

    fn address(&self) -> String {
        format!("unix:{}", self.0.display())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("sock.lock"));
    }
}

/// This program as an application or a server, with what [`roles`] knows of options.
fn application(role: &str) -> Application {
    Application::start("an_application", role)
}

fn main() {
    let place = Place::of(std::os::unix::process::parent_id());
    match role() {
        Some(role) => roles::play(&role, &format!("unix:{}", place.display())),
        None => run_tests(),
    }
}

/// Tests and their names.
type Tests = &'static [(&'static str, fn())];

/// Runs the tests whose names contain the first argument that is no option, or all.
fn run_tests() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let all = [refusals::TESTS, programs::TESTS, preloads::TESTS, outputs::TESTS].concat();
    let chosen: Vec<_> = all.into_iter().filter(|(name, _)| name.contains(&filter)).collect();
    for (name, test) in &chosen {
        println!("test {name} ...");
        // A panic ends this program, and tells why.
        test();
        println!("test {name} ... ok");
    }
    println!("{} passed, 0 failed", chosen.len());
}

/// Names the tests of a file.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub const TESTS: crate::Tests = &[$((stringify!($test), $test)),+];
    };
}
use tests;
