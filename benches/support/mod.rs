//! What every benchmark stands on: one fresh process per placement, peers to compare with, medians and a table.
//!
//! A benchmark is this program executed several times: once by cargo, once more for each placement, so that
//! nothing of one placement's affinity is left in the next, and in a part for every peer that is a process of its
//! own. Nothing here asserts; what the machine cannot offer is skipped by name.
#![allow(dead_code, unused_imports, reason = "every benchmark uses its part of the support")]

mod arbiters;
mod callee;
mod calls;
mod contest;
mod floor;
mod foreign;
#[cfg(feature = "iceoryx2")]
mod iceoryx;
mod laden;
mod peers;
mod placement;
mod report;
mod threads;
mod worker;

use std::future::Future;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use actix::System;

pub use arbiters::Arbiters;
pub use callee::{Callee, Job};
pub use calls::{all_free, calls, dismiss, first_reply, hold, open, place_server, placed_pool, surge};
pub use contest::{Contest, finish, in_flight};
pub use floor::Spinner;
pub use foreign::{IpcChannel, Procspawn, Script};
#[cfg(feature = "iceoryx2")]
pub use iceoryx::{Iceoryx, Waiting};
pub use laden::{Laden, Load, Unload};
pub use peers::{BareForkServer, Echoer, ForkServer, Hog, Piper, Sleeper, first_byte_of_a_command};
pub use placement::{Placement, Setting, cpu_time, own_cpu_time, pin, process_id};
pub use report::{Report, Series, quantile_of};
pub use threads::{ThreadPool, WebBlock};
pub use worker::{
    AbortProcess, Apprentice, Echo, Leave, Log, Panic, Sleep, Thread, Whereabouts, Work, announces_sleep,
    echo, echo_of, pin_workers, steps_of, sync_peers,
};

/// The placement an execution is to measure, as an argument.
const PLACEMENT: &str = "--placement=";

/// How lines begin that stand behind all tables.
const LAST: [&str; 3] = ["ratio ", "point ", "skipped "];

/// Asks for a run of a few seconds whose figures say little.
const QUICK: &str = "--quick";

/// The same, from the environment.
const QUICK_VARIABLE: &str = "FORKPOOL_BENCH_QUICK";

/// What cargo passes to a benchmark, and not to a test.
const BENCH: &str = "--bench";

/// Runs one benchmark in these placements and prints its tables, then its ratios.
pub fn run<F: Future<Output = Report> + 'static>(
    name: &str,
    placements: &[Placement],
    measure: impl Fn(Setting) -> F,
) {
    // Ends here in a process of its pool.
    procspawn::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(part) = arguments.first().and_then(|first| first.strip_prefix(peers::PART)) {
        return peers::play(part);
    }
    let quick = is_quick(&arguments);
    if let Some(placement) =
        arguments.first().and_then(|first| Placement::parse(first.strip_prefix(PLACEMENT)?))
    {
        let setting = Setting::enter(placement, quick);
        // In a task of its own, as the handlers of an application are: the future given to `block_on` is polled
        // only after another look at the reactor, which would add a system call to every answer.
        let measured = System::new().block_on(async { actix_rt::spawn(measure(setting)).await });
        return measured.expect("the measurement ends").print();
    }
    let mut last_lines = Vec::new();
    for &placement in placements {
        match placement.obstacle() {
            None => last_lines.extend(measure_apart(name, placement, quick)),
            Some(reason) => last_lines.push(format!("skipped {name}@{placement} {reason}")),
        }
    }
    last_lines.iter().for_each(|line| println!("{line}"));
}

fn is_quick(arguments: &[String]) -> bool {
    let is = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    let child = arguments.first().is_some_and(|first| first.starts_with(PLACEMENT));
    // `cargo test --all-targets` runs benchmarks too, to see that they run at all.
    is(QUICK) || std::env::var_os(QUICK_VARIABLE).is_some() || !(child || is(BENCH))
}

/// Measures one placement in a process of its own; shows its table and returns its ratios.
fn measure_apart(name: &str, placement: Placement, quick: bool) -> Vec<String> {
    let mut command = Command::new(this_program());
    command.arg(format!("{PLACEMENT}{placement}")).args(quick.then_some(QUICK));
    // What is measured must not depend on what the shell of the one who measures asks for.
    command.env_remove("RUST_BACKTRACE");
    let output = command.stderr(Stdio::inherit()).output().expect("this program can be executed again");
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut last, table): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| LAST.iter().any(|word| line.starts_with(word)));
    println!("{name} @{placement}: {}\n{}\n", placement.meaning(), table.join("\n"));
    let failed = format!("skipped {name}@{placement} it ended with {}", output.status);
    if !output.status.success() {
        last.push(&failed);
    }
    last.into_iter().map(str::to_owned).collect()
}

/// This program, to be executed again.
fn this_program() -> std::path::PathBuf {
    std::env::current_exe().expect("this program has a path")
}

/// Seconds for each of so many operations, one after the other.
pub fn repeat(count: usize, mut operation: impl FnMut()) -> f64 {
    let began = Instant::now();
    (0..count).for_each(|_| operation());
    each(count, began)
}

/// How long one of so many operations takes, in seconds.
pub fn each(count: usize, began: Instant) -> f64 {
    began.elapsed().as_secs_f64() / count as f64
}

/// Waits until the condition holds, outside of what is measured.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < patience, "still waiting until {what}");
        actix_rt::time::sleep(Duration::from_millis(1)).await;
    }
}
