//! The pool's decisions under thousands of invented lives: a scheduler with a seed plays fork server, workers,
//! requesters and time, and lets go wrong what can. What the ledger decides is checked after every step.
//!
//! The world is told of things as supervisor, proxies, desk and sessions are: late, and reordered between workers
//! but not for one. The same seed is the same life, to the last step.

mod checks;
mod plan;
mod server;
mod session;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::testing::seeded_rng::{SeededRng, seeds};
use plan::Plan;
use world::World;

/// Seeds of an ordinary run.
const USUAL: std::ops::Range<u64> = 0..10_000;

/// One life, from the pool's opening to its end.
fn live(seed: u64, world: &mut Option<World>, lines: Option<Vec<String>>) {
    let world = world.insert(World::new(seed, lines));
    world.run();
}

/// Lives a seed's life again to write it down, and says how others can.
fn explain(seed: u64) -> String {
    let mut world = None;
    let again = catch_unwind(AssertUnwindSafe(|| live(seed, &mut world, Some(Vec::new()))));
    let lines = world.and_then(|world| world.journal.lines).unwrap_or_default();
    let end = if again.is_err() {
        "fails here"
    } else {
        "does not fail again, so something besides the seed counts"
    };
    let log = lines.join("\n");
    format!("seed {seed} {end}:\n{log}\n\nto rerun it: FORKPOOL_SEED={seed} cargo test --lib simulation\n")
}

/// P2, P3, P4, P5, P6, P7, P12
#[test]
fn whatever_goes_wrong_the_pool_keeps_its_promises() {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut events, mut worker_states) = (0, 0);
    for seed in seeds(USUAL) {
        let mut world = None;
        if let Err(problem) = catch_unwind(AssertUnwindSafe(|| live(seed, &mut world, None))) {
            eprintln!("{}", explain(seed));
            std::panic::resume_unwind(problem);
        }
        let Some(world) = world else { continue };
        (events, worker_states) = (events + world.events, worker_states + 1);
        for (what, count) in world.journal.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{worker_states} lives, {events} events: {counts:#?}");
}

#[test]
fn the_same_seed_is_the_same_life_to_the_last_step() {
    for seed in 0..200 {
        let written = || {
            let mut world = None;
            live(seed, &mut world, Some(Vec::new()));
            world.and_then(|world| world.journal.lines)
        };
        assert_eq!(written(), written(), "seed {seed}");
    }
}

/// P2: a worker that becomes ready says nothing of one that was asked for after it, and ended early.
#[test]
fn workers_that_do_not_last_are_not_forked_over_and_over() {
    type Spoil = fn(&mut Plan);
    let table: [(&str, Spoil); 4] = [
        ("set-ups fail", |plan| plan.setup_fails = 1000),
        ("workers die in their set-up", |plan| plan.setup_dies = 1000),
        ("workers die as soon as they are ready", |plan| plan.doomed = 1000),
        ("half of the set-ups fail", |plan| plan.setup_fails = 500),
    ];
    for (row, spoil) in table {
        for seed in 0..100 {
            let mut chance = SeededRng::new(seed);
            let mut plan = Plan::quiet(&mut chance);
            spoil(&mut plan);
            let (first, most) = (plan.options.restart.first, *plan.options.workers.end() as f64);
            let mut world = World::with(plan, chance, None);
            world.run_until_calm();
            let forks = world.journal.counts.get("to be forked").copied().unwrap_or_default() as f64;
            let waits = world.ran.as_secs_f64() / first.as_secs_f64();
            let ran = world.ran;
            assert!(forks <= most * (waits + 1.0), "{row}, seed {seed}: {forks} forks of {most} in {ran:?}");
        }
    }
}
