//! Lanes: the path of single calls to a pool.
//!
//! Each thread that makes such calls has one lane for each pool. It holds workers, as a checkout does, and writes the calls
//! of many requesters to a worker one behind the other, without waiting for the release behind each of them. One worker is
//! filled before a second one is woken. Calls that the worker has not begun can be taken back: so none waits behind a slow
//! one while another worker is free.

mod delivery;
mod driver;
mod ending;
mod limits;
mod queue;
mod slow_alarm;
pub(crate) mod state;
mod taking_back;
#[cfg(test)]
mod tests;
mod worker;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::actors::calls::PendingCall;
use crate::actors::calls::payload::Payload;
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::bulkheads::Bulkhead;
use crate::actors::scheduler::lanes::{LanePlace, LaneSignals};
use crate::actors::scheduler::permits::Permit;
use crate::actors::scheduler::waiter::Waiter;
use crate::actors::transport::blobs::Encoded;
use crate::clock::Instant;
use crate::wire::frame::PayloadError;
use driver::{Driver, Entry};

thread_local! {
    /// The lanes of this thread, by what they are for.
    static LANES: RefCell<Vec<(Key, Weak<Lane>)>> = const { RefCell::new(Vec::new()) };
}

/// The address of a lane's scheduler, or of its bulkhead if it has one. The lane keeps them alive.
type Key = *const ();

fn key(scheduler: &Arc<Scheduler>, bulkhead: Option<&Arc<Bulkhead>>) -> Key {
    bulkhead.map_or_else(|| Arc::as_ptr(scheduler).cast(), |bulkhead| Arc::as_ptr(bulkhead).cast())
}

/// A call that was encoded.
struct LaneCall {
    call: PendingCall,
    message: Result<Encoded, PayloadError>,
    ticket: Option<Ticket>,
    permit: Option<Permit>,
}

/// The request for a worker for a call that is on its way to the lane of another thread. It keeps the call's place in the
/// queue, and the pool from ending.
pub(crate) struct Ticket {
    scheduler: Arc<Scheduler>,
    waiter: Option<Arc<Waiter>>,
}

impl Ticket {
    /// Requests a worker; `None` if the pool accepts no calls.
    pub(crate) fn new(scheduler: &Arc<Scheduler>, bulkhead: Option<&Arc<Bulkhead>>) -> Option<Self> {
        scheduler.accepts_calls().then(|| {
            scheduler.note_sent();
            let bulkhead = bulkhead.map(|bulkhead| bulkhead.id);
            let waiter = scheduler.acquire_for_lane(bulkhead, LanePlace::Last);
            Ticket { scheduler: scheduler.clone(), waiter: Some(waiter) }
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(waiter) = &self.waiter {
            drop(self.scheduler.cancel(waiter));
        }
        self.scheduler.note_arrived();
    }
}

/// The lane of one pool on one thread: for calls without a bulkhead, or for those of one bulkhead.
pub(crate) struct Lane {
    scheduler: Arc<Scheduler>,
    driver: RefCell<Driver>,
    /// Calls that were made while the driver was at work, by wakers and handlers of the user.
    arrivals: RefCell<Vec<LaneCall>>,
}

impl Lane {
    /// Returns the lane of this pool on this thread, if there is one.
    pub(crate) fn here(scheduler: &Arc<Scheduler>, bulkhead: Option<&Arc<Bulkhead>>) -> Option<Rc<Lane>> {
        let key = key(scheduler, bulkhead);
        // A thread that is ending makes no lane and finds none.
        let lane = LANES.try_with(|lanes| {
            let lanes = lanes.try_borrow().ok()?;
            let (_, lane) = lanes.iter().find(|(of, _)| *of == key)?;
            lane.upgrade()
        });
        lane.ok().flatten()
    }

    /// Returns the lane of this pool on this thread, or starts one. The caller runs on an arbiter.
    pub(crate) fn run_here(scheduler: &Arc<Scheduler>, bulkhead: Option<&Arc<Bulkhead>>) -> Rc<Lane> {
        if let Some(lane) = Self::here(scheduler, bulkhead) {
            return lane;
        }
        let signals = Arc::new(LaneSignals::at(bulkhead.map(|bulkhead| bulkhead.id)));
        scheduler.add_lane(&signals);
        let lane = Rc::new(Lane {
            scheduler: scheduler.clone(),
            driver: RefCell::new(Driver::new(scheduler.clone(), bulkhead.cloned(), signals)),
            arrivals: RefCell::default(),
        });
        let entry = (key(scheduler, bulkhead), Rc::downgrade(&lane));
        let _ = LANES.try_with(|lanes| {
            let mut lanes = lanes.borrow_mut();
            lanes.retain(|(_, lane)| lane.strong_count() > 0);
            lanes.push(entry);
        });
        actix_rt::spawn(LaneTask(lane.clone()));
        lane
    }

    /// Takes a call of this thread: writes it, queues it, or has it answered with a failure. No answer arrives in here.
    pub(crate) fn submit(&self, call: PendingCall, payload: Payload<'_>, permit: Option<Permit>) {
        match self.driver.try_borrow_mut() {
            Ok(mut driver) => {
                let entry = Entry { ticket: None, is_permitted: permit.is_some() };
                driver.submit(call, payload, entry, Instant::now());
            }
            Err(_) => {
                let message = payload.into_encoded(&self.scheduler, call.origin.baggage().len());
                self.arrivals.borrow_mut().push(LaneCall { call, message, ticket: None, permit });
            }
        }
    }

    /// Takes a call that was sent on another thread, with the request that was made for it there.
    pub(crate) fn submit_encoded(
        &self,
        call: PendingCall,
        message: Result<Encoded, PayloadError>,
        ticket: Option<Ticket>,
        permit: Option<Permit>,
    ) {
        let call = LaneCall { call, message, ticket, permit };
        match self.driver.try_borrow_mut() {
            Ok(mut driver) => call.submit_to(&mut driver, Instant::now()),
            Err(_) => self.arrivals.borrow_mut().push(call),
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut driver = self.driver.borrow_mut();
        loop {
            let polled = driver.poll(cx);
            let arrivals = std::mem::take(&mut *self.arrivals.borrow_mut());
            if arrivals.is_empty() {
                return polled;
            }
            let now = Instant::now();
            arrivals.into_iter().for_each(|call| call.submit_to(&mut driver, now));
        }
    }
}

impl LaneCall {
    fn submit_to(mut self, driver: &mut Driver, now: Instant) {
        if self.call.slot.is_abandoned() {
            // It was given up on its way, perhaps before there was a lane to look for it.
            return;
        }
        let waiter = self.ticket.as_mut().and_then(|ticket| ticket.waiter.take());
        let ticket = waiter.as_ref().map(|waiter| waiter.id);
        waiter.into_iter().for_each(|waiter| driver.adopt(waiter));
        let entry = Entry { ticket, is_permitted: self.permit.is_some() };
        driver.submit(self.call, self.message.into(), entry, now);
        // From here on the lane counts it among those that wait.
        drop((self.ticket, self.permit));
    }
}

/// The task that runs a lane. It ends with the pool, once all calls are answered.
struct LaneTask(Rc<Lane>);

impl Future for LaneTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx)
    }
}
