//! What a seed determines before the simulation starts: the options of the pool, and the rates of faults.

use std::time::Duration;

use crate::config::{Backoff, MessageLimit, OnCancel, Options};
use crate::testing::seeded_rng::SeededRng;

/// The options of the simulated pool, the rates of faults (in a thousand), and the longest durations.
pub(super) struct Plan {
    pub(super) options: Options,
    /// Set-ups that return an error.
    pub(super) setup_fails: usize,
    /// Set-ups that exit.
    pub(super) setup_dies: usize,
    /// Set-ups that hang.
    pub(super) setup_hangs: usize,
    /// Workers that crash at a random time, whatever their state.
    pub(super) crashes: usize,
    /// The longest time from the end of its set-up to the crash of such a worker.
    pub(super) crash_within: Duration,
    /// Fork requests that fail.
    pub(super) not_forked: usize,
    /// Servers whose preload fails.
    pub(super) server_fails: usize,
    /// Calls, releases and checkouts that do not go well: those of which an eighth, a sixteenth or less hang, panic,
    /// break the protocol, end their worker or are aborted.
    pub(super) mishaps: usize,
    /// Calls whose requesters give them up.
    pub(super) impatient: usize,
    /// Calls whose handlers return an error.
    pub(super) errors: usize,
    /// The longest time that a message, a fork or a reaping takes.
    pub(super) delay: Duration,
    /// The longest time that a set-up takes.
    pub(super) setup: Duration,
    /// The longest time that a call runs, and that a requester waits before its next call.
    pub(super) hold: Duration,
    pub(super) requesters: usize,
    /// Lanes, each with requesters of single calls.
    pub(super) lanes: usize,
    /// How often single calls are sent to each lane.
    pub(super) bursts: usize,
    /// The longest time that a message takes between a lane and its workers.
    pub(super) hop: Duration,
    /// Whether calls that are written can be taken back.
    pub(super) has_gates: bool,
    /// When faults stop.
    pub(super) calm_at: Duration,
    pub(super) server_losses: usize,
    /// Servers that stop taking work, most of them because another server replaces them.
    pub(super) drains: usize,
    /// Changes of how many workers a bulkhead permits.
    pub(super) resizes: usize,
    /// Forward jumps of the clock.
    pub(super) jumps: usize,
    /// Times at which workers are recycled.
    pub(super) recyclings: usize,
    /// Workers that are killed by their numbers.
    pub(super) kills: usize,
    pub(super) pauses: usize,
    /// When the pool is closed or stopped before the faults stop, if it is.
    pub(super) ends_at: Option<Duration>,
    /// Whether the pool ends by `close` or by `stop`.
    pub(super) closes: bool,
    pub(super) drain: Duration,
}

/// Rates of faults, in a thousand.
const RATES: [usize; 6] = [0, 0, 20, 100, 400, 1000];

/// Time limits of calls, waits and holders, in milliseconds.
pub(super) const LIMITS: [Option<u64>; 7] = [None, None, Some(0), Some(3), Some(50), Some(700), Some(30_000)];

impl Plan {
    pub(super) fn of(rng: &mut SeededRng) -> Self {
        let calm_at = millis(rng.pick(&[200, 2_000, 20_000, 120_000]));
        let ends = rng.happens(500);
        Plan {
            options: options(rng),
            setup_fails: rng.pick(&RATES),
            setup_dies: rng.pick(&RATES),
            setup_hangs: rng.pick(&[0, 0, 0, 50, 300]),
            crashes: rng.pick(&RATES),
            crash_within: millis(rng.pick(&[1, 30, 900, 5_000, 60_000])),
            not_forked: rng.pick(&[0, 0, 0, 50, 500]),
            server_fails: rng.pick(&[0, 0, 200, 900]),
            mishaps: rng.pick(&RATES),
            impatient: rng.pick(&RATES),
            errors: rng.pick(&RATES),
            delay: millis(rng.pick(&[0, 1, 10, 300])),
            setup: millis(rng.pick(&[0, 5, 100, 2_000])),
            hold: millis(rng.pick(&[0, 10, 200, 5_000])),
            requesters: rng.below(40),
            lanes: 0,
            bursts: 0,
            hop: Duration::ZERO,
            has_gates: true,
            calm_at,
            server_losses: rng.pick(&[0, 0, 1, 4]),
            drains: rng.pick(&[0, 0, 1, 4]),
            resizes: rng.pick(&[0, 0, 1, 4]),
            jumps: rng.pick(&[0, 0, 1, 3]),
            recyclings: rng.pick(&[0, 0, 1, 4]),
            kills: rng.pick(&[0, 0, 1, 6]),
            pauses: rng.pick(&[0, 0, 1, 3]),
            ends_at: ends.then(|| calm_at.mul_f64(rng.below(100) as f64 / 100.0)),
            closes: rng.happens(500),
            drain: millis(rng.pick(&[0, 50, 3_000])),
        }
        .with_lanes(rng)
    }

    /// Adds lanes to a quarter of the plans.
    fn with_lanes(self, rng: &mut SeededRng) -> Self {
        let lanes = rng.pick(&[0, 0, 0, 0, 0, 0, 1, 3]);
        if lanes == 0 {
            return self;
        }
        let options = Options {
            wait_timeout: rng.pick(&[None, None, None, Some(3), Some(700)]).map(millis),
            timeout: rng.pick(&[None, Some(50), Some(30_000)]).map(millis),
            on_cancel: rng.pick(&[OnCancel::Finish, OnCancel::Kill]),
            ..self.options
        };
        Plan {
            options,
            requesters: self.requesters / rng.pick(&[1, 2, 40]),
            lanes,
            bursts: 1 + rng.below(8),
            hop: rng.pick(&[Duration::ZERO, micros(10), micros(60), self.delay]),
            has_gates: rng.happens(850),
            ..self
        }
    }
}

impl Plan {
    /// Returns a plan without requesters and faults.
    pub(super) fn quiet(rng: &mut SeededRng) -> Self {
        let drawn = Plan::of(rng);
        let most = 1 + rng.below(6);
        Plan {
            options: Options {
                workers: 1 + rng.below(most)..=most,
                restart: Backoff { jitter: 0.0, ..Backoff::default() },
                ..Options::named("quiet")
            },
            setup_fails: 0,
            setup_dies: 0,
            setup_hangs: 0,
            crashes: 0,
            crash_within: millis(2),
            not_forked: 0,
            server_fails: 0,
            mishaps: 0,
            impatient: 0,
            errors: 0,
            delay: millis(1),
            setup: millis(5),
            requesters: 0,
            lanes: 0,
            calm_at: millis(20_000),
            server_losses: 0,
            drains: 0,
            resizes: 0,
            jumps: 0,
            recyclings: 0,
            kills: 0,
            pauses: 0,
            ends_at: None,
            ..drawn
        }
    }
}

fn options(rng: &mut SeededRng) -> Options {
    let most = 1 + rng.below(6);
    let first = millis(rng.pick(&[1, 20, 100, 700]));
    let durations: [Option<u64>; 4] = [None, Some(5), Some(400), Some(60_000)];
    Options {
        workers: rng.below(most + 1)..=most,
        spare_workers: rng.pick(&[0, 0, 1, 3]),
        message_limits: (0..rng.pick(&[0, 0, 1, 2, 3])).map(|method| limit(rng, method, most)).collect(),
        max_waiting: rng.pick(&[None, Some(1), Some(3), Some(20)]),
        idle_timeout: rng.pick(&durations).map(millis),
        max_lifetime: rng.pick(&[None, None, Some(30), Some(3_000), Some(60_000)]).map(millis),
        max_checkouts: rng.pick(&[None, None, Some(1), Some(3)]),
        max_memory: rng.pick(&[None, Some(1 << 20)]),
        setup_timeout: rng.pick(&[None, Some(50), Some(1_000)]).map(millis),
        restart: Backoff { first, most: first * rng.pick(&[1, 8, 50]), jitter: rng.pick(&[0.0, 0.2, 1.0]) },
        ..Options::named("simulated")
    }
}

fn limit(rng: &mut SeededRng, method: u32, most: usize) -> MessageLimit {
    MessageLimit { method, name: "simulated", most: 1 + rng.below(most) }
}

pub(super) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) const fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}
