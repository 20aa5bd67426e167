//! What one seed decides before anything happens: the options of the pool, and how much goes wrong.

use std::time::Duration;

use crate::config::{Backoff, Options};
use crate::testing::seeded_rng::SeededRng;

/// How often things go wrong, in a thousand, and how long they take.
pub(super) struct Plan {
    pub(super) options: Options,
    pub(super) setup_fails: usize,
    pub(super) setup_dies: usize,
    pub(super) setup_hangs: usize,
    /// Workers that die at some time whatever they are doing.
    pub(super) doomed: usize,
    /// How long a doomed worker lives at most.
    pub(super) lifetime: Duration,
    pub(super) not_forked: usize,
    /// Servers that end before they are up.
    pub(super) server_fails: usize,
    /// Requesters whose checkout ends in another way than by a release.
    pub(super) mishaps: usize,
    /// Requesters that give up waiting.
    pub(super) impatient: usize,
    /// The longest a message, a fork or a reaping takes.
    pub(super) delay: Duration,
    /// The longest a set-up takes.
    pub(super) setup: Duration,
    /// The longest a requester holds a worker.
    pub(super) hold: Duration,
    pub(super) requesters: usize,
    /// When faults cease.
    pub(super) calm_at: Duration,
    pub(super) server_losses: usize,
    /// Servers that take no more work, most of them since another does.
    pub(super) drains: usize,
    pub(super) jumps: usize,
    /// When the pool is told to end in the middle of all this, if it is.
    pub(super) ends_at: Option<Duration>,
    pub(super) closes: bool,
    pub(super) drain: Duration,
}

const RATES: [usize; 6] = [0, 0, 20, 100, 400, 1000];

impl Plan {
    pub(super) fn of(chance: &mut SeededRng) -> Self {
        let calm_at = millis(chance.pick(&[200, 2_000, 20_000, 120_000]));
        let ends = chance.happens(500);
        Plan {
            options: options(chance),
            setup_fails: chance.pick(&RATES),
            setup_dies: chance.pick(&RATES),
            setup_hangs: chance.pick(&[0, 0, 0, 50, 300]),
            doomed: chance.pick(&RATES),
            lifetime: millis(chance.pick(&[1, 30, 900, 5_000, 60_000])),
            not_forked: chance.pick(&[0, 0, 0, 50, 500]),
            server_fails: chance.pick(&[0, 0, 200, 900]),
            mishaps: chance.pick(&RATES),
            impatient: chance.pick(&RATES),
            delay: millis(chance.pick(&[0, 1, 10, 300])),
            setup: millis(chance.pick(&[0, 5, 100, 2_000])),
            hold: millis(chance.pick(&[0, 10, 200, 5_000])),
            requesters: chance.below(40),
            calm_at,
            server_losses: chance.pick(&[0, 0, 1, 4]),
            drains: chance.pick(&[0, 0, 1, 4]),
            jumps: chance.pick(&[0, 0, 1, 3]),
            ends_at: ends.then(|| calm_at.mul_f64(chance.below(100) as f64 / 100.0)),
            closes: chance.happens(500),
            drain: millis(chance.pick(&[0, 50, 3_000])),
        }
    }
}

impl Plan {
    /// A plan in which nobody asks for anything and nothing goes wrong.
    pub(super) fn quiet(chance: &mut SeededRng) -> Self {
        let drawn = Plan::of(chance);
        let most = 1 + chance.below(6);
        Plan {
            options: Options {
                workers: 1 + chance.below(most)..=most,
                restart: Backoff { jitter: 0.0, ..Backoff::default() },
                ..Options::named("quiet")
            },
            setup_fails: 0,
            setup_dies: 0,
            setup_hangs: 0,
            doomed: 0,
            lifetime: millis(2),
            not_forked: 0,
            server_fails: 0,
            mishaps: 0,
            impatient: 0,
            delay: millis(1),
            setup: millis(5),
            requesters: 0,
            calm_at: millis(20_000),
            server_losses: 0,
            drains: 0,
            jumps: 0,
            ends_at: None,
            ..drawn
        }
    }
}

fn options(chance: &mut SeededRng) -> Options {
    let most = 1 + chance.below(6);
    let first = millis(chance.pick(&[1, 20, 100, 700]));
    let durations: [Option<u64>; 4] = [None, Some(5), Some(400), Some(60_000)];
    Options {
        workers: chance.below(most + 1)..=most,
        spare_workers: chance.pick(&[0, 0, 1, 3]),
        max_waiting: chance.pick(&[None, Some(1), Some(3), Some(20)]),
        idle_timeout: chance.pick(&durations).map(millis),
        max_age: chance.pick(&[None, None, Some(30), Some(3_000), Some(60_000)]).map(millis),
        max_checkouts: chance.pick(&[None, None, Some(1), Some(3)]),
        max_memory: chance.pick(&[None, Some(1 << 20)]),
        setup_timeout: chance.pick(&[None, Some(50), Some(1_000)]).map(millis),
        restart: Backoff {
            first,
            most: first * chance.pick(&[1, 8, 50]),
            jitter: chance.pick(&[0.0, 0.2, 1.0]),
        },
        ..Options::named("simulated")
    }
}

pub(super) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
