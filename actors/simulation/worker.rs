//! Worker processes as they are, and as their proxies in the host know them.

use std::time::{Duration, Instant};

use super::plan::millis;
use super::session::SimTurn;
use super::world::{Event, World};

/// What is true of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    SpawnFailed,
    SettingUp,
    Ready,
    /// It has begun to exit, and was not reaped.
    Exiting,
    Exited,
}

/// What the ledger was told of a worker, and so has to have in its books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Believed {
    Starting,
    Idle,
    Leased(u64),
    Ending,
}

/// Whether a worker's server still makes workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    Current,
    Outdated,
    Obsolete,
}

/// How far a worker's proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SimWorkerState {
    SettingUp,
    ReadyUnforked,
    Lent,
    Ending,
}

/// How a set-up ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetUp {
    Succeeds,
    Fails,
    Dies,
}

/// What the host is told of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Forked {
        server: u32,
    },
    NotForked {
        server: u32,
    },
    Ready,
    SetupFailed,
    Ended {
        server: u32,
    },
    /// Its fork server is gone.
    ServerLost,
    /// An orphan's end, seen from here.
    SeenDead,
}

pub(super) struct SimWorker {
    pub(super) truth: Truth,
    /// `None` once its end was told to the ledger.
    pub(super) believed: Option<Believed>,
    stage: SimWorkerState,
    /// Whether the host knows its process.
    forked: bool,
    /// Whether the host watches for its end, since nobody else does.
    watched: bool,
    /// It is told to end as soon as it looks: its channel is closed.
    abandoned: bool,
    /// Which server was asked for it, from 1; 0 is none.
    pub(super) server: u32,
    pub(super) generation: Generation,
    pub(super) ends: u32,
    pub(super) checkouts: u64,
    /// When it was asked for, and from its being ready on when that was.
    pub(super) born: Instant,
    pub(super) idle_since: Instant,
    /// Early ends there had been when it was asked for.
    pub(super) asked_after: u64,
    pub(super) heard_until: Duration,
}

impl SimWorker {
    pub(super) fn asked_for(now: Instant, asked_after: u64) -> Self {
        SimWorker {
            truth: Truth::SpawnFailed,
            believed: Some(Believed::Starting),
            stage: SimWorkerState::SettingUp,
            forked: false,
            watched: false,
            abandoned: false,
            server: 0,
            generation: Generation::Current,
            ends: 0,
            checkouts: 0,
            born: now,
            idle_since: now,
            asked_after,
            heard_until: Duration::ZERO,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        matches!(self.truth, Truth::SettingUp | Truth::Ready)
    }

    pub(super) fn is_unborn(&self) -> bool {
        self.truth == Truth::SpawnFailed
    }

    pub(super) fn is_known_to_live(&self) -> bool {
        self.forked && self.believed.is_some()
    }
}

impl World {
    pub(super) fn worker(&mut self, number: u64) -> Option<&mut SimWorker> {
        self.workers.get_mut(&number)
    }

    /// A server comes to a request for a worker.
    pub(super) fn forks(&mut self, number: u64, server: u32) {
        if server != self.supervisor.generation {
            return;
        }
        let not_forked = self.plan.not_forked;
        if self.fault(not_forked) {
            return self.tell(number, Notice::NotForked { server });
        }
        let Some(worker) = self.worker(number) else { return };
        worker.truth = Truth::SettingUp;
        let abandoned = worker.abandoned;
        self.note("forked", || number.to_string());
        self.tell(number, Notice::Forked { server });
        if abandoned {
            return self.finds_its_channel_closed(number);
        }
        let took = self.up_to(self.plan.setup);
        let plan = &self.plan;
        let (hangs, dies, fails) = (plan.setup_hangs, plan.setup_dies, plan.setup_fails);
        if self.fault(hangs) {
            self.note("a set-up hangs", || number.to_string());
        } else if self.fault(dies) {
            self.after(took, Event::SetUp(number, SetUp::Dies));
        } else if self.fault(fails) {
            self.after(took, Event::SetUp(number, SetUp::Fails));
        } else {
            self.after(took, Event::SetUp(number, SetUp::Succeeds));
        }
        let (doomed, lifetime) = (self.plan.doomed, self.plan.lifetime);
        if self.fault(doomed) {
            let worker_states = self.up_to(lifetime);
            self.after(took + worker_states, Event::Doom(number));
        }
    }

    pub(super) fn set_up(&mut self, number: u64, how: SetUp) {
        let Some(worker) = self.worker(number).filter(|worker| worker.truth == Truth::SettingUp) else {
            return;
        };
        match how {
            SetUp::Succeeds => {
                worker.truth = Truth::Ready;
                self.tell(number, Notice::Ready);
            }
            SetUp::Fails => {
                self.tell(number, Notice::SetupFailed);
                self.dies(number);
            }
            SetUp::Dies => self.dies(number),
        }
    }

    /// A process begins to exit: its holder's channel ends, and its server or its host will see it.
    pub(super) fn dies(&mut self, number: u64) {
        let Some(worker) = self.worker(number).filter(|worker| worker.is_alive()) else { return };
        worker.truth = Truth::Exiting;
        let (server, believed, watched) = (worker.server, worker.believed, worker.watched);
        self.note("dies", || format!("{number}, taken to be {believed:?}"));
        let reaped_in = self.delay();
        self.after(reaped_in, Event::Reaped { worker: number, server });
        if watched {
            self.tell(number, Notice::SeenDead);
        }
        if let Some(Believed::Leased(session)) = believed {
            self.session_in(session, SimTurn::ChannelEnds);
        }
    }

    pub(super) fn kill(&mut self, number: u64) {
        if self.worker(number).is_some_and(|worker| worker.is_alive()) {
            let wait = self.delay();
            self.after(wait, Event::Dies(number));
        }
    }

    pub(super) fn reaped(&mut self, number: u64, server: u32) {
        if let Some(worker) = self.worker(number) {
            worker.truth = Truth::Exited;
            self.tell(number, Notice::Ended { server });
        }
    }

    /// Nobody has the other end of its channel any more, so it ends once it looks.
    fn finds_its_channel_closed(&mut self, number: u64) {
        if let Some(worker) = self.worker(number) {
            worker.abandoned = true;
            let wait = self.delay();
            self.after(wait, Event::Dies(number));
        }
    }

    pub(super) fn hear(&mut self, number: u64, notice: Notice) {
        self.take_in(number, notice);
        let lost = matches!(notice, Notice::ServerLost);
        let over = self.worker(number).is_some_and(|worker| {
            worker.ends > 0 && (worker.truth == Truth::Exited || lost && worker.truth == Truth::SpawnFailed)
        });
        if over {
            self.forget(number);
        }
    }

    /// Nothing will be heard of it any more.
    pub(super) fn forget(&mut self, number: u64) {
        if let Some(worker) = self.workers.remove(&number) {
            assert_eq!(worker.ends, 1, "the end of worker {number} was told once");
            assert!(!worker.is_alive(), "worker {number} has ended");
        }
    }

    fn take_in(&mut self, number: u64, notice: Notice) {
        let is_heard = match notice {
            Notice::Forked { server } | Notice::NotForked { server } | Notice::Ended { server } => {
                self.is_heard(server)
            }
            _ => true,
        };
        let Some(worker) = self.worker(number) else { return };
        let (known, is_buried) = (worker.forked, worker.ends > 0);
        match notice {
            // What a lost server was still to say is lost with it.
            _ if !is_heard => {}
            Notice::Forked { .. } => {
                if !is_buried {
                    self.is_forked(number);
                }
                self.confirmed(number);
            }
            Notice::NotForked { .. } => {
                self.note("not forked", || number.to_string());
                if let Some(worker) = self.worker(number) {
                    worker.truth = Truth::Exited;
                }
                self.confirmed(number);
                self.bury(number);
            }
            Notice::Ended { .. } => {
                self.confirmed(number);
                self.bury(number);
            }
            Notice::SeenDead => self.bury(number),
            Notice::Ready if worker.stage == SimWorkerState::SettingUp => {
                worker.stage = SimWorkerState::ReadyUnforked;
                self.lend(number);
            }
            Notice::SetupFailed if worker.stage == SimWorkerState::SettingUp => self.setup_failed(number),
            Notice::Ready | Notice::SetupFailed => {}
            Notice::ServerLost if is_buried => {}
            Notice::ServerLost if known => {
                worker.watched = true;
                if !worker.is_alive() {
                    self.tell(number, Notice::SeenDead);
                }
            }
            Notice::ServerLost => self.bury(number),
        }
    }

    fn is_forked(&mut self, number: u64) {
        let limit = self.plan.options.setup_timeout;
        let Some(worker) = self.worker(number) else { return };
        worker.forked = true;
        match worker.stage {
            SimWorkerState::SettingUp => {
                if let Some(limit) = limit {
                    self.after(limit, Event::SetupClock(number));
                }
            }
            SimWorkerState::ReadyUnforked => self.lend(number),
            SimWorkerState::Lent => {}
            SimWorkerState::Ending => self.kill(number),
        }
    }

    fn lend(&mut self, number: u64) {
        let now = self.now();
        let Some(worker) = self.worker(number).filter(|worker| worker.forked) else { return };
        if worker.stage != SimWorkerState::ReadyUnforked {
            return;
        }
        worker.stage = SimWorkerState::Lent;
        if worker.believed == Some(Believed::Starting) {
            (worker.born, worker.idle_since) = (now, now);
            worker.believed = Some(Believed::Idle);
            let asked_after = worker.asked_after;
            self.idle.push(number);
            self.backoff.ready(asked_after);
        }
        self.note("ready", || number.to_string());
        self.state.ready(number, now);
        self.settle_books();
    }

    pub(super) fn setup_clock(&mut self, number: u64) {
        if self
            .worker(number)
            .is_some_and(|worker| worker.stage == SimWorkerState::SettingUp && worker.ends == 0)
        {
            self.setup_failed(number);
        }
    }

    fn setup_failed(&mut self, number: u64) {
        self.note("a set-up fails", || number.to_string());
        self.tell_first_in_line();
        let (now, jitter) = (self.now(), self.jitter());
        let Some(worker) = self.worker(number) else { return };
        worker.stage = SimWorkerState::Ending;
        if worker.believed.is_some() {
            worker.believed = Some(Believed::Ending);
            self.backoff.early_end(&self.plan.options.restart, now, jitter);
        }
        self.state.not_set_up(number, now, jitter);
        self.settle_books();
        if self.worker(number).is_some_and(|worker| worker.forked) {
            self.kill(number);
        }
    }

    /// The proxy is told that its worker is to end.
    pub(super) fn leaves(&mut self, number: u64) {
        let Some(worker) = self.worker(number).filter(|worker| worker.ends == 0) else { return };
        let was = std::mem::replace(&mut worker.stage, SimWorkerState::Ending);
        let forked = worker.forked;
        if was == SimWorkerState::Lent {
            worker.stage = SimWorkerState::Lent;
            self.after(Duration::from_secs(1), Event::Farewell(number));
            if !self.chance.happens(100) {
                self.finds_its_channel_closed(number);
            }
        } else if forked {
            self.kill(number);
        } else {
            self.bury(number);
        }
    }

    /// The proxy's end: a set-up that was not done has failed, and the ledger is told.
    pub(super) fn bury(&mut self, number: u64) {
        let Some(worker) = self.worker(number).filter(|worker| worker.ends == 0) else { return };
        if worker.forked && worker.stage == SimWorkerState::SettingUp {
            self.setup_failed(number);
        }
        let (now, jitter) = (self.now(), self.jitter());
        let Some(worker) = self.worker(number) else { return };
        worker.ends += 1;
        let believed = worker.believed.take();
        let (checkouts, age) = (worker.checkouts, now.saturating_duration_since(worker.born));
        self.note("its end is told", || format!("{number}, taken to be {believed:?}"));
        self.idle.retain(|idle| *idle != number);
        let holder = self.holding.remove(&number);
        let has_call = holder.is_some_and(|session| self.sessions[&session].has_call);
        let leased = matches!(believed, Some(Believed::Leased(_)));
        let used = has_call || checkouts > u64::from(leased);
        let early = match believed {
            Some(Believed::Starting) => true,
            Some(Believed::Idle | Believed::Leased(_)) => !used && age < millis(1000),
            _ => false,
        };
        if early {
            self.backoff.early_end(&self.plan.options.restart, now, jitter);
        }
        self.state.ended(number, has_call, now, jitter);
        self.settle_books();
        if let Some(session) = holder {
            self.session_in(session, SimTurn::ExitReport);
        }
        self.finds_its_channel_closed(number);
    }

    /// Set-ups that hung come to an end after all.
    pub(super) fn wake_the_hanging(&mut self) {
        let hanging = self.workers.iter().filter(|(_, worker)| worker.truth == Truth::SettingUp);
        let hanging: Vec<u64> = hanging.map(|(number, _)| *number).collect();
        for number in hanging {
            let wait = self.up_to(self.plan.setup);
            self.after(wait, Event::SetUp(number, SetUp::Succeeds));
        }
    }
}
