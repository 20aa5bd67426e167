//! Pools and servers where something is refused: a system call, a file, their own program, or an output; and what needs a
//! crate that no other test needs: forks by user code.
//!
//! What is refused to a process is refused to all that it starts. So this program has a `main` of its own, which is an
//! application or a server to which something is refused, or runs the tests.
#[path = "../harness/mod.rs"]
mod harness;

mod amoeba;
mod copies;
mod outputs;
mod paused;
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
        None => run_tests(&[
            refusals::TESTS,
            programs::TESTS,
            preloads::TESTS,
            outputs::TESTS,
            paused::TESTS,
            copies::TESTS,
        ]),
    }
}
