//! The simulated sessions: each runs the machine of a real one, with the scheduler's pool state, simulated channels and
//! the simulated clock.

use std::time::Duration;

use super::channel::{SimFrame, SimReply};
use super::plan::{LIMITS, millis};
use super::requests::{SimCall, SimError};
use super::world::{SimEvent, World};
use crate::actors::calls::faults::{Fault, no_time_left};
use crate::actors::calls::limits::MAX_FALSE_STARTS;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::session::CallOptions;
use crate::actors::session::machine::{
    Action, Actions, Admission, Call, Due, DueReply, Event, Exit, Machine,
};
use crate::clock::Instant;
use crate::config::OnCancel;
use crate::failure::{Failure, FailureKind};

/// How a simulated worker breaks the protocol.
const NONSENSE: &str = "it sent nonsense";

/// What happens to a session, or to its requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimTurn {
    /// The requester sends its next call.
    Send,
    /// The session takes the next letter from its mailbox.
    Letter(Letter),
    /// The session looks at its notice, its channel and its clock.
    Look,
    /// The requester gives up a call.
    GiveUp(u64),
    Abort,
    /// The failure is described for which the session waits.
    Described,
}

/// What lies in a session's mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Letter {
    Call(u64),
    Fence(u64),
    /// The last address is dropped.
    Disconnect,
}

/// One session.
pub(super) struct SimSession {
    pub(super) machine: Machine<SimCall>,
    actions: Actions<SimCall>,
    pub(super) options: CallOptions,
    pub(super) waiter: u64,
    /// When it joined the queue.
    pub(super) joined: u64,
    pub(super) worker: Option<u64>,
    /// The frames that were written to the worker and that it may not have read.
    pub(super) unconfirmed: Vec<SimFrame>,
    /// The failure that the machine waits for, and whether it ends the checkout.
    describing: Option<(Failure, bool)>,
    /// Whether it has a mailbox, through which its fences come back.
    has_mailbox: bool,
    pub(super) is_connected: bool,
    last_letter: Duration,
    timer_at: Option<Instant>,
    /// Workers in a row that were lost before they began the first call.
    pub(super) retries: u32,
    /// Whether the machine decides whether it can use a worker that was granted.
    pub(super) is_granting: bool,
    /// The requester: how many calls it still sends, and whether it keeps the checkout until faults stop.
    pub(super) to_send: u32,
    pub(super) forever: bool,
    pub(super) last_sent: u64,
    pub(super) last_begun: u64,
    pub(super) last_reply: u64,
    pub(super) errors: Vec<SimError>,
    /// Whether the answer to the call that has failed comes next.
    pub(super) is_raising: bool,
    pub(super) fatal: Option<FailureKind>,
    pub(super) was_aborted: bool,
    /// Whether it knows that the pool is stopping.
    pub(super) is_closing: bool,
    /// Whether it has a place: it waits for a worker or holds one, and was not released.
    pub(super) has_place: bool,
}

impl World {
    pub(super) fn add_requester(&mut self) {
        // A batch that was sent to the pool has none, and no call can follow it.
        let has_mailbox = self.rng.happens(700);
        let limit = |rng: &mut crate::testing::seeded_rng::SeededRng| rng.pick(&LIMITS).map(millis);
        let options = CallOptions {
            timeout: limit(&mut self.rng),
            wait_timeout: if self.rng.happens(200) { limit(&mut self.rng) } else { None },
            idle_checkout_timeout: if self.rng.happens(200) { limit(&mut self.rng) } else { None },
            on_cancel: self.rng.pick(&[OnCancel::Finish, OnCancel::Kill]),
            keep_after_error: self.rng.happens(300),
            bulkhead: self.draw_bulkhead(),
        };
        let calls = self.rng.pick(&[0, 1, 1, 2, 5, 9]);
        let mishaps = self.plan.mishaps;
        let forever = self.draw_fault(mishaps / 8);
        self.last_session += 1;
        let id = self.last_session;
        let session = SimSession {
            machine: Machine::waiting(options),
            actions: Actions::new(),
            options,
            waiter: 0,
            joined: 0,
            worker: None,
            unconfirmed: Vec::new(),
            describing: None,
            has_mailbox,
            is_connected: has_mailbox,
            last_letter: Duration::ZERO,
            timer_at: None,
            retries: 0,
            is_granting: false,
            to_send: if has_mailbox { calls } else { 1 },
            forever: forever && has_mailbox,
            last_sent: 0,
            last_begun: 0,
            last_reply: 0,
            errors: Vec::new(),
            is_raising: false,
            fatal: None,
            was_aborted: false,
            is_closing: false,
            has_place: false,
        };
        self.sessions.insert(id, session);
        self.acquire(id, false);
        if !has_mailbox {
            // It is submitted before its session does anything else.
            self.send_next(id);
        } else {
            let wait = self.draw_wait(self.plan.hold);
            self.schedule_turn_after(wait, id, SimTurn::Send);
        }
        if self.draw_fault(mishaps / 8) {
            let wait = self.draw_wait(self.plan.hold * 3);
            self.schedule_turn_after(wait, id, SimTurn::Abort);
        }
    }

    pub(super) fn schedule_turn_after(&mut self, wait: Duration, id: u64, turn: SimTurn) {
        self.schedule_after(wait, SimEvent::Turn(id, turn));
    }

    /// Puts a letter into a session's mailbox, behind all others.
    pub(super) fn post(&mut self, id: u64, letter: Letter) {
        let wait = self.draw_delay();
        let at = self.elapsed + wait;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !session.has_mailbox {
            return self.take_letter(id, letter);
        }
        session.last_letter = session.last_letter.max(at);
        let wait = session.last_letter.saturating_sub(self.elapsed);
        self.schedule_turn_after(wait, id, SimTurn::Letter(letter));
    }

    pub(super) fn take_turn(&mut self, id: u64, turn: SimTurn) {
        if !self.sessions.contains_key(&id) {
            return;
        }
        match turn {
            SimTurn::Send => self.send_next(id),
            SimTurn::Letter(letter) => self.take_letter(id, letter),
            SimTurn::GiveUp(call) => {
                self.give_up(call);
            }
            SimTurn::Abort => {
                self.record("checkout aborted", || id.to_string());
                self.on(id, Event::Aborted("for a test".to_owned()));
            }
            SimTurn::Described => self.end_description(id),
            SimTurn::Look => {}
        }
        self.look(id);
    }

    fn take_letter(&mut self, id: u64, letter: Letter) {
        match letter {
            Letter::Call(number) => self.submit(id, number),
            Letter::Fence(number) => self.on(id, Event::FencePassed(number)),
            Letter::Disconnect => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.is_connected = false;
                }
            }
        }
    }

    /// Submits a call, as a real session does.
    fn submit(&mut self, id: u64, number: u64) {
        let call = self.sim_call(number);
        if call.is_abandoned() {
            // actix drops a message from the mailbox whose sender no longer waits.
            return;
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let limit = call.limit();
        let admission = session.machine.admit(limit, &mut session.actions);
        self.act(id);
        let refused = matches!(admission, Admission::Refuse(_));
        // P12
        assert!(refused || !self.sessions[&id].is_closing, "a stopping pool takes no call");
        match admission {
            Admission::Refuse(answer) => self.record_answer(id, call, &answer),
            Admission::Write => self.write(id, call),
            Admission::Queue => {
                self.mark_call(id);
                self.on(id, Event::Queued { call, message: () });
            }
        }
    }

    /// Notes for the scheduler that a call is queued on the checkout.
    fn mark_call(&mut self, id: u64) {
        let waiter = self.sessions[&id].waiter;
        if let Some(waiter) = self.waiters.get_mut(&waiter) {
            waiter.has_call = true;
        }
    }

    fn write(&mut self, id: u64, call: SimCall) {
        let now = self.now();
        self.check_write(call.number);
        let bytes = self.rng.pick(&[64, 64, 300_000]);
        let Some(session) = self.sessions.get(&id) else { return };
        let Some(worker) = session.worker else { panic!("a call is written to a worker that is held") };
        let frame = session.machine.frame_of(&call, now);
        let frame = SimFrame::Call { id: frame.id, call: call.number, errors_seen: frame.errors_seen };
        if !session.machine.has_replied() {
            self.mark_call(id);
        }
        self.on(id, Event::Written { call, bytes });
        self.send_frame(id, worker, frame);
    }

    fn send_frame(&mut self, id: u64, worker: u64, frame: SimFrame) {
        if let Some(session) = self.sessions.get_mut(&id)
            && !session.machine.has_replied()
        {
            session.unconfirmed.push(frame);
        }
        self.send(worker, frame);
    }

    /// Passes an event to the machine of a session and carries out what that wants done.
    pub(super) fn on(&mut self, id: u64, event: Event<SimCall>) {
        let now = self.now();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.machine.on(event, now, &mut session.actions);
        self.act(id);
    }

    fn act(&mut self, id: u64) {
        while let Some(action) = self.sessions.get_mut(&id).and_then(|session| session.actions.pop_front()) {
            self.carry_out_for(id, action);
        }
    }

    fn carry_out_for(&mut self, id: u64, action: Action<SimCall>) {
        match action {
            Action::Answer(call, answer) => self.record_answer(id, call, &answer),
            Action::SendFence(number) => self.send_fence(id, number),
            Action::Acquire { again } => self.acquire(id, again),
            Action::LeaveQueue => self.leave_queue(id),
            Action::ConfirmRead => {
                let Some(session) = self.sessions.get_mut(&id) else { return };
                session.unconfirmed.clear();
                session.retries = 0;
            }
            Action::Release => {
                if let Some(worker) = self.sessions[&id].worker {
                    self.send_frame(id, worker, SimFrame::Release);
                }
            }
            Action::GiveBack { report, .. } => self.give_back_lease(id, report),
            Action::Retire(reason) => self.retire_lease(id, reason),
            Action::Kill { reason, resend } => {
                self.count_retry(id, resend);
                self.kill_lease(id, reason);
            }
            Action::CountHold(_) => {}
            Action::Fail { fault, .. } => self.fail(id, fault),
            Action::FailWait { limit, .. } => {
                self.leave_queue(id);
                self.describe(id, Failure::of(FailureKind::Timeout, "").at_limit(limit), true);
            }
            Action::Complete(failure) => self.describe(id, failure, false),
            Action::Abort { was_waiting, .. } => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.describing = None;
                    session.was_aborted = true;
                    session.fatal.get_or_insert(FailureKind::Aborted);
                }
                self.kill_lease(id, RetireReason::Aborted);
                if was_waiting {
                    self.leave_queue(id);
                }
                let failure = Failure::of(FailureKind::Aborted, "");
                self.on(id, Event::AbortDescribed { of_first: Some(failure.clone()), failure });
            }
            Action::ForgetWritten => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.unconfirmed.clear();
                }
            }
        }
    }

    fn send_fence(&mut self, id: u64, number: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.errors.push(SimError { call: 0, last_sent: session.last_sent });
        session.is_raising = matches!(session.actions.front(), Some(Action::Answer(..)));
        if !session.has_mailbox {
            self.on(id, Event::FencePassed(number));
        } else {
            self.post(id, Letter::Fence(number));
        }
    }

    /// C4: counts a worker that was lost before it began a call; no call may be sent to more than ten of them.
    fn count_retry(&mut self, id: u64, resend: bool) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !resend {
            return;
        }
        // A worker that was not used counts only if it was at fault.
        session.retries += u32::from(!session.is_granting);
        assert!(session.retries <= MAX_FALSE_STARTS, "a call is sent to ten workers at most");
        if let Some(SimFrame::Call { call, .. }) = session.unconfirmed.first().copied() {
            self.record("call sent again", || call.to_string());
            assert_eq!(self.calls[&call].runs, 0, "call {call} has run and is sent again");
        }
    }

    fn fail(&mut self, id: u64, fault: Fault) {
        if let Fault::BrokeProtocol(what) = &fault {
            assert_eq!(what, NONSENSE, "a worker that keeps to the protocol breaks nothing");
        }
        let kind = match &fault {
            Fault::TimedOut(_) => FailureKind::Timeout,
            Fault::Cancelled => FailureKind::Cancelled,
            Fault::Panicked(..) => FailureKind::Panic,
            Fault::BrokeProtocol(_) => FailureKind::Protocol,
            Fault::Exited(Some(ExitReport::Killed)) => FailureKind::Aborted,
            Fault::Exited(_) => FailureKind::Died,
        };
        // T4
        let replied = self.lease_of(id).is_some_and(|lease| !lease.outbox.is_empty());
        assert!(kind != FailureKind::Timeout || !replied, "a reply that can be read wins over a time limit");
        self.kill_lease(id, fault.retire_reason());
        self.describe(id, Failure::of(kind, ""), true);
    }

    /// Describes a failure, at once or after a while.
    fn describe(&mut self, id: u64, failure: Failure, is_fatal: bool) {
        let at_once = self.rng.happens(700);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.describing = Some((failure, is_fatal));
        if at_once {
            return self.end_description(id);
        }
        let wait = self.draw_delay();
        self.schedule_turn_after(wait, id, SimTurn::Described);
    }

    fn end_description(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let Some((failure, is_fatal)) = session.describing.take() {
            if is_fatal {
                session.fatal.get_or_insert(failure.kind());
            }
            self.on(id, Event::FailureDescribed(failure));
        }
    }

    /// Does all that a session can do now, as a real one does when it is polled.
    fn look(&mut self, id: u64) {
        while let Some(session) = self.sessions.get_mut(&id) {
            if session.describing.is_some() {
                return;
            }
            if self.take_notice(id)
                || self.write_queued(id)
                || self.read(id)
                || self.cancel_running(id)
                || self.drop_given_up(id)
                || self.fire_deadline(id)
            {
                continue;
            }
            let Some(session) = self.sessions.get(&id) else { return };
            if !session.machine.is_done(!session.is_connected) {
                break;
            }
            let ends = session.worker.and_then(|worker| self.decide_retirement(worker));
            self.on(id, Event::Finished { ends });
        }
        let Some(session) = self.sessions.get(&id) else { return };
        if session.machine.is_over(!session.is_connected) {
            return self.end_session(id);
        }
        self.show_calls(id);
        self.schedule_deadline(id);
    }

    /// Kills the worker if the requester of the running call has given it up; returns whether it did.
    fn cancel_running(&mut self, id: u64) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        let cancels = session.options.on_cancel == OnCancel::Kill && session.machine.has_running();
        let machine = &session.machine;
        let given_up = cancels && machine.first().is_some_and(Call::is_abandoned) && machine.holds_worker();
        if given_up {
            self.on(id, Event::Cancelled);
        }
        given_up
    }

    fn write_queued(&mut self, id: u64) -> bool {
        let now = self.now();
        let next = self.sessions.get_mut(&id).and_then(|session| session.machine.next_to_write(now));
        let Some((call, ())) = next else { return false };
        self.write(id, call);
        true
    }

    /// Reads the next frame of the worker; returns whether there was one, or the end of the channel.
    pub(super) fn read(&mut self, id: u64) -> bool {
        let Some(session) = self.sessions.get(&id).filter(|session| session.machine.reads_frames()) else {
            return false;
        };
        let Some(number) = session.worker else { return false };
        let is_alive = self.workers.get(&number).is_some_and(|worker| worker.is_alive());
        let Some(lease) = self.leases.get_mut(&number) else { return false };
        let event = match lease.outbox.pop_front() {
            Some(SimReply::Reply { id: call, outcome, keep, stop }) => {
                let ran = session.machine.due(call);
                assert!(matches!(ran, Some(DueReply::Call(_) | DueReply::AlreadyCleared)), "replies are due");
                Event::Replied { id: call, meaning: outcome.meaning(), keep, stop }
            }
            Some(SimReply::Released(report)) => Event::Released(report),
            Some(SimReply::Nonsense) => Event::ProtocolBroken(NONSENSE.into()),
            None if is_alive && !lease.closed => return false,
            None => Event::ChannelEnded,
        };
        self.on(id, event);
        true
    }

    fn fire_deadline(&mut self, id: u64) -> bool {
        let now = self.now();
        let deadline = self.sessions.get(&id).and_then(|session| session.machine.next_deadline());
        let Some(limit) = deadline.filter(|limit| limit.at <= now) else { return false };
        self.record("deadline", || format!("{:?} of {id}", limit.due));
        match limit.due {
            Due::Exit => self.report_exit(id, None),
            Due::Holding(limit) => {
                let Some(session) = self.sessions.get_mut(&id) else { return false };
                session.fatal = Some(FailureKind::Timeout);
                let worker = session.worker;
                let ends = worker.and_then(|worker| self.decide_retirement(worker));
                let failure = no_time_left().at_limit(limit);
                self.on(id, Event::Reclaimed { failure, ends });
            }
            due => self.on(id, Event::Expired { due, late: now.saturating_duration_since(limit.at) }),
        }
        true
    }

    /// Reports to a session that its worker has ended, as far as is known.
    pub(super) fn report_exit(&mut self, id: u64, report: Option<ExitReport>) {
        let sees = self.rng.happens(900);
        let Some(session) = self.sessions.get(&id) else { return };
        let is_connected = session.is_connected;
        let seen_begun = self.lease_of(id).map(|lease| lease.begun).filter(|_| sees);
        let worker = session.worker.and_then(|number| self.workers.get(&number));
        let gone = worker.is_none_or(|worker| !worker.is_alive());
        let report = report.or(gone.then_some(ExitReport::Unknown));
        self.on(id, Event::Exited(Exit { report, seen_begun, is_connected }));
    }

    fn schedule_deadline(&mut self, id: u64) {
        let now = self.now();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(limit) = session.machine.next_deadline() else { return };
        if session.timer_at.is_some_and(|at| now < at && at <= limit.at) {
            return;
        }
        session.timer_at = Some(limit.at);
        self.schedule_turn_after(limit.at.saturating_duration_since(now), id, SimTurn::Look);
    }
}
