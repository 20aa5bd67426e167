//! A worker that divides: user code forks, and its copy of the process returns into the library.

use std::path::PathBuf;
use std::time::Duration;

use actix::prelude::*;
use fork::Fork;
use forkpool::prelude::*;
use rustix::process::{Pid as ProcessId, WaitOptions};
use serde::{Deserialize, Serialize};

/// Where else than in its handlers it divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Division {
    Nowhere,
    Preload,
    SetUp,
    CheckoutDone,
}

impl Division {
    /// Divides if this is the place.
    fn at(self, place: Division) {
        if self == place {
            divide();
        }
    }
}

/// Returns the pid of the copy in the original, and `None` in the copy.
fn divide() -> Option<ProcessId> {
    match fork::fork().expect("a fork") {
        Fork::Child => None,
        Fork::Parent(copy) => ProcessId::from_raw(copy),
    }
}

/// Waits until a child has ended.
fn wait_for(copy: ProcessId) {
    rustix::process::waitpid(Some(copy), WaitOptions::empty()).expect("it is a child");
}

/// The worker.
pub struct Amoeba(Division);

impl Actor for Amoeba {
    type Context = WorkerContext<Self>;
}

impl Worker for Amoeba {
    type Config = Division;

    fn preload(division: &Division, _: &mut Preload) -> Result<(), SetupError> {
        division.at(Division::Preload);
        Ok(())
    }

    fn setup(division: Division, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        division.at(Division::SetUp);
        Ok(Amoeba(division))
    }

    fn checkout_done(&mut self, _: &mut WorkerContext<Self>) {
        self.0.at(Division::CheckoutDone);
    }
}

/// What an amoeba does; answers its pid.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub enum Act {
    Nothing,
    /// It divides, and the copy returns, panics or fails before the original answers.
    Divides,
    CopyPanics,
    CopyFails,
    /// Prints half a line before it divides, and the rest in the original once the copy has returned.
    PrintsHalf,
    /// Hangs once the copy has returned.
    Hangs,
    /// The copy logs, and ends by itself; then the original logs and ends with this status.
    Logs(i32),
    /// The copy makes this file and stays for a minute, with all that the original has open.
    CopyStays(PathBuf),
}

impl Handler<Act> for Amoeba {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, act: Act, ctx: &mut WorkerContext<Self>) -> Self::Result {
        if let Act::Nothing = act {
            return Ok(std::process::id());
        }
        if let Act::PrintsHalf = act {
            print!("one half");
        }
        let Some(copy) = divide() else { return act.in_the_copy(ctx) };
        if let Act::CopyStays(path) = &act {
            while !path.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
        } else {
            wait_for(copy);
        }
        match act {
            Act::PrintsHalf => println!(" and the other"),
            Act::Hangs => loop {
                std::hint::spin_loop();
            },
            Act::Logs(status) => {
                tracing::info!("of the original");
                std::process::exit(status);
            }
            Act::Nothing | Act::Divides | Act::CopyPanics | Act::CopyFails | Act::CopyStays(_) => {}
        }
        Ok(std::process::id())
    }
}

impl Act {
    fn in_the_copy(self, ctx: &mut WorkerContext<Amoeba>) -> Result<u32, Failure> {
        match self {
            Act::CopyPanics => panic!("told to panic"),
            Act::CopyFails => return Err(Failure::task("of the copy")),
            Act::Logs(_) => {
                tracing::info!("of the copy");
                assert!(ctx.blob(1 << 20).is_err(), "that would be of the original's memory");
                std::process::exit(0);
            }
            Act::CopyStays(path) => {
                std::fs::write(path, std::process::id().to_string()).expect("a file");
                std::thread::sleep(Duration::from_secs(60));
            }
            Act::Nothing | Act::Divides | Act::PrintsHalf | Act::Hangs => {}
        }
        Ok(std::process::id())
    }
}

forkpool::interface!(Amoeba { Act });
forkpool::boot!(Amoeba);
