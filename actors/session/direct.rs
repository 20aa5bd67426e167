//! Sessions that are called directly: a call is written by its requester's own code, on the thread of the session, without
//! a mailbox in between.
//!
//! A direct session stays on the thread of its first call and runs there as a task. Only its place is known to the
//! checkout's handle, which may move to another thread and does not find the session from there. A batch to the pool is a
//! direct session that is closed at once.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use actix::{Arbiter, ArbiterHandle};
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Host, PendingSession, Session};
use crate::actors::calls::PendingCall;
use crate::actors::calls::payload::Payload;
use crate::actors::reply::LocalSlots;
use crate::actors::scheduler::Scheduler;
use crate::actors::transport::blobs::Encoded;
use crate::wire::frame::PayloadError;

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static SESSIONS: RefCell<Sessions> = const { RefCell::new(Sessions { all: Vec::new(), free: Vec::new() }) };
}

/// The direct sessions of a thread.
struct Sessions {
    all: Vec<Option<Rc<DirectSession>>>,
    /// The indices in `all` that are free.
    free: Vec<usize>,
}

impl Sessions {
    fn insert(&mut self, new: impl FnOnce(usize) -> DirectSession) {
        let index = self.free.pop().unwrap_or(self.all.len());
        if index == self.all.len() {
            self.all.push(None);
        }
        self.all[index] = Some(Rc::new(new(index)));
    }

    fn find(&self, place: SessionPlace) -> Option<&Rc<DirectSession>> {
        self.all.get(place.index)?.as_ref().filter(|session| session.place.number == place.number)
    }

    fn remove(&mut self, place: SessionPlace) -> Option<Rc<DirectSession>> {
        self.find(place)?;
        self.free.push(place.index);
        self.all[place.index].take()
    }
}

/// Where a direct session is: on one thread, under this index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionPlace {
    index: usize,
    /// Unique in the process, so that the place is found on the session's own thread alone.
    number: u64,
}

/// What a checkout's handle and the task of its session share, whichever threads they are on.
#[derive(Default)]
pub(crate) struct Control {
    /// Whether the handle was dropped, so that no further call can come.
    is_closed: AtomicBool,
    /// Whether the session has ended before its handle was dropped.
    is_ended: AtomicBool,
    signals: Mutex<Signals>,
}

#[derive(Default)]
struct Signals {
    /// The task of the session.
    waker: Option<Waker>,
    /// The reason of an abort from another thread.
    abort: Option<String>,
    /// Whether the task can never run on the session's thread.
    is_misplaced: bool,
    /// Tasks with calls, as long as the session's task has not run.
    early: Vec<Waker>,
}

impl Control {
    /// Notes that no further call comes: the worker is released once all calls are answered.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.wake();
    }

    /// Has the session aborted when its task runs next.
    pub(crate) fn abort(&self, reason: String) {
        self.signals.lock().abort = Some(reason);
        self.wake();
    }

    /// Returns whether the session has ended, so that calls are answered no more.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    fn wake(&self) {
        let waker = self.signals.lock().waker.clone();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Notes that the session's task can never run on the session's thread.
    fn misplace(&self) {
        let mut signals = self.signals.lock();
        signals.is_misplaced = true;
        let early = std::mem::take(&mut signals.early);
        drop(signals);
        early.into_iter().for_each(Waker::wake);
    }

    /// Returns whether the session's task can never run on the session's thread; has this task woken when that is known.
    fn is_misplaced(&self, cx: &Context<'_>) -> bool {
        let mut signals = self.signals.lock();
        if !signals.is_misplaced {
            signals.early.push(cx.waker().clone());
        }
        signals.is_misplaced
    }
}

/// What happened while the session was at work, in this order.
enum Arrival {
    Call {
        call: PendingCall,
        message: Result<Encoded, PayloadError>,
    },
    /// An error is known from here on; see [`Host::send_fence`].
    Fence(u64),
    Abort(String),
}

/// A session that is called directly on its thread.
pub(crate) struct DirectSession {
    place: SessionPlace,
    scheduler: Arc<Scheduler>,
    control: Arc<Control>,
    /// `None` once it has ended.
    session: RefCell<Option<Session>>,
    /// What came while the session was at work, from wakers and handlers of the user, or behind such an arrival.
    arrivals: RefCell<VecDeque<Arrival>>,
    waker: RefCell<Option<Waker>>,
    /// Whether the task was woken since it was polled last.
    is_woken: Cell<bool>,
    /// Whether the task has run on this thread.
    is_attached: Cell<bool>,
    /// The reply slots of each message's calls, by the message's index in the interface.
    slots: RefCell<Vec<Option<Rc<dyn Any>>>>,
}

impl DirectSession {
    /// Starts a session on this thread, of which this is the executor.
    pub(crate) fn start(executor: Executor, pending: PendingSession, control: &Arc<Control>) -> SessionPlace {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let scheduler = pending.scheduler().clone();
        let mut place = SessionPlace { index: 0, number };
        SESSIONS.with_borrow_mut(|sessions| {
            sessions.insert(|index| {
                place.index = index;
                DirectSession {
                    place,
                    scheduler,
                    control: control.clone(),
                    session: RefCell::new(Some(pending.start())),
                    arrivals: RefCell::default(),
                    waker: RefCell::default(),
                    is_woken: Cell::new(true),
                    is_attached: Cell::new(false),
                    slots: RefCell::default(),
                }
            });
        });
        executor.run(DirectTask { place, control: control.clone() });
        place
    }

    /// Returns the session at this place; `None` if it has ended or belongs to another thread.
    pub(crate) fn find(place: SessionPlace) -> Option<Rc<Self>> {
        // A thread that is ending has none.
        let found = SESSIONS.try_with(|sessions| {
            let sessions = sessions.try_borrow().ok()?;
            sessions.find(place).cloned()
        });
        found.ok().flatten()
    }

    /// Ends the session at this place, if it is on this thread: calls that are not answered get no answer.
    fn end(place: SessionPlace) {
        let Some(found) = Self::find(place) else { return };
        let _ = SESSIONS.try_with(|sessions| sessions.borrow_mut().remove(place));
        found.control.is_ended.store(true, Ordering::Release);
        let session = found.session.try_borrow_mut().ok().and_then(|mut session| session.take());
        drop(session);
        let arrivals = std::mem::take(&mut *found.arrivals.borrow_mut());
        drop(arrivals);
    }

    pub(crate) fn scheduler(&self) -> &Arc<Scheduler> {
        &self.scheduler
    }

    /// Takes a worker that was lent at once, ahead of the first call, so that this is written at once. The session has
    /// no call yet, so it answers none in here.
    pub(crate) fn take_grant(&self) {
        // A worker's channel is registered with this thread's reactor, and not with that of a runtime of many threads that
        // was entered here.
        let is_here = |runtime: Handle| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        if Handle::try_current().is_ok_and(is_here)
            && let Ok(mut session) = self.session.try_borrow_mut()
            && let Some(session) = &mut *session
        {
            session.take_grant(&mut Arrivals(self));
        }
    }

    /// Takes a call of this thread: writes it, or queues it. No answer arrives in here.
    pub(crate) fn submit(&self, call: PendingCall, payload: Payload<'_>) {
        if !self.arrivals.borrow().is_empty() {
            return self.queue(call, payload);
        }
        match self.session.try_borrow_mut() {
            Ok(mut session) => match &mut *session {
                // A pool that is being stopped may have told the session, which sees it at the next poll.
                Some(session) if !session.is_refused() && self.scheduler.accepts_calls() => {
                    session.submit_directly(call, payload, &mut Arrivals(self));
                }
                Some(_) => self.queue(call, payload),
                // The call is dropped, which its future notices.
                None => {}
            },
            Err(_) => self.queue(call, payload),
        }
        self.wake();
    }

    fn queue(&self, call: PendingCall, payload: Payload<'_>) {
        let message = payload.into_encoded(&self.scheduler, call.origin.baggage().len());
        self.arrivals.borrow_mut().push_back(Arrival::Call { call, message });
        self.wake();
    }

    /// Ends the checkout: calls that are made from now on come behind the abort.
    pub(crate) fn abort(&self, reason: String) {
        self.arrivals.borrow_mut().push_back(Arrival::Abort(reason));
        self.wake();
    }

    /// Has the task run soon.
    pub(crate) fn wake(&self) {
        if !self.is_woken.replace(true) {
            self.waker.borrow().iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Looks for the answer to the only call there is, for a short time.
    pub(crate) fn look(&self) {
        if let Ok(mut session) = self.session.try_borrow_mut()
            && let Some(session) = &mut *session
            && session.look(&mut Arrivals(self))
        {
            self.wake();
        }
    }

    /// Returns whether the session can never run on this thread, and ends it then.
    pub(crate) fn is_misplaced(&self, cx: &Context<'_>) -> bool {
        let is_misplaced = !self.is_attached.get() && self.control.is_misplaced(cx);
        if is_misplaced {
            Self::end(self.place);
        }
        is_misplaced
    }

    /// Returns the reply slots of the calls of the message with this index, whose result has this type.
    pub(crate) fn slots<T: 'static, E: 'static>(&self, method: u32) -> Rc<LocalSlots<T, E>> {
        let index = usize::try_from(method).unwrap_or(usize::MAX);
        let mut slots = self.slots.borrow_mut();
        let known = slots.get(index).cloned().flatten();
        // The slots at a message's index have the message's type, since only this function puts slots there.
        if let Some(known) = known.and_then(|known| known.downcast().ok()) {
            return known;
        }
        let new = Rc::new(LocalSlots::<T, E>::default());
        let length = slots.len().max(index.saturating_add(1));
        slots.resize(length, None);
        slots[index] = Some(new.clone());
        new
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.is_woken.set(false);
        self.attach(cx.waker());
        let Ok(mut session) = self.session.try_borrow_mut() else { return Poll::Pending };
        let Some(session) = &mut *session else { return Poll::Ready(()) };
        let host = &mut Arrivals(self);
        loop {
            let polled = session.poll(cx, host);
            if self.arrivals.borrow().is_empty() {
                return polled;
            }
            // One at a time: an error that one of them raises concerns those that came behind it.
            while let Some(arrival) = self.next_arrival() {
                match arrival {
                    Arrival::Call { call, message } => session.submit(call, message.into(), host),
                    Arrival::Fence(number) => session.pass_fence(number, host),
                    Arrival::Abort(reason) => session.abort(reason, host),
                }
            }
        }
    }

    fn next_arrival(&self) -> Option<Arrival> {
        self.arrivals.borrow_mut().pop_front()
    }

    /// Notes which task runs the session, and takes what was wanted from another thread.
    fn attach(&self, waker: &Waker) {
        self.is_attached.set(true);
        let mut signals = self.control.signals.lock();
        let abort = signals.abort.take();
        if !signals.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            signals.waker = Some(waker.clone());
            signals.early = Vec::new();
            *self.waker.borrow_mut() = Some(waker.clone());
        }
        drop(signals);
        self.arrivals.borrow_mut().extend(abort.map(Arrival::Abort));
    }
}

/// The [`Host`] of a direct session: what arrives while the session is at work waits in place of a mailbox.
struct Arrivals<'a>(&'a DirectSession);

impl Host for Arrivals<'_> {
    fn is_connected(&self) -> bool {
        !self.0.control.is_closed.load(Ordering::Acquire)
    }

    /// A call that waits here was made before the error was known to its requester.
    fn send_fence(&mut self, number: u64) -> bool {
        let mut arrivals = self.0.arrivals.borrow_mut();
        if arrivals.is_empty() {
            return false;
        }
        arrivals.push_back(Arrival::Fence(number));
        true
    }
}

impl Session {
    /// Accepts one call of this thread: writes it, queues it or has it refused at the next poll. The worker gets it at
    /// once if it has nothing to do, unless it sleeps and others will follow, and otherwise with others.
    fn submit_directly(&mut self, call: PendingCall, payload: Payload<'_>, host: &mut dyn Host) {
        let (was_idle, follow) = (!self.machine.expects_reply(), self.answered > 1);
        self.take_call(call, payload, host);
        if let Some(channel) = self.channel() {
            if was_idle { channel.write_first(follow) } else { channel.write_soon() }
        }
    }

    fn take_grant(&mut self, host: &mut dyn Host) {
        if let Some(notice) = self.waiter.take_notice() {
            self.handle_notice(notice, host);
        }
    }

    fn is_refused(&self) -> bool {
        self.machine.is_refused()
    }

    /// Looks for the reply to the only call there is, for a short time, and answers the call; returns whether anything has
    /// arrived.
    fn look(&mut self, host: &mut dyn Host) -> bool {
        let is_alone = self.machine.reads_frames() && self.machine.runs_one_call();
        is_alone && self.channel().is_some_and(|channel| channel.look()) && self.read_now(host)
    }
}

/// What runs the tasks of a thread, all of them on this thread.
pub(crate) enum Executor {
    Arbiter(ArbiterHandle),
    Runtime(Handle),
}

impl Executor {
    /// Returns that of this thread; `None` if it has neither an arbiter nor a runtime that runs all its tasks on one thread.
    pub(crate) fn here() -> Option<Self> {
        if let Some(executor) = Self::of_arbiter() {
            return Some(executor);
        }
        let runtime = Handle::try_current().ok()?;
        let is_here = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        is_here.then_some(Executor::Runtime(runtime))
    }

    /// Returns this thread's arbiter; `None` if it has none or that has ended.
    pub(crate) fn of_arbiter() -> Option<Self> {
        Arbiter::try_current().filter(ArbiterHandle::alive).map(Executor::Arbiter)
    }

    fn run(self, task: DirectTask) {
        match self {
            // An arbiter that has ended drops the task.
            Executor::Arbiter(arbiter) => {
                arbiter.spawn(task);
            }
            Executor::Runtime(runtime) => drop(runtime.spawn(task)),
        }
    }
}

/// The task that runs a direct session. It may be sent, and finds the session on the session's own thread only.
struct DirectTask {
    place: SessionPlace,
    control: Arc<Control>,
}

impl Future for DirectTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        DirectSession::find(self.place).map_or(Poll::Ready(()), |session| session.poll(cx))
    }
}

/// The task has ended, or its runtime has.
impl Drop for DirectTask {
    fn drop(&mut self) {
        DirectSession::end(self.place);
        self.control.is_ended.store(true, Ordering::Release);
        self.control.misplace();
    }
}
