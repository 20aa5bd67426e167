//! Says what user code logs, from the middle of the call.
//!
//! A record goes into the ring to the host at once, where it outlives this process; the bound on what a crash loses is
//! the record that is being written. Only the thread that runs the calls writes there. What other threads log is kept
//! and said with the next record of that thread, or ahead of the reply. What is logged between calls is dropped.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::channel::{AnyWorkerIo, WorkerIo};
use crate::sys::clock;
use crate::sys::memory::OnlyHere;
use crate::wire::call::FromWorker;
use crate::wire::frame;
use crate::wire::log_record::{Logged, MOST_RECORDS, Record};

/// The highest level that is recorded of the call at hand; 0 where there is none, or nobody reads it. A hint to threads
/// that do not run the calls: what holds is decided under the lock.
static VERBOSITY: AtomicU8 = AtomicU8::new(0);

static PENDING: Mutex<Pending> = Mutex::new(Pending::new());

thread_local! {
    /// Set in the thread that runs the calls.
    static LINK: RefCell<Option<(AnyWorkerIo, OnlyHere)>> = const { RefCell::new(None) };
}

/// What is to be said of the call at hand.
struct Pending {
    call: Option<u64>,
    /// The number of the call in this worker's life: calls of other checkouts go by the same numbers.
    turn: u64,
    bytes: Vec<u8>,
    /// Records that may still be said.
    left: u32,
    left_out: u64,
}

/// A span's begin was said, in this turn; its end will have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn(u64);

fn pending() -> MutexGuard<'static, Pending> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on this thread, in the process that the mark tells from its copies, says what is logged through this link.
pub(super) fn speak_through(io: AnyWorkerIo, original: OnlyHere) {
    LINK.with_borrow_mut(|place| *place = Some((io, original)));
}

/// The highest level of what is worth recording now.
pub(super) fn verbosity() -> u8 {
    VERBOSITY.load(Ordering::Relaxed)
}

/// A call begins, of which this much is recorded. One that logs nothing costs no more than this.
pub(super) fn begin(call: u64, verbosity: u8) {
    pending().begin(call);
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// The call is over; what was not said of it is said now.
pub(super) fn end() {
    if verbosity() != 0 {
        VERBOSITY.store(0, Ordering::Relaxed);
        pending().end();
    }
}

/// Records what has just happened.
pub(super) fn record(record: Record) {
    pending().take(record, 1);
}

/// Records the begin of a span, and keeps room for its end; `None` where nobody is to hear of it.
pub(super) fn open(record: Record) -> Option<Turn> {
    pending().open(record)
}

/// Records the end of a span, unless it was begun in another call.
pub(super) fn close(span: u64, begun: Turn) {
    pending().close(span, begun);
}

impl Pending {
    const fn new() -> Self {
        Pending { call: None, turn: 0, bytes: Vec::new(), left: 0, left_out: 0 }
    }

    fn begin(&mut self, call: u64) {
        self.call = Some(call);
        self.turn += 1;
        self.left = MOST_RECORDS;
        self.left_out = 0;
    }

    fn end(&mut self) {
        if self.left_out > 0 {
            self.append(Record::LeftOut(self.left_out));
        }
        self.say();
        self.call = None;
    }

    fn open(&mut self, record: Record) -> Option<Turn> {
        self.take(record, 2).then_some(Turn(self.turn))
    }

    fn close(&mut self, span: u64, begun: Turn) {
        if begun == Turn(self.turn) {
            self.take(Record::Closed { span }, 0);
        }
    }

    /// Says a record that takes so much room; `false` if there is none, or no call.
    fn take(&mut self, record: Record, room: u32) -> bool {
        if self.call.is_none() {
            return false;
        }
        let Some(left) = self.left.checked_sub(room) else {
            self.left_out += 1;
            return false;
        };
        self.left = left;
        self.append(record);
        self.say();
        true
    }

    fn append(&mut self, record: Record) {
        if let Some(call) = self.call {
            let logged = Logged { call, at: clock::monotonic_nanos(), record: record.cut() };
            frame::append(&mut self.bytes, &FromWorker::Logged(logged));
        }
    }

    /// Says what there is, in the thread that may.
    fn say(&mut self) {
        // Also where that thread is being taken down, or is in the middle of saying something.
        let _ = LINK.try_with(|io| {
            let Ok(mut io) = io.try_borrow_mut() else { return };
            // A copy of this process has the same ring, and nothing to say there.
            let Some((io, _)) = io.as_mut().filter(|(_, original)| original.holds()) else { return };
            let mut unsent = self.bytes.as_slice();
            while !unsent.is_empty() {
                match io.send(unsent, true) {
                    // The host is gone, and what the call says next will find that out.
                    Ok(0) | Err(_) => break,
                    Ok(count) => unsent = &unsent[count..],
                }
            }
            self.bytes.clear();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What would have been said, had this thread anybody to say it to.
    fn unsaid(pending: &mut Pending) -> Vec<Logged> {
        let bytes = std::mem::take(&mut pending.bytes);
        let mut rest = bytes.as_slice();
        let mut all = Vec::new();
        while let Ok(Some(length)) = frame::length(rest, 1 << 20) {
            if let Ok((FromWorker::Logged(logged), _)) = frame::split(&rest[frame::LENGTH..length]) {
                all.push(logged);
            }
            rest = &rest[length..];
        }
        all
    }

    fn datum() -> Record {
        Record::Data { name: "name".to_owned(), value: "1".to_owned() }
    }

    /// L4, L6
    #[test]
    fn what_is_logged_belongs_to_the_call_at_hand_or_to_none() {
        let mut pending = Pending::new();
        pending.take(datum(), 1);
        assert_eq!(pending.open(datum()), None);
        pending.begin(7);
        let kept = pending.open(datum()).expect("there is a call");
        pending.end();
        assert_eq!(unsaid(&mut pending).iter().map(|logged| logged.call).collect::<Vec<_>>(), [7]);
        // Between calls, and then in the first call of another checkout, which goes by the same number.
        pending.close(1, kept);
        pending.take(datum(), 1);
        pending.begin(7);
        pending.close(1, kept);
        let open = pending.open(datum()).expect("there is a call");
        for _ in 0..MOST_RECORDS {
            pending.take(datum(), 1);
        }
        pending.close(1, open);
        pending.end();
        let said = unsaid(&mut pending);
        assert_eq!(said.len(), MOST_RECORDS as usize + 1);
        assert_eq!(said[said.len() - 2].record, Record::Closed { span: 1 });
        assert_eq!(said[said.len() - 1].record, Record::LeftOut(2));
        pending.begin(8);
        pending.end();
        assert_eq!(unsaid(&mut pending), []);
    }
}
