//! Says what user code logs, from the middle of the call.
//!
//! A record goes into the ring to the host at once, where it outlives this process; the bound on what a crash loses is
//! the record that is being written. Only the thread that runs the calls writes there. What other threads log is kept
//! and said with the next record of that thread, or ahead of the reply.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::channel::{Link, RingLink};
use crate::sys::clock;
use crate::wire::frame;
use crate::wire::record::{Logged, MOST_RECORDS, Record};
use crate::wire::work::FromWorker;

/// What is recorded of the call at hand: the highest level; 0 where there is none, or nobody reads it.
static VERBOSITY: AtomicU8 = AtomicU8::new(0);

/// The call at hand.
static CALL: AtomicU64 = AtomicU64::new(0);

/// Whether it has logged anything yet.
static HAS_LOGGED: AtomicBool = AtomicBool::new(false);

static PENDING: Mutex<Pending> = Mutex::new(Pending { bytes: Vec::new(), left: 0, left_out: 0 });

thread_local! {
    /// Set in the thread that runs the calls.
    static LINK: RefCell<Option<RingLink>> = const { RefCell::new(None) };
}

/// What is to be said of the call at hand.
struct Pending {
    bytes: Vec<u8>,
    /// Records that may still be kept.
    left: u32,
    left_out: u64,
}

fn pending() -> MutexGuard<'static, Pending> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on this thread says what is logged through this link.
pub(super) fn speak_through(link: RingLink) {
    LINK.with_borrow_mut(|place| *place = Some(link));
}

/// The highest level of what is worth recording now.
pub(super) fn verbosity() -> u8 {
    VERBOSITY.load(Ordering::Relaxed)
}

/// A call begins, of which this much is recorded. One that logs nothing costs no more than this.
pub(super) fn begin(call: u64, verbosity: u8) {
    CALL.store(call, Ordering::Relaxed);
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// The call is over; what was not said of it is said now.
pub(super) fn end() {
    if verbosity() == 0 {
        return;
    }
    VERBOSITY.store(0, Ordering::Relaxed);
    if !HAS_LOGGED.load(Ordering::Acquire) {
        return;
    }
    let mut pending = pending();
    HAS_LOGGED.store(false, Ordering::Relaxed);
    if pending.left_out > 0 {
        let left_out = Record::LeftOut(pending.left_out);
        pending.append(left_out);
    }
    pending.say();
}

/// Records what has just happened.
pub(super) fn record(record: Record) {
    let mut pending = pending();
    if !HAS_LOGGED.swap(true, Ordering::AcqRel) {
        *pending = Pending { bytes: Vec::new(), left: MOST_RECORDS, left_out: 0 };
    }
    match pending.left.checked_sub(1) {
        None => pending.left_out += 1,
        Some(left) => {
            pending.left = left;
            pending.append(record);
            pending.say();
        }
    }
}

impl Pending {
    fn append(&mut self, record: Record) {
        let logged = Logged { call: CALL.load(Ordering::Relaxed), at: clock::monotonic_nanos(), record };
        frame::append(&mut self.bytes, &FromWorker::Logged(logged));
    }

    /// Says what there is, in the thread that may.
    fn say(&mut self) {
        // Also where that thread is being taken down, or is in the middle of saying something.
        let _ = LINK.try_with(|link| {
            let Ok(mut link) = link.try_borrow_mut() else { return };
            let Some(link) = link.as_mut() else { return };
            let mut unsent = self.bytes.as_slice();
            while !unsent.is_empty() {
                match link.send(unsent) {
                    // The host is gone, and what the call says next will find that out.
                    Ok(0) | Err(_) => break,
                    Ok(count) => unsent = &unsent[count..],
                }
            }
            self.bytes.clear();
        });
    }
}
