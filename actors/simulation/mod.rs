//! Seeded simulations of the pool state, of the machines of sessions and of the state of lanes: an event loop with a seeded random number
//! generator plays the supervisor, the fork server, the workers, the requesters and the time, and injects faults. It
//! checks the pool state after every event, and every answer to a call.
//!
//! Messages arrive as in a real pool: delayed, in order for one worker and in any order for different workers. The same
//! seed gives the same run, to the last event.

mod bulkheads;
mod channel;
mod checks;
mod interventions;
mod lane;
mod lane_ends;
mod lane_gate;
mod lane_worker;
mod leases;
mod plan;
mod requests;
mod server;
mod session;
mod singles;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::testing::seeded_rng::{SeededRng, seeds};
use plan::Plan;
use world::World;

/// The seeds that a test run uses by default.
const DEFAULT_SEEDS: std::ops::Range<u64> = 0..4_000;

/// Simulates one pool from its start to its end.
fn simulate(seed: u64, world: &mut Option<World>, lines: Option<Vec<String>>) {
    let world = world.insert(World::new(seed, lines));
    world.run();
}

/// Runs a seed again, and returns a log of its events and the command that repeats the run.
fn replay(seed: u64) -> String {
    let mut world = None;
    let again = catch_unwind(AssertUnwindSafe(|| simulate(seed, &mut world, Some(Vec::new()))));
    let lines = world.and_then(|world| world.journal.lines).unwrap_or_default();
    let end = if again.is_err() {
        "fails here"
    } else {
        "does not fail again, so the failure does not depend on the seed alone"
    };
    let log = lines.join("\n");
    format!("seed {seed} {end}:\n{log}\n\nto rerun it: FORKPOOL_SEED={seed} cargo test --lib simulation\n")
}

/// P2, P3, P4, P5, P6, P7, P8, P11, P12, P15, P16, P17, C2, C4, C9, T1, T4, E3, E5
#[test]
fn the_pool_keeps_its_promises_under_all_faults() {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut events, mut runs) = (0, 0);
    for seed in seeds(DEFAULT_SEEDS) {
        let mut world = None;
        if let Err(problem) = catch_unwind(AssertUnwindSafe(|| simulate(seed, &mut world, None))) {
            eprintln!("{}", replay(seed));
            std::panic::resume_unwind(problem);
        }
        let Some(world) = world else { continue };
        (events, runs) = (events + world.events, runs + 1);
        for (what, count) in world.journal.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{runs} runs, {events} events: {counts:#?}");
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_event() {
    for seed in 0..200 {
        let written = || {
            let mut world = None;
            simulate(seed, &mut world, Some(Vec::new()));
            world.and_then(|world| world.journal.lines)
        };
        assert_eq!(written(), written(), "seed {seed}");
    }
}

/// P2: a worker that becomes ready does not reset the delay after the early exit of a worker that was requested later.
#[test]
fn workers_that_exit_early_are_not_forked_without_a_delay() {
    type Spoil = fn(&mut Plan);
    let table: [(&str, Spoil); 4] = [
        ("set-ups fail", |plan| plan.setup_fails = 1000),
        ("workers exit in their set-up", |plan| plan.setup_dies = 1000),
        ("workers exit as soon as they are ready", |plan| plan.crashes = 1000),
        ("half of the set-ups fail", |plan| plan.setup_fails = 500),
    ];
    for (row, spoil) in table {
        for seed in 0..100 {
            let mut rng = SeededRng::new(seed);
            let mut plan = Plan::quiet(&mut rng);
            spoil(&mut plan);
            let (first, most) = (plan.options.restart.first, *plan.options.workers.end() as f64);
            let mut world = World::with(plan, rng, None);
            world.run_until_calm();
            let forks = world.journal.counts.get("fork requested").copied().unwrap_or_default() as f64;
            let waits = world.elapsed.as_secs_f64() / first.as_secs_f64();
            let elapsed = world.elapsed;
            assert!(
                forks <= most * (waits + 1.0),
                "{row}, seed {seed}: {forks} forks of {most} in {elapsed:?}"
            );
        }
    }
}
