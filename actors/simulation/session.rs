//! Requesters: they ask, wait or give up, hold a worker in good ways and bad, and lose it.

use std::time::Duration;

use super::plan::millis;
use super::worker::Believed;
use super::world::{Event, World};
use crate::actors::scheduler::state::{Admission, PoolPhase, ReleaseReport};
use crate::actors::scheduler::worker_state::RetireReason;

/// How long a session waits to be told of its worker's death.
const PATIENCE: Duration = Duration::from_millis(500);

/// Workers that may die before they begin a call until the call is taken to be the reason.
const MOST_FALSE_STARTS: u32 = 10;

/// What a session does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimTurn {
    /// It has waited long enough.
    GivesUp,
    /// It sees that it was granted a worker.
    Looks,
    /// Its worker begins its first call.
    Begins,
    Finishes,
    /// Its worker has said that it is released.
    Released,
    ChannelEnds,
    /// It watches its worker die in the middle of a call.
    /// It is told how its worker ended, or gives up waiting for that.
    ExitReport,
    MournsNoMore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimSessionState {
    Waiting,
    /// It was granted a worker and has not looked yet.
    Granted(u64),
    Held(u64),
    Releasing(u64),
    AwaitingExit(u64),
    Over,
}

/// How a requester will be done with its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Release,
    /// The worker is killed.
    Kill(RetireReason),
    /// The worker is told to end.
    Retire,
    HoldForEver,
    /// The release is never acknowledged.
    ReleaseHangs,
}

const MISHAPS: [Wish; 9] = [
    Wish::Kill(RetireReason::TimedOut),
    Wish::Kill(RetireReason::Aborted),
    Wish::Kill(RetireReason::Panicked),
    Wish::Kill(RetireReason::Broken),
    Wish::Kill(RetireReason::InDoubt),
    Wish::Kill(RetireReason::Abandoned),
    Wish::Retire,
    Wish::HoldForEver,
    Wish::ReleaseHangs,
];

pub(super) struct SimSession {
    pub(super) stage: SimSessionState,
    /// Raised with every stage, so that what was to happen in an earlier one does not.
    number: u32,
    pub(super) has_call: bool,
    begun: bool,
    wish: Wish,
    false_starts: u32,
}

impl SimSession {
    pub(super) fn worker(&self) -> Option<u64> {
        match self.stage {
            SimSessionState::Granted(worker) | SimSessionState::Held(worker) => Some(worker),
            SimSessionState::Releasing(worker) | SimSessionState::AwaitingExit(worker) => Some(worker),
            SimSessionState::Waiting | SimSessionState::Over => None,
        }
    }
}

impl World {
    pub(super) fn comes(&mut self) {
        let has_call = !self.chance.happens(200);
        let mishaps = self.plan.mishaps;
        let wish = if self.fault(mishaps) { self.chance.pick(&MISHAPS) } else { Wish::Release };
        self.ask(
            SimSession {
                stage: SimSessionState::Waiting,
                number: 0,
                has_call,
                begun: false,
                wish,
                false_starts: 0,
            },
            false,
        );
    }

    fn ask(&mut self, session: SimSession, again: bool) {
        self.last_session += 1;
        let (id, now) = (self.last_session, self.now());
        self.sessions.insert(id, session);
        let last_idle = self.idle.last().copied();
        let answer = if again { self.state.ask_again(id, now) } else { self.state.ask(id, now) };
        self.note(if again { "asks again" } else { "asks" }, || format!("{id}: {answer:?}"));
        match answer {
            Admission::Granted { worker } => {
                assert!(self.line.is_empty(), "nobody is overtaken");
                assert_eq!(Some(worker), last_idle, "the most recently used worker is taken");
                self.granted(id, worker);
            }
            Admission::Waits => {
                if again {
                    self.line.push_front(id);
                } else {
                    self.line.push_back(id);
                }
                let impatient = self.plan.impatient;
                if self.fault(impatient) {
                    let wait = self.up_to(self.plan.hold * 2);
                    self.session_in_after(wait, id, SimTurn::GivesUp);
                }
            }
            Admission::Overloaded { waiting } => {
                assert_eq!(waiting, self.line.len());
                assert!(self.plan.options.max_waiting.is_some_and(|most| waiting >= most));
                self.over(id);
            }
            Admission::Stopped => {
                let served = if again { PoolPhase::Closing } else { PoolPhase::Open };
                assert!(self.state.phase() > served, "an open pool serves");
                self.over(id);
            }
        }
        self.settle_books();
    }

    /// The ledger gives a waiting session a worker.
    pub(super) fn granted(&mut self, id: u64, number: u64) {
        assert_ne!(self.state.phase(), PoolPhase::Stopping, "a pool that was stopped grants nothing");
        let before = self.holding.insert(number, id);
        assert_eq!(before, None, "worker {number} has one holder at most");
        self.idle.retain(|idle| *idle != number);
        let Some(worker) = self.worker(number) else { panic!("worker {number} is known") };
        assert_eq!(worker.believed, Some(Believed::Idle), "only an idle worker is granted");
        worker.believed = Some(Believed::Leased(id));
        worker.checkouts += 1;
        let alive = worker.is_alive();
        self.enter(id, SimSessionState::Granted(number));
        let wait = self.delay();
        self.session_in_after(wait, id, SimTurn::Looks);
        if !alive {
            self.session_in(id, SimTurn::ChannelEnds);
        }
    }

    fn enter(&mut self, id: u64, stage: SimSessionState) {
        let Some(session) = self.sessions.get_mut(&id) else { panic!("session {id} is known") };
        assert_ne!(session.stage, SimSessionState::Over, "a checkout ends once");
        session.stage = stage;
        session.number += 1;
    }

    pub(super) fn over(&mut self, id: u64) {
        self.enter(id, SimSessionState::Over);
        self.sessions.remove(&id);
    }

    /// Soon it will be a session's turn, if it is still where it is now.
    pub(super) fn session_in(&mut self, id: u64, turn: SimTurn) {
        let wait = self.delay();
        self.session_in_after(wait, id, turn);
    }

    fn session_in_after(&mut self, wait: Duration, id: u64, turn: SimTurn) {
        if let Some(session) = self.sessions.get(&id) {
            // What concerns the worker concerns it in every stage.
            let any = matches!(turn, SimTurn::ChannelEnds | SimTurn::ExitReport | SimTurn::GivesUp);
            let number = if any { u32::MAX } else { session.number };
            self.after(wait, Event::SimTurn(id, number, turn));
        }
    }

    pub(super) fn turn(&mut self, id: u64, number: u32, turn: SimTurn) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if number != u32::MAX && number != session.number {
            return;
        }
        match (turn, session.stage) {
            (SimTurn::GivesUp, SimSessionState::Waiting | SimSessionState::Granted(_)) => self.cancel(id),
            (SimTurn::Looks, SimSessionState::Granted(worker)) => {
                self.enter(id, SimSessionState::Held(worker));
                self.session_in(id, SimTurn::Begins);
            }
            (SimTurn::Begins, SimSessionState::Held(worker)) => {
                session.begun = session.has_call;
                let forever = session.wish == Wish::HoldForEver && !self.calm;
                if !self.workers.get(&worker).is_some_and(|worker| worker.is_alive()) {
                    self.sessions.entry(id).and_modify(|session| session.begun = false);
                } else if !forever {
                    let wait = self.up_to(self.plan.hold);
                    self.session_in_after(wait, id, SimTurn::Finishes);
                }
            }
            (SimTurn::Finishes, SimSessionState::Held(worker)) => self.finishes(id, worker),
            (SimTurn::Released, SimSessionState::Releasing(worker)) => self.released(id, worker),
            (
                SimTurn::ChannelEnds,
                SimSessionState::Granted(worker)
                | SimSessionState::Held(worker)
                | SimSessionState::Releasing(worker),
            ) => {
                self.mourns(id, worker);
            }
            (SimTurn::ExitReport, stage) if stage != SimSessionState::Waiting => self.lost(id),
            (SimTurn::MournsNoMore, SimSessionState::AwaitingExit(_)) => self.lost(id),
            _ => {}
        }
    }

    /// A requester gives up, maybe in the very moment of its grant.
    fn cancel(&mut self, id: u64) {
        let now = self.now();
        let stage = self.sessions[&id].stage;
        self.note("gives up", || format!("{id}, {stage:?}"));
        let at = self.line.iter().position(|waiting| *waiting == id);
        at.map(|at| self.line.remove(at));
        assert_eq!(self.state.cancel(id, now), at.is_some(), "whoever waits stands in line");
        self.settle_books();
        if let SimSessionState::Granted(worker) = stage {
            self.give_back(worker, ReleaseReport::default());
        }
        self.over(id);
    }

    fn finishes(&mut self, id: u64, worker: u64) {
        if !self.workers.get(&worker).is_some_and(|worker| worker.is_alive()) {
            return self.mourns(id, worker);
        }
        let now = self.now();
        let wish = if self.calm { Wish::Release } else { self.sessions[&id].wish };
        let reason = self.state.reason_to_end(worker, ReleaseReport::default(), now);
        match (wish, reason) {
            (Wish::Kill(reason), _) => self.dismisses(id, worker, reason),
            (Wish::Retire, _) => self.retire(id, worker, RetireReason::Asked),
            (_, Some(reason)) => self.retire(id, worker, reason),
            (_, None) => {
                self.enter(id, SimSessionState::Releasing(worker));
                // One that hangs is killed by a clock in the end.
                let hangs = wish == Wish::ReleaseHangs;
                let wait = self.up_to(if hangs { millis(2000) } else { millis(5) });
                self.session_in_after(wait, id, SimTurn::Released);
            }
        }
    }

    fn released(&mut self, id: u64, worker: u64) {
        if self.sessions[&id].wish == Wish::ReleaseHangs && !self.calm {
            return self.dismisses(id, worker, RetireReason::TimedOut);
        }
        let facts = self.facts();
        self.note("releases", || format!("{worker} by {id}, {facts:?}"));
        self.give_back(worker, facts);
        self.over(id);
    }

    fn give_back(&mut self, number: u64, facts: ReleaseReport) {
        let now = self.now();
        self.holding.remove(&number);
        let expected = self.expected_reason(number, facts, now);
        let leased = matches!(self.worker(number).map(|w| w.believed), Some(Some(Believed::Leased(_))));
        if let Some(worker) = self.worker(number).filter(|_| leased) {
            worker.believed = Some(Believed::Idle);
            worker.idle_since = now;
            self.idle.push(number);
        }
        self.state.released(number, facts, now);
        self.settle_books();
        let ends = self.worker(number).is_none_or(|worker| worker.believed == Some(Believed::Ending));
        assert!(!leased || expected.is_none() || ends, "worker {number} is to end: {expected:?}");
    }

    /// A lease is killed.
    fn dismisses(&mut self, id: u64, number: u64, reason: RetireReason) {
        self.note("kills", || format!("{number} by {id}: {reason}"));
        self.kill(number);
        self.dismiss(number, reason);
        self.over(id);
    }

    fn dismiss(&mut self, number: u64, reason: RetireReason) {
        let now = self.now();
        self.holding.remove(&number);
        if let Some(worker) = self.worker(number)
            && let Some(believed) = &mut worker.believed
        {
            *believed = Believed::Ending;
        }
        self.state.dismiss(number, reason, now);
        self.settle_books();
    }

    fn retire(&mut self, id: u64, number: u64, reason: RetireReason) {
        let now = self.now();
        self.note("has it end", || format!("{number} by {id}: {reason}"));
        self.holding.remove(&number);
        if let Some(worker) = self.worker(number)
            && let Some(Believed::Leased(_)) = worker.believed
        {
            worker.believed = Some(Believed::Ending);
        }
        self.state.retire(number, reason, now);
        self.settle_books();
        self.over(id);
    }

    fn mourns(&mut self, id: u64, worker: u64) {
        self.enter(id, SimSessionState::AwaitingExit(worker));
        self.session_in_after(PATIENCE, id, SimTurn::MournsNoMore);
    }

    /// The worker is known to be dead, or taken to be so and killed.
    fn lost(&mut self, id: u64) {
        let Some(worker) = self.sessions[&id].worker() else { return };
        self.note("loses its worker", || format!("{worker} of {id}"));
        let Some(session) = self.sessions.remove(&id) else { return };
        let hopeless = session.false_starts >= MOST_FALSE_STARTS;
        if !(session.begun || hopeless) && session.has_call {
            let false_starts = session.false_starts + 1;
            self.ask(SimSession { stage: SimSessionState::Waiting, false_starts, ..session }, true);
        }
        // The lease is given up behind that: a pool that ends waits for it.
        self.kill(worker);
        self.dismiss(worker, RetireReason::Broken);
    }

    /// A set-up failed: the first in line that has a call is told, and leaves.
    pub(super) fn tell_first_in_line(&mut self) {
        let now = self.now();
        let first = self.state.waiting().find(|id| self.sessions[id].has_call);
        if let Some(first) = first {
            self.note("told of a failed set-up", || first.to_string());
            assert!(self.state.cancel(first, now), "it stands in line");
            self.line.retain(|waiting| *waiting != first);
            self.settle_books();
            self.over(first);
        }
    }

    /// The drain is over: whoever holds a worker loses it.
    pub(super) fn stop_sessions(&mut self) {
        let holding: Vec<(u64, u64)> = self.holding.iter().map(|(worker, id)| (*worker, *id)).collect();
        for (worker, id) in holding {
            self.dismisses(id, worker, RetireReason::PoolEnds);
        }
    }

    /// Whoever held a worker for ever is done.
    pub(super) fn wake_the_stuck(&mut self) {
        self.wake_the_hanging();
        let stuck = self.sessions.iter().filter(|(_, session)| session.wish == Wish::HoldForEver);
        let stuck: Vec<u64> = stuck.map(|(id, _)| *id).collect();
        stuck.into_iter().for_each(|id| self.session_in(id, SimTurn::Finishes));
    }
}
