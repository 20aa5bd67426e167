//! The simulated requesters and their calls, and what must hold for every call whatever happens.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::session::{Letter, SimSession, SimTurn};
use super::worker::ExpectedState;
use super::world::World;
use crate::actors::scheduler::state::PoolPhase;
use crate::actors::session::machine::{Answer, Call};
use crate::clock::Instant;
use crate::failure::FailureKind;

/// A call as the machine sees it.
pub(super) struct SimCall {
    pub(super) number: u64,
    limit: Option<Duration>,
    is_abandoned: Rc<Cell<bool>>,
}

impl Call for SimCall {
    type Message = ();

    fn limit(&self) -> Option<Duration> {
        self.limit
    }

    fn is_abandoned(&self) -> bool {
        self.is_abandoned.get()
    }
}

/// What is known of one call. The numbers of a session's calls rise in the order in which they were sent.
pub(super) struct CallRecord {
    pub(super) session: u64,
    sent_at: Instant,
    limit: Option<Duration>,
    is_abandoned: Rc<Cell<bool>>,
    /// Whether it was given up before it was written.
    was_abandoned_early: bool,
    is_written: bool,
    pub(super) runs: u32,
    answers: u32,
}

/// An error that a session has delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimError {
    /// The call that failed; 0 if there was none.
    pub(super) call: u64,
    /// The last call that was sent before its requester could know of the error.
    pub(super) last_sent: u64,
}

impl SimError {
    fn clears(self, call: u64) -> bool {
        self.call < call && call <= self.last_sent
    }
}

impl World {
    /// Lets a requester send its next call, or drop its address after the last one.
    pub(super) fn send_next(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.to_send == 0 {
            if session.forever && !self.calm {
                return;
            }
            return self.post(id, Letter::Disconnect);
        }
        session.to_send -= 1;
        self.last_call += 1;
        let number = self.last_call;
        let (now, own) = (self.now(), self.rng.happens(300));
        let limit = if own { self.rng.pick(&super::plan::LIMITS).map(super::plan::millis) } else { None };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let limit = if own { limit } else { session.options.timeout };
        session.last_sent = number;
        let is_abandoned = Rc::new(Cell::new(false));
        self.calls.insert(
            number,
            CallRecord {
                session: id,
                sent_at: now,
                limit,
                is_abandoned,
                was_abandoned_early: false,
                is_written: false,
                runs: 0,
                answers: 0,
            },
        );
        self.record("call sent", || format!("{number} to {id}, limit {limit:?}"));
        self.post(id, Letter::Call(number));
        let wait = self.draw_wait(self.plan.hold);
        self.schedule_turn_after(wait, id, SimTurn::Send);
        let impatient = self.plan.impatient;
        if self.draw_fault(impatient / 2) {
            let wait = self.draw_wait(self.plan.hold * 2);
            self.schedule_turn_after(wait, id, SimTurn::GiveUp(number));
        }
    }

    /// Returns the call with this number for the machine.
    pub(super) fn sim_call(&self, number: u64) -> SimCall {
        let record = &self.calls[&number];
        SimCall { number, limit: record.limit, is_abandoned: record.is_abandoned.clone() }
    }

    /// C9: a requester drops the future of a call that the session has.
    pub(super) fn give_up(&mut self, number: u64) {
        let Some(record) = self.calls.get_mut(&number).filter(|record| record.answers == 0) else { return };
        record.is_abandoned.set(true);
        record.was_abandoned_early = !record.is_written;
        self.record("call given up", || number.to_string());
    }

    /// C9: drops the first call if it waits for a worker and was given up, and no further call can come; returns whether it did.
    pub(super) fn drop_given_up(&mut self, id: u64) -> bool {
        let now = self.now();
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        !session.is_connected && session.machine.is_waiting() && session.machine.drop_abandoned_first(now)
    }

    /// C9: checks that a call may be written.
    pub(super) fn check_write(&mut self, number: u64) {
        let Some(record) = self.calls.get_mut(&number) else { panic!("call {number} is known") };
        assert!(!record.was_abandoned_early, "call {number} is written after it was given up");
        assert_eq!(record.answers, 0, "call {number} is written after its answer");
        record.is_written = true;
    }

    /// C2, C4, C9, E3, P8: checks that a worker may begin a call.
    pub(super) fn check_begin(&mut self, worker: u64, number: u64) {
        let leased = matches!(self.workers[&worker].expected_state, Some(ExpectedState::Leased(_)));
        let Some(record) = self.calls.get_mut(&number) else { panic!("call {number} is known") };
        record.runs += 1;
        assert_eq!(record.runs, 1, "call {number} runs once at most");
        assert!(!record.was_abandoned_early, "call {number} runs although it was given up before");
        let answered = record.answers > 0;
        let id = record.session;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !leased {
            return;
        }
        assert!(!answered, "call {number} runs after its answer");
        assert!(session.last_begun < number, "call {number} runs after call {}", session.last_begun);
        session.last_begun = number;
        let cleared = session.errors.iter().any(|error| error.clears(number));
        assert!(!cleared, "call {number} runs although an error cleared it: {:?}", session.errors);
        self.record("call begun", || format!("{number} on {worker}"));
    }

    /// C4: records the answer to a call, and checks it.
    pub(super) fn record_answer(&mut self, id: u64, call: SimCall, answer: &Answer) {
        let (number, now) = (call.number, self.now());
        drop(call);
        self.record(
            match answer {
                Answer::Value => "call succeeds",
                Answer::Error => "call returns an error",
                Answer::Payload { .. } => "call has no payload",
                Answer::Stopped => "call answered Stopped",
                Answer::Failure(failure) => name_of(failure.kind()),
            },
            || format!("{number} of {id}"),
        );
        let Some(record) = self.calls.get_mut(&number) else { panic!("call {number} is known") };
        record.answers += 1;
        assert_eq!(record.answers, 1, "call {number} is answered once");
        assert_eq!(record.session, id);
        let (runs, late) =
            (record.runs, record.limit.map(|limit| now.saturating_duration_since(record.sent_at) >= limit));
        let phase = self.state.phase();
        let Some(session) = self.sessions.get_mut(&id) else { panic!("session {id} is known") };
        let kind = match answer {
            Answer::Failure(failure) => Some(failure.kind()),
            Answer::Stopped => Some(FailureKind::Stopped),
            Answer::Value | Answer::Error | Answer::Payload { .. } => None,
        };
        let raises = session.is_raising;
        session.check_order(number, kind, runs);
        match kind {
            Some(FailureKind::Cleared) => {
                let behind = session.errors.iter().any(|error| error.clears(number));
                assert!(
                    behind,
                    "call {number} is cleared without an error ahead of it: {:?}",
                    session.errors
                );
                assert_eq!(runs, 0, "call {number} has run and is cleared");
            }
            // P12
            Some(FailureKind::Stopped) => {
                assert!(
                    phase == PoolPhase::Stopping || phase == PoolPhase::Closing && !session.has_place,
                    "a closing pool serves who waits or holds a worker"
                );
            }
            // T1, T6
            Some(FailureKind::Timeout) if raises && session.options.wait_timeout.is_none() => {
                assert_eq!(late, Some(true), "call {number} times out before its limit");
            }
            _ => {}
        }
    }

    /// C4: checks what must hold for calls after the last event.
    pub(super) fn check_calls(&self) {
        for (number, record) in &self.calls {
            let answered = record.answers == 1 || record.is_abandoned.get();
            assert!(answered, "call {number} of session {} has an answer", record.session);
            assert!(record.runs == 0 || record.is_written);
        }
    }
}

impl SimSession {
    /// C2, E5: checks that replies come in order, and that a fatal failure answers all later calls.
    fn check_order(&mut self, number: u64, kind: Option<FailureKind>, runs: u32) {
        if kind.is_none() {
            assert_eq!(runs, 1, "call {number} has a reply and has run");
            assert!(
                self.last_reply < number,
                "the reply to {number} comes after that to {}",
                self.last_reply
            );
            assert_eq!(self.fatal, None, "no reply comes after the end of the checkout");
            self.last_reply = number;
        }
        if let (Some(fatal), Some(kind)) = (self.fatal, kind) {
            let known = kind == fatal || kind == FailureKind::Cleared;
            assert!(known, "call {number} is answered {kind:?} after {fatal:?}");
            // An abort waits for no fence.
            let early = !self.is_raising && kind != FailureKind::Cleared && !self.was_aborted;
            let cleared = early && self.errors.iter().any(|error| error.clears(number));
            assert!(!cleared, "call {number} was sent before {kind:?} was known: {:?}", self.errors);
        }
        if std::mem::take(&mut self.is_raising)
            && kind != Some(FailureKind::Cleared)
            && let Some(error) = self.errors.last_mut()
        {
            error.call = number;
        }
    }
}

fn name_of(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Cleared => "call answered Cleared",
        FailureKind::Timeout => "call answered Timeout",
        FailureKind::Died => "call answered Died",
        FailureKind::Panic => "call answered Panic",
        FailureKind::Protocol => "call answered Protocol",
        FailureKind::Aborted => "call answered Aborted",
        FailureKind::Cancelled => "call answered Cancelled",
        FailureKind::Stopped => "call answered Stopped",
        FailureKind::Setup => "call answered Setup",
        FailureKind::Overloaded => "call answered Overloaded",
        _ => "call answered otherwise",
    }
}
