//! The sweep: every kernel call that a pool makes fails once, in each process, with each error that may pass.
//!
//! It needs a build in which calls can be made to fail; docs/RELIABILITY.md says how to run it. This program has a
//! `main` of its own, because it is the sweep, one scenario of it, or a server of such a scenario.
#[path = "../harness/mod.rs"]
mod harness;

mod errors;
mod run;
mod scenarios;
mod sweep;

fn main() {
    if !cfg!(forkpool_faults) {
        println!("skipped: built without --cfg forkpool_faults, see .ci/run");
        return;
    }
    if harness::role().is_some() {
        return scenarios::serve();
    }
    match std::env::var(scenarios::SCENARIO) {
        Ok(name) => scenarios::play(&name),
        Err(_) => {
            for (name, test) in sweep::TESTS {
                println!("test {name} ...");
                test();
                println!("test {name} ... ok");
            }
        }
    }
}

/// Tests and their names.
type Tests = &'static [(&'static str, fn())];

/// Names the tests of a file.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub const TESTS: crate::Tests = &[$((stringify!($test), $test)),+];
    };
}
use tests;
