//! The simulated world of one seed: the actual state, the state that the pool state must have, and the pending events.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::channel::{SimLease, SimWork};
use super::lane::Lanes;
use super::leases::SimWaiter;
use super::plan::Plan;
use super::requests::CallRecord;
use super::server::{SimServer, SimSupervisor};
use super::session::{SimSession, SimTurn};
use super::worker::{ExpectedState, SetupOutcome, SimNotice, SimWorker};
use crate::actors::api::recycling::Recycle;
use crate::actors::scheduler::state::{Action, PoolPhase, PoolState, ReleaseReport};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::clock::Instant;
use crate::failure::FailureKind;
use crate::testing::seeded_rng::SeededRng;

/// A scheduled event.
#[derive(Clone, Copy, Debug)]
pub(super) enum SimEvent {
    /// A requester wants a worker.
    Request,
    /// The supervisor receives the request to fork this worker.
    Spawn(u64),
    /// The supervisor receives the request to retire this worker.
    Retire(u64, RetireReason),
    /// The tick that the pool state asked for.
    Tick,
    /// This server handles a fork request.
    Fork {
        worker: u64,
        server: u32,
    },
    /// A worker's set-up ends.
    FinishSetup(u64, SetupOutcome),
    /// A worker's process exits.
    Exit(u64),
    /// The same, unless faults have stopped.
    Crash(u64),
    /// An exited worker is reaped, by its server or by another process if the server is gone.
    Reap {
        worker: u64,
        server: u32,
    },
    /// A worker's proxy receives a message.
    Deliver(u64, SimNotice),
    /// A worker's `setup_timeout` has passed.
    SetupTimeout(u64),
    /// A retired worker has not exited in time.
    ExitTimeout(u64),
    /// Something happens to a session.
    Turn(u64, SimTurn),
    /// Requesters send single calls to this lane.
    Singles(u64),
    /// A single call of another thread arrives at its lane, with the request for a worker that was made for it.
    Arrive {
        lane: u64,
        call: u64,
        waiter: u64,
    },
    LookAtLane(u64),
    /// The requester gives up a single call.
    GiveUpSingle(u64),
    /// A worker does the next step of its lease to this waiter.
    Work {
        worker: u64,
        waiter: u64,
        work: SimWork,
    },
    /// This server's preload ends.
    FinishPreload(u32),
    /// The current server is lost.
    LoseServer,
    /// The current server takes no more work. The field says whether another server replaces it.
    DrainServer(bool),
    Relaunch,
    /// A bulkhead permits another number of workers.
    SetMost,
    /// The supervisor checks whether the pool is drained, and stops if it is.
    StopIfDrained,
    /// The clock jumps ahead.
    ClockJump(Duration),
    Recycle(Recycle),
    /// A worker is killed by its number, which this picks.
    KillWorker(usize),
    Pause,
    Resume,
    Close,
    Stop,
    StopNow,
    /// Faults stop.
    StopFaults,
}

/// The log of a run, and how often each kind of event happened.
#[derive(Default)]
pub(super) struct Journal {
    /// `None` if only the counts are kept.
    pub(super) lines: Option<Vec<String>>,
    pub(super) counts: BTreeMap<&'static str, u64>,
}

/// The simulated world.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) rng: SeededRng,
    pub(super) state: PoolState,
    /// When the simulation started. Simulated time counts from here.
    started_at: Instant,
    /// How long the simulation has run, and by how much its clock has jumped ahead of that.
    pub(super) elapsed: Duration,
    skew: Duration,
    /// Pending events by time, and at the same time in the order in which they were scheduled.
    agenda: BTreeMap<(Duration, u64), SimEvent>,
    last_event: u64,
    pub(super) events: u64,
    pub(super) journal: Journal,

    pub(super) workers: BTreeMap<u64, SimWorker>,
    pub(super) sessions: BTreeMap<u64, SimSession>,
    pub(super) last_session: u64,
    pub(super) waiters: BTreeMap<u64, SimWaiter>,
    pub(super) last_waiter: u64,
    /// The number of the last waiter that was put ahead of others.
    pub(super) last_ahead: u64,
    /// The last number of [`next_order`](Self::next_order).
    pub(super) last_order: u64,
    pub(super) lanes: Lanes,
    /// All calls that were sent.
    pub(super) calls: BTreeMap<u64, CallRecord>,
    pub(super) last_call: u64,
    /// The channels of workers that are lent, also of those that have exited.
    pub(super) leases: BTreeMap<u64, SimLease>,
    /// The waiter that holds each worker, as the scheduler knows it.
    pub(super) holders: BTreeMap<u64, u64>,
    /// The waiters that the pool state must have in its queue.
    pub(super) queue: VecDeque<u64>,
    /// The idle workers that the pool state must have, the least recently used first.
    pub(super) idle: Vec<u64>,
    /// How many workers each bulkhead permits.
    pub(super) most: Vec<usize>,
    pub(super) supervisor: SimSupervisor,
    /// Whether faults have stopped.
    pub(super) calm: bool,
    pub(super) is_paused: bool,
    tick_at: Option<Instant>,
    pub(super) backoff: super::checks::BackoffModel,
    pub(super) ticks: super::checks::Ticks,
}

impl World {
    pub(super) fn new(seed: u64, lines: Option<Vec<String>>) -> Self {
        let mut rng = SeededRng::new(seed);
        let plan = Plan::of(&mut rng);
        Self::with(plan, rng, lines)
    }

    pub(super) fn with(plan: Plan, rng: SeededRng, lines: Option<Vec<String>>) -> Self {
        let started_at = Instant::now();
        let most = plan.options.message_limits.iter().map(|limit| limit.most).collect();
        let mut world = World {
            state: PoolState::new(&plan.options),
            plan,
            rng,
            started_at,
            elapsed: Duration::ZERO,
            skew: Duration::ZERO,
            agenda: BTreeMap::new(),
            last_event: 0,
            events: 0,
            journal: Journal { lines, ..Journal::default() },
            workers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last_session: 0,
            waiters: BTreeMap::new(),
            last_waiter: FIRST_WAITER,
            last_ahead: FIRST_WAITER,
            last_order: 0,
            lanes: Lanes::default(),
            calls: BTreeMap::new(),
            last_call: 0,
            leases: BTreeMap::new(),
            holders: BTreeMap::new(),
            queue: VecDeque::new(),
            idle: Vec::new(),
            most,
            supervisor: SimSupervisor::default(),
            calm: false,
            is_paused: false,
            tick_at: None,
            backoff: super::checks::BackoffModel::default(),
            ticks: super::checks::Ticks::default(),
        };
        world.begin();
        world
    }

    /// Schedules the events of the plan, starts the server and opens the pool.
    fn begin(&mut self) {
        let plan = &self.plan;
        let text = format!("{:?}", plan.options);
        self.record("options", || text);
        let (calm_at, ends_at, closes) = (self.plan.calm_at, self.plan.ends_at, self.plan.closes);
        self.schedule_at(calm_at, SimEvent::StopFaults);
        if let Some(at) = ends_at {
            self.schedule_at(at, if closes { SimEvent::Close } else { SimEvent::Stop });
        }
        for _ in 0..self.plan.server_losses {
            let at = self.draw_time(calm_at);
            self.schedule_at(at, SimEvent::LoseServer);
        }
        for _ in 0..self.plan.drains {
            let (at, succeeded) = (self.draw_time(calm_at), self.rng.happens(700));
            self.schedule_at(at, SimEvent::DrainServer(succeeded));
        }
        for _ in 0..self.plan.resizes {
            let at = self.draw_time(calm_at);
            self.schedule_at(at, SimEvent::SetMost);
        }
        for _ in 0..self.plan.jumps {
            let at = self.draw_time(calm_at);
            let leap = Duration::from_secs(self.rng.pick(&[1, 61, 3 * 3600, 48 * 3600]));
            self.schedule_at(at, SimEvent::ClockJump(leap));
        }
        for _ in 0..self.plan.requesters {
            let at = self.draw_time(calm_at);
            self.schedule_at(at, SimEvent::Request);
        }
        self.schedule_interventions();
        self.add_lanes();
        self.launch();
        let now = self.now();
        self.state.open(now);
        self.settle();
    }

    /// Returns the time of the pool's clock.
    pub(super) fn now(&self) -> Instant {
        self.started_at + self.elapsed + self.skew
    }

    /// Draws a time below `most`.
    pub(super) fn draw_time(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.below(1000) as f64 / 1000.0)
    }

    /// Draws a wait below `most`, often zero, so that many events have the same time.
    pub(super) fn draw_wait(&mut self, most: Duration) -> Duration {
        if self.rng.happens(300) { Duration::ZERO } else { self.draw_time(most) }
    }

    pub(super) fn draw_delay(&mut self) -> Duration {
        self.draw_wait(if self.calm { super::plan::millis(1) } else { self.plan.delay })
    }

    pub(super) fn schedule_at(&mut self, at: Duration, event: SimEvent) {
        self.last_event += 1;
        self.agenda.insert((at, self.last_event), event);
    }

    pub(super) fn schedule_after(&mut self, wait: Duration, event: SimEvent) {
        self.schedule_at(self.elapsed + wait, event);
    }

    /// Draws whether a fault happens that has this rate in a thousand. Returns `false` once faults have stopped.
    pub(super) fn draw_fault(&mut self, in_a_thousand: usize) -> bool {
        self.rng.happens(in_a_thousand) && !self.calm
    }

    /// Draws a number between 0 and 1 for a jitter.
    pub(super) fn draw_jitter(&mut self) -> f64 {
        self.rng.below(1001) as f64 / 1000.0
    }

    pub(super) fn record(&mut self, what: &'static str, detail: impl FnOnce() -> String) {
        *self.journal.counts.entry(what).or_default() += 1;
        if let Some(lines) = &mut self.journal.lines {
            lines.push(format!("{:>14.6} s  {what} {}", (self.elapsed + self.skew).as_secs_f64(), detail()));
        }
    }

    /// Handles the next event and checks the pool state. Returns `false` if no event is pending.
    pub(super) fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.agenda.pop_first() else {
            return false;
        };
        self.elapsed = self.elapsed.max(at);
        self.events += 1;
        self.handle(event);
        self.check();
        self.check_waits();
        true
    }

    fn handle(&mut self, event: SimEvent) {
        match event {
            SimEvent::Request if !self.calm => self.add_requester(),
            SimEvent::Request => {}
            SimEvent::Spawn(worker) => self.spawn(worker),
            SimEvent::Retire(worker, reason) => self.add_retiring(worker, reason),
            SimEvent::Tick => self.tick(),
            SimEvent::Fork { worker, server } => self.fork_worker(worker, server),
            SimEvent::FinishSetup(worker, how) => self.finish_setup(worker, how),
            SimEvent::Exit(worker) => self.exit_process(worker),
            SimEvent::Crash(worker) if !self.calm => self.exit_process(worker),
            SimEvent::Crash(_) => {}
            SimEvent::Reap { worker, server } => self.reap(worker, server),
            SimEvent::Deliver(worker, notice) => self.deliver(worker, notice),
            SimEvent::SetupTimeout(worker) => self.expire_setup_timer(worker),
            SimEvent::ExitTimeout(worker) => self.kill(worker),
            SimEvent::Turn(session, turn) => self.take_turn(session, turn),
            SimEvent::Singles(lane) if !self.calm => self.send_singles(lane),
            SimEvent::Singles(_) => {}
            SimEvent::Arrive { lane, call, waiter } => self.arrive(lane, call, waiter),
            SimEvent::LookAtLane(lane) => self.look_at_lane(lane),
            SimEvent::GiveUpSingle(call) => self.give_up_single(call),
            SimEvent::Work { worker, waiter, work } => self.work(worker, waiter, work),
            SimEvent::FinishPreload(server) => self.finish_preload(server),
            SimEvent::LoseServer => self.lose_server(),
            SimEvent::DrainServer(succeeded) => self.drain_server(succeeded),
            SimEvent::Relaunch => self.relaunch(),
            SimEvent::SetMost => self.set_most(),
            SimEvent::StopIfDrained => self.stop_if_drained(),
            SimEvent::ClockJump(leap) => {
                if !self.calm {
                    self.skew += leap;
                    self.record("clock jumps", || format!("by {leap:?}"));
                }
            }
            SimEvent::Recycle(which) => self.recycle(which),
            SimEvent::KillWorker(which) => self.kill_worker(which),
            SimEvent::Pause => self.pause(),
            SimEvent::Resume => self.resume(),
            SimEvent::Close => self.close(),
            SimEvent::Stop => self.stop(),
            SimEvent::StopNow => self.stop_now(),
            SimEvent::StopFaults => self.stop_faults(),
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        self.record("tick", String::new);
        self.tick_at = self.tick_at.filter(|at| *at > now);
        self.ticks.count(self.elapsed);
        self.state.tick(now);
        self.carry_out();
        let next = self.state.next_tick();
        assert!(next.is_none_or(|next| next > now), "a tick leaves no work that is due");
        self.schedule_tick();
    }

    /// Does what the scheduler does after every change of the pool state.
    pub(super) fn settle(&mut self) {
        self.carry_out();
        self.schedule_tick();
        if self.state.is_drained() {
            self.notify_supervisor(SimEvent::StopIfDrained);
        }
    }

    fn schedule_tick(&mut self) {
        let next = self.state.next_tick();
        if let Some(next) = next
            && self.tick_at.is_none_or(|at| next < at)
        {
            self.tick_at = Some(next);
            let wait = next.saturating_duration_since(self.now());
            self.schedule_after(wait, SimEvent::Tick);
        }
    }

    fn carry_out(&mut self) {
        let mut has_granted = false;
        while let Some(action) = self.state.next_action() {
            match action {
                Action::Fork(worker) => self.request_worker(worker),
                Action::Grant { to, worker } => {
                    let first = self.allowed().first().copied();
                    assert_eq!(
                        first,
                        Some(to),
                        "first come, first served among those that are allowed a worker"
                    );
                    self.queue.retain(|waiting| *waiting != to);
                    self.record("worker granted from the queue", || format!("{worker} to {to}"));
                    self.grant(to, worker);
                    has_granted = true;
                }
                Action::Retire(worker, reason) => {
                    self.check_reason(worker, reason, has_granted);
                    self.record("worker retired", || format!("{worker}: {reason}"));
                    self.idle.retain(|idle| *idle != worker);
                    if let Some(worker) = self.workers.get_mut(&worker) {
                        worker.expected_state = Some(ExpectedState::Ending);
                    }
                    self.notify_supervisor(SimEvent::Retire(worker, reason));
                }
                Action::Refuse(waiter) => {
                    assert_eq!(self.state.phase(), PoolPhase::Stopping);
                    assert_eq!(self.queue.pop_front(), Some(waiter), "refused in order, once");
                    self.record("checkout refused", || waiter.to_string());
                    self.refuse(waiter, FailureKind::Stopped);
                }
            }
        }
    }

    fn request_worker(&mut self, worker: u64) {
        let now = self.now();
        let starting = self.count_expected(|expected_state| expected_state == ExpectedState::Starting);
        self.backoff.check_fork(now, starting);
        self.record("fork requested", || worker.to_string());
        let before = self.workers.insert(worker, SimWorker::requested(now, self.backoff.early_exits));
        assert!(before.is_none(), "worker {worker} is requested once");
        assert!(self.worker_count() <= *self.plan.options.workers.end(), "never more than the maximum");
        self.notify_supervisor(SimEvent::Spawn(worker));
    }

    /// Sends the supervisor a message. Messages arrive in the order in which they were sent.
    fn notify_supervisor(&mut self, event: SimEvent) {
        let at = (self.elapsed + self.draw_delay()).max(self.supervisor.last_delivery);
        self.supervisor.last_delivery = at;
        self.schedule_at(at, event);
    }

    /// Sends a worker's proxy a message. Messages about one worker arrive in the order in which they were sent.
    pub(super) fn notify(&mut self, worker: u64, notice: SimNotice) {
        let at = self.elapsed + self.draw_delay();
        if let Some(sim_worker) = self.workers.get_mut(&worker) {
            sim_worker.last_delivery = sim_worker.last_delivery.max(at);
            let at = sim_worker.last_delivery;
            self.schedule_at(at, SimEvent::Deliver(worker, notice));
        }
    }

    /// Runs until faults have stopped and the pool is at rest, then ends the pool and runs until no event is pending.
    pub(super) fn run(&mut self) {
        self.run_until_calm();
        self.run_until("come to rest", |world| world.is_at_rest());
        if self.state.phase() == PoolPhase::Open {
            let event = if self.plan.closes { SimEvent::Close } else { SimEvent::Stop };
            self.schedule_after(Duration::ZERO, event);
        }
        self.run_until("drain", |world| world.supervisor.server == SimServer::Stopped);
        while self.step() {}
        self.check_end();
    }

    pub(super) fn run_until_calm(&mut self) {
        while !self.calm && self.step() {
            if self.events > MAX_FAULTY_EVENTS {
                self.stop_faults();
            }
        }
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let until = self.events + MAX_CALM_EVENTS;
        while !done(self) {
            assert!(
                self.step(),
                "the pool should {what}, but no event is pending: {:?}",
                self.state.counts()
            );
            assert!(self.events < until, "the pool should {what} in time: {:?}", self.state.counts());
        }
    }

    /// Draws the report of a worker at its release.
    pub(super) fn draw_report(&mut self) -> ReleaseReport {
        let stop = self.draw_fault(self.plan.mishaps / 4);
        let private_bytes = self.plan.options.max_memory.map(|most| {
            let grown = self.draw_fault(self.plan.mishaps / 4);
            if grown { most + 1 } else { most }
        });
        ReleaseReport { stop, private_bytes, checkouts: None }
    }
}

/// The number of the first waiter.
const FIRST_WAITER: u64 = 1 << 20;

/// Events after which faults stop at the latest.
const MAX_FAULTY_EVENTS: u64 = 1500;

/// Events within which the pool must come to rest after that, and again to drain.
const MAX_CALM_EVENTS: u64 = 20 * MAX_FAULTY_EVENTS;
