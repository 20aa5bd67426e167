//! Which runs there are, which of them are played, and how they went.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::errors;
use crate::run::{Outcome, Point, Run, count};
use crate::scenarios;
use crate::tests;

tests! {
    each_kernel_call_that_fails_once_loses_nothing,
}

/// The variable that says which runs are played: a number of them, `all`, or those whose names begin with it.
const SWEEP: &str = "FORKPOOL_SWEEP";

/// Runs that are played by default, chosen evenly from all.
const DEFAULT_RUNS: usize = 500;

/// Runs at a time.
const THREADS: usize = 2;

/// How often each scenario is played to find its calls, whose number differs a little from time to time.
const COUNTS: usize = 2;

/// Calls of one kind in one process that are swept. Those that come later repeat what the earlier ones do.
const MOST_OF_A_KIND: u32 = 40;

const TRANSPORTS: [&str; 2] = ["rings", "socket"];

/// G2: every call is answered, the pool comes back, its end ends, and nothing is left.
fn each_kernel_call_that_fails_once_loses_nothing() {
    let all = all_runs();
    let points: BTreeSet<String> =
        all.iter().map(|run| run.to_string().rsplit_once(':').expect("an error").0.to_owned()).collect();
    let total = all.len();
    let wanted = std::env::var(SWEEP).unwrap_or_else(|_| DEFAULT_RUNS.to_string());
    let chosen = choose(all, &wanted);
    let is_single = chosen.len() == 1;
    assert!(!chosen.is_empty(), "{SWEEP}={wanted} names no run");
    println!("{} points, {total} runs, of which {} are played", points.len(), chosen.len());
    let outcomes = play(&chosen);
    let mut failed = 0;
    for (run, outcome) in chosen.iter().zip(&outcomes) {
        if let Some(broken) = &outcome.broken {
            failed += 1;
            println!("FAILED {run}: {broken}");
            println!(
                "  to repeat it: {SWEEP}={run} RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/with-faults cargo test --test faults"
            );
        }
        if outcome.broken.is_some() || is_single {
            outcome.output.lines().for_each(|line| println!("  | {line}"));
        }
    }
    let missed = outcomes.iter().filter(|outcome| !outcome.fired).count();
    let costly = outcomes.iter().filter(|outcome| outcome.output.contains("failed: ")).count();
    println!(
        "{} runs: {failed} failed, in {missed} the call was not made, in {costly} a call of the pool failed and said why",
        chosen.len()
    );
    assert!(failed == 0, "{failed} runs failed");
}

/// Every call of every scenario with every error.
fn all_runs() -> Vec<Run> {
    let mut all = Vec::new();
    for &scenario in scenarios::NAMES {
        for transport in TRANSPORTS {
            let points: BTreeSet<Point> = (0..COUNTS).flat_map(|_| count(scenario, transport)).collect();
            for point in points.into_iter().filter(|point| point.number <= MOST_OF_A_KIND) {
                let errors = errors::of(&point.role, &point.call);
                all.extend(errors.into_iter().map(|error| Run {
                    scenario,
                    transport,
                    point: point.clone(),
                    error,
                }));
            }
        }
    }
    all
}

/// Chooses runs as the variable says.
fn choose(all: Vec<Run>, wanted: &str) -> Vec<Run> {
    if wanted == "all" {
        return all;
    }
    if let Ok(number) = wanted.parse::<usize>() {
        let total = all.len();
        let number = number.min(total);
        return (0..number).map(|at| all[at * total / number].clone()).collect();
    }
    all.into_iter().filter(|run| run.to_string().starts_with(wanted)).collect()
}

/// Plays the runs, some at a time; returns what came of them in their order.
fn play(runs: &[Run]) -> Vec<Outcome> {
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(run) = runs.get(at) else { return };
                    let outcome = run.play();
                    outcomes.lock().expect("no panic").push((at, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no panic");
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
