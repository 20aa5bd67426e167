//! The world of one seed: what is true, what the pool was told of it, and what is still to happen.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::server::{SimServer, SimSupervisor};
use super::session::{SimSession, SimTurn};
use super::worker::{Believed, Notice, SetUp, SimWorker};
use crate::actors::scheduler::state::{Action, PoolPhase, PoolState, ReleaseReport};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::testing::seeded_rng::SeededRng;

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// Somebody wants a worker.
    Comes,
    /// The supervisor is told to have this worker forked.
    Spawn(u64),
    /// The supervisor is told that this worker is to end.
    Retire(u64, RetireReason),
    /// The timer that the desk asked for.
    Attend,
    /// This server comes to a request.
    Forks {
        worker: u64,
        server: u32,
    },
    /// A worker's set-up ends.
    SetUp(u64, SetUp),
    /// A worker's process dies, killed or by itself.
    Dies(u64),
    /// The same, unless faults have ceased.
    Doom(u64),
    /// A dead worker is reaped by its server or by whoever inherits it.
    Reaped {
        worker: u64,
        server: u32,
    },
    /// The host is told something of a worker.
    Heard(u64, Notice),
    SetupClock(u64),
    /// A worker that was told to end has had its time.
    Farewell(u64),
    /// It is a session's turn; the number is of the session's stage.
    SimTurn(u64, u32, SimTurn),
    ServerUp(u32),
    ServerLost,
    /// The server takes no more work; whether another does in its place.
    Drains(bool),
    Relaunch,
    /// The supervisor looks whether nothing is left to wait for, and ends itself then.
    Drained,
    /// The clock leaps ahead.
    Jump(Duration),
    Close,
    Stop,
    StopNow,
    /// Faults cease.
    Calm,
}

/// The line of what was written down, and how often what happened.
#[derive(Default)]
pub(super) struct Journal {
    /// `None` where only the counts are of interest.
    pub(super) lines: Option<Vec<String>>,
    pub(super) counts: BTreeMap<&'static str, u64>,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) chance: SeededRng,
    pub(super) state: PoolState,
    /// When the simulation began; time is counted from here.
    began: Instant,
    /// How long it has run, and by how much its clock has leapt ahead of that.
    pub(super) ran: Duration,
    skew: Duration,
    agenda: BTreeMap<(Duration, u64), Event>,
    last_event: u64,
    pub(super) events: u64,
    pub(super) journal: Journal,

    pub(super) workers: BTreeMap<u64, SimWorker>,
    pub(super) sessions: BTreeMap<u64, SimSession>,
    pub(super) last_session: u64,
    /// Which session has which worker, as the desk knows it.
    pub(super) holding: BTreeMap<u64, u64>,
    /// Who is in line, as it should be.
    pub(super) line: VecDeque<u64>,
    /// Who is idle, as it should be: least recently used first.
    pub(super) idle: Vec<u64>,
    pub(super) supervisor: SimSupervisor,
    pub(super) calm: bool,
    attends_at: Option<Instant>,
    pub(super) backoff: super::checks::Backoff,
    pub(super) ticks: super::checks::Ticks,
}

impl World {
    pub(super) fn new(seed: u64, lines: Option<Vec<String>>) -> Self {
        let mut chance = SeededRng::new(seed);
        let plan = Plan::of(&mut chance);
        Self::with(plan, chance, lines)
    }

    pub(super) fn with(plan: Plan, chance: SeededRng, lines: Option<Vec<String>>) -> Self {
        let began = Instant::now();
        let mut world = World {
            state: PoolState::new(&plan.options),
            plan,
            chance,
            began,
            ran: Duration::ZERO,
            skew: Duration::ZERO,
            agenda: BTreeMap::new(),
            last_event: 0,
            events: 0,
            journal: Journal { lines, ..Journal::default() },
            workers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last_session: 0,
            holding: BTreeMap::new(),
            line: VecDeque::new(),
            idle: Vec::new(),
            supervisor: SimSupervisor::default(),
            calm: false,
            attends_at: None,
            backoff: super::checks::Backoff::default(),
            ticks: super::checks::Ticks::default(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let plan = &self.plan;
        let text = format!("{:?}", plan.options);
        self.note("options", || text);
        let (calm_at, ends_at, closes) = (self.plan.calm_at, self.plan.ends_at, self.plan.closes);
        self.at(calm_at, Event::Calm);
        if let Some(at) = ends_at {
            self.at(at, if closes { Event::Close } else { Event::Stop });
        }
        for _ in 0..self.plan.server_losses {
            let at = self.sometime(calm_at);
            self.at(at, Event::ServerLost);
        }
        for _ in 0..self.plan.drains {
            let (at, succeeded) = (self.sometime(calm_at), self.chance.happens(700));
            self.at(at, Event::Drains(succeeded));
        }
        for _ in 0..self.plan.jumps {
            let at = self.sometime(calm_at);
            let leap = Duration::from_secs(self.chance.pick(&[1, 61, 3 * 3600, 48 * 3600]));
            self.at(at, Event::Jump(leap));
        }
        for _ in 0..self.plan.requesters {
            let at = self.sometime(calm_at);
            self.at(at, Event::Comes);
        }
        self.launch();
        let now = self.now();
        self.state.open(now);
        self.settle_books();
    }

    /// What the pool's clock says.
    pub(super) fn now(&self) -> Instant {
        self.began + self.ran + self.skew
    }

    /// A time up to `most` from the beginning.
    fn sometime(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.chance.below(1000) as f64 / 1000.0)
    }

    /// A wait of at most so long; often none at all, so that much happens in one moment.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        if self.chance.happens(300) { Duration::ZERO } else { self.sometime(most) }
    }

    pub(super) fn delay(&mut self) -> Duration {
        self.up_to(if self.calm { super::plan::millis(1) } else { self.plan.delay })
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.last_event += 1;
        self.agenda.insert((at, self.last_event), event);
    }

    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.ran + wait, event);
    }

    /// Something that happens so many times in a thousand, until faults cease.
    pub(super) fn fault(&mut self, in_a_thousand: usize) -> bool {
        self.chance.happens(in_a_thousand) && !self.calm
    }

    /// A number between 0 and 1, for the jitter.
    pub(super) fn jitter(&mut self) -> f64 {
        self.chance.below(1001) as f64 / 1000.0
    }

    pub(super) fn note(&mut self, what: &'static str, detail: impl FnOnce() -> String) {
        *self.journal.counts.entry(what).or_default() += 1;
        if let Some(lines) = &mut self.journal.lines {
            lines.push(format!("{:>14.6} s  {what} {}", (self.ran + self.skew).as_secs_f64(), detail()));
        }
    }

    /// Lets the next thing happen; `false` if nothing is left that could.
    pub(super) fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.agenda.pop_first() else {
            return false;
        };
        self.ran = self.ran.max(at);
        self.events += 1;
        self.happen(event);
        self.check();
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Comes if !self.calm => self.comes(),
            Event::Comes => {}
            Event::Spawn(worker) => self.spawn(worker),
            Event::Retire(worker, reason) => self.retires(worker, reason),
            Event::Attend => self.tick(),
            Event::Forks { worker, server } => self.forks(worker, server),
            Event::SetUp(worker, how) => self.set_up(worker, how),
            Event::Dies(worker) => self.dies(worker),
            Event::Doom(worker) if !self.calm => self.dies(worker),
            Event::Doom(_) => {}
            Event::Reaped { worker, server } => self.reaped(worker, server),
            Event::Heard(worker, notice) => self.hear(worker, notice),
            Event::SetupClock(worker) => self.setup_clock(worker),
            Event::Farewell(worker) => self.kill(worker),
            Event::SimTurn(session, number, turn) => self.turn(session, number, turn),
            Event::ServerUp(server) => self.server_up(server),
            Event::ServerLost => self.server_lost(),
            Event::Drains(succeeded) => self.server_drains(succeeded),
            Event::Relaunch => self.relaunch(),
            Event::Drained => self.end_if_drained(),
            Event::Jump(leap) => {
                if !self.calm {
                    self.skew += leap;
                    self.note("the clock leaps", || format!("by {leap:?}"));
                }
            }
            Event::Close => self.close(),
            Event::Stop => self.stop(),
            Event::StopNow => self.stop_now(),
            Event::Calm => self.become_calm(),
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        self.note("tick", String::new);
        self.attends_at = self.attends_at.filter(|at| *at > now);
        self.ticks.count(self.ran);
        self.state.tick(now);
        self.carry_out();
        let next = self.state.next_tick();
        assert!(next.is_none_or(|next| next > now), "a tick leaves nothing to be done at once");
        self.ask_to_attend();
    }

    /// What the desk does behind every change of its books.
    pub(super) fn settle_books(&mut self) {
        self.carry_out();
        self.ask_to_attend();
        if self.state.is_drained() {
            self.tell_supervisor(Event::Drained);
        }
    }

    fn ask_to_attend(&mut self) {
        let next = self.state.next_tick();
        if let Some(next) = next
            && self.attends_at.is_none_or(|at| next < at)
        {
            self.attends_at = Some(next);
            let wait = next.saturating_duration_since(self.now());
            self.after(wait, Event::Attend);
        }
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.state.next_action() {
            match action {
                Action::Fork(worker) => self.asked_for(worker),
                Action::Grant { to, worker } => {
                    assert_eq!(self.line.pop_front(), Some(to), "first come, first served");
                    self.note("granted from the line", || format!("{worker} to {to}"));
                    self.granted(to, worker);
                }
                Action::Retire(worker, reason) => {
                    self.check_reason(worker, reason);
                    self.note("retires", || format!("{worker}: {reason}"));
                    self.idle.retain(|idle| *idle != worker);
                    if let Some(worker) = self.workers.get_mut(&worker) {
                        worker.believed = Some(Believed::Ending);
                    }
                    self.tell_supervisor(Event::Retire(worker, reason));
                }
                Action::Refuse(session) => {
                    assert_eq!(self.state.phase(), PoolPhase::Stopping);
                    assert_eq!(self.line.pop_front(), Some(session), "refused in order, once");
                    self.note("refused", || session.to_string());
                    self.over(session);
                }
            }
        }
    }

    fn asked_for(&mut self, worker: u64) {
        let now = self.now();
        let starting = self.believed(|believed| believed == Believed::Starting);
        self.backoff.check_fork(now, starting);
        self.note("to be forked", || worker.to_string());
        let before = self.workers.insert(worker, SimWorker::asked_for(now, self.backoff.early_ends));
        assert!(before.is_none(), "worker {worker} is asked for once");
        assert!(self.places() <= *self.plan.options.workers.end(), "never more than the most");
        self.tell_supervisor(Event::Spawn(worker));
    }

    /// The supervisor hears what the desk tells it in that order.
    fn tell_supervisor(&mut self, event: Event) {
        let at = (self.ran + self.delay()).max(self.supervisor.hears_until);
        self.supervisor.hears_until = at;
        self.at(at, event);
    }

    /// The host hears of one worker in order.
    pub(super) fn tell(&mut self, worker: u64, notice: Notice) {
        let at = self.ran + self.delay();
        if let Some(worker_) = self.workers.get_mut(&worker) {
            worker_.heard_until = worker_.heard_until.max(at);
            let at = worker_.heard_until;
            self.at(at, Event::Heard(worker, notice));
        }
    }

    fn close(&mut self) {
        self.note("the pool closes", String::new);
        let now = self.now();
        self.state.close(now);
        self.settle_books();
    }

    fn stop(&mut self) {
        let drain = self.plan.drain;
        self.note("the pool stops", || format!("within {drain:?}"));
        let now = self.now();
        self.state.stop(now);
        self.settle_books();
        self.after(drain, Event::StopNow);
    }

    fn stop_now(&mut self) {
        self.note("the drain is over", String::new);
        self.stop_sessions();
        let living = self.workers.iter().filter(|(_, worker)| worker.is_known_to_live());
        let living: Vec<u64> = living.map(|(number, _)| *number).collect();
        living.into_iter().for_each(|worker| self.kill(worker));
    }

    /// From now on all goes well, and whoever held a worker for ever has had enough.
    fn become_calm(&mut self) {
        if self.calm {
            return;
        }
        self.note("faults cease", String::new);
        self.calm = true;
        self.wake_the_stuck();
    }

    /// Runs until faults have ceased, and on until the pool has come to rest.
    pub(super) fn run(&mut self) {
        self.run_until_calm();
        self.run_until("comes to rest", |world| world.is_at_rest());
        if self.state.phase() == PoolPhase::Open {
            let event = if self.plan.closes { Event::Close } else { Event::Stop };
            self.after(Duration::ZERO, event);
        }
        self.run_until("drains", |world| world.supervisor.server == SimServer::Over);
        while self.step() {}
        self.check_end();
    }

    pub(super) fn run_until_calm(&mut self) {
        while !self.calm && self.step() {
            if self.events > MOST_EVENTS {
                self.become_calm();
            }
        }
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let until = self.events + PATIENCE;
        while !done(self) {
            assert!(self.step(), "the pool {what}, but nothing is left to happen: {:?}", self.state.counts());
            assert!(self.events < until, "the pool {what} in time: {:?}", self.state.counts());
        }
    }

    /// Facts that a worker tells at its release.
    pub(super) fn facts(&mut self) -> ReleaseReport {
        let stop = self.fault(self.plan.mishaps / 4);
        let private_bytes = self.plan.options.max_memory.map(|most| {
            let grown = self.fault(self.plan.mishaps / 4);
            if grown { most + 1 } else { most }
        });
        ReleaseReport { stop, private_bytes }
    }
}

/// Events after which faults cease.
const MOST_EVENTS: u64 = 1500;

/// Events within which the pool has to come to rest then, or to drain.
const PATIENCE: u64 = 20 * MOST_EVENTS;
