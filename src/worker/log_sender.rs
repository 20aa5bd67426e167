//! Sends log records to the host in the middle of a call.
//!
//! A record is written to the channel at once. In the ring it outlives this process, so a crash loses at most the
//! record that is being written. Only the thread that runs the calls writes to the channel. Records of other threads
//! are buffered and sent with the next record of that thread, or ahead of the reply. Records between calls are
//! dropped.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::channel::{AnyWorkerIo, WorkerIo};
use crate::sys::{clock, original};
use crate::wire::call::FromWorker;
use crate::wire::frame;
use crate::wire::log_record::{Logged, MAX_RECORDS, Record};

/// The highest level that is recorded in the running call; 0 if no call runs or the caller wants no records. Other
/// threads use it as a hint only: the decision is made under the lock of `PENDING`.
static VERBOSITY: AtomicU8 = AtomicU8::new(0);

static PENDING: Mutex<PendingRecords> = Mutex::new(PendingRecords::new());

thread_local! {
    /// Set in the thread that runs the calls.
    static CHANNEL: RefCell<Option<AnyWorkerIo>> = const { RefCell::new(None) };
}

/// The running call and its records that are not sent yet.
struct PendingRecords {
    call: Option<u64>,
    /// The number of the running call since the start of this worker. Unlike call ids, it is not used again by the
    /// next checkout.
    call_serial: u64,
    bytes: Vec<u8>,
    /// How many more records this call may send.
    budget: u32,
    omitted: u64,
}

/// Identifies the call in which the start of a span was sent; the budget for its end is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallSerial(u64);

fn pending() -> MutexGuard<'static, PendingRecords> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this thread send all log records through this channel.
pub(super) fn set_channel(io: AnyWorkerIo) {
    CHANNEL.with_borrow_mut(|channel| *channel = Some(io));
}

/// Returns the highest level that is recorded now; 0 for none.
pub(super) fn verbosity() -> u8 {
    VERBOSITY.load(Ordering::Relaxed)
}

/// Begins a call with this verbosity. For calls without verbosity it is not called, so they pay nothing.
pub(super) fn begin(call: u64, verbosity: u8) {
    pending().begin(call);
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// Ends the call and sends what is left of its records.
pub(super) fn end() {
    if verbosity() != 0 {
        VERBOSITY.store(0, Ordering::Relaxed);
        pending().end();
    }
}

/// Records an event, more values of a span, or data of a request's log.
pub(super) fn record(record: Record) {
    pending().push(record, 1);
}

/// Records the start of a span and reserves the budget for its end. Returns `None` if the span is not recorded.
pub(super) fn open(record: Record) -> Option<CallSerial> {
    pending().open(record)
}

/// Records the end of a span, unless it was started in another call.
pub(super) fn close(span: u64, call_serial: CallSerial) {
    pending().close(span, call_serial);
}

impl PendingRecords {
    const fn new() -> Self {
        PendingRecords { call: None, call_serial: 0, bytes: Vec::new(), budget: 0, omitted: 0 }
    }

    fn begin(&mut self, call: u64) {
        self.call = Some(call);
        self.call_serial += 1;
        self.budget = MAX_RECORDS;
        self.omitted = 0;
    }

    fn end(&mut self) {
        if self.omitted > 0 {
            self.append(Record::LeftOut(self.omitted));
        }
        self.send();
        self.call = None;
    }

    fn open(&mut self, record: Record) -> Option<CallSerial> {
        self.push(record, 2).then_some(CallSerial(self.call_serial))
    }

    fn close(&mut self, span: u64, call_serial: CallSerial) {
        if call_serial == CallSerial(self.call_serial) {
            self.push(Record::Closed { span }, 0);
        }
    }

    /// Appends and sends a record that takes `cost` of the budget. Returns `false` without a call or if the budget is
    /// used up.
    fn push(&mut self, record: Record, cost: u32) -> bool {
        if self.call.is_none() {
            return false;
        }
        let Some(budget) = self.budget.checked_sub(cost) else {
            self.omitted += 1;
            return false;
        };
        self.budget = budget;
        self.append(record);
        self.send();
        true
    }

    fn append(&mut self, record: Record) {
        if let Some(call) = self.call {
            let logged = Logged { call, at: clock::monotonic_nanos(), record: record.cut() };
            frame::append(&mut self.bytes, &FromWorker::Logged(Box::new(logged)));
        }
    }

    /// Sends the buffered bytes if this is the thread that runs the calls.
    fn send(&mut self) {
        // `try_with` and `try_borrow_mut` fail while the thread exits, and while it is in the middle of sending.
        let _ = CHANNEL.try_with(|io| {
            let Ok(mut io) = io.try_borrow_mut() else { return };
            // A copy of this process has the same ring and must not write to it.
            let Some(io) = io.as_mut().filter(|_| !original::is_copy()) else { return };
            let mut unsent = self.bytes.as_slice();
            while !unsent.is_empty() {
                match io.send(unsent, true) {
                    // The host is gone; the reply to the call finds that out.
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

    /// Returns the records that are buffered, because no channel is set in this thread.
    fn unsent_records(pending: &mut PendingRecords) -> Vec<Logged> {
        let bytes = std::mem::take(&mut pending.bytes);
        let mut rest = bytes.as_slice();
        let mut all = Vec::new();
        while let Ok(Some(length)) = frame::length(rest, 1 << 20) {
            if let Ok((FromWorker::Logged(logged), _)) = frame::split(&rest[frame::LENGTH..length]) {
                all.push(*logged);
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
    fn what_is_logged_belongs_to_the_running_call_or_is_dropped() {
        let mut pending = PendingRecords::new();
        pending.push(datum(), 1);
        assert_eq!(pending.open(datum()), None);
        pending.begin(7);
        let earlier = pending.open(datum()).expect("there is a call");
        pending.end();
        assert_eq!(unsent_records(&mut pending).iter().map(|logged| logged.call).collect::<Vec<_>>(), [7]);
        // First between calls, and then in the first call of another checkout, which has the same id.
        pending.close(1, earlier);
        pending.push(datum(), 1);
        pending.begin(7);
        pending.close(1, earlier);
        let open = pending.open(datum()).expect("there is a call");
        for _ in 0..MAX_RECORDS {
            pending.push(datum(), 1);
        }
        pending.close(1, open);
        pending.end();
        let unsent = unsent_records(&mut pending);
        assert_eq!(unsent.len(), MAX_RECORDS as usize + 1);
        assert_eq!(unsent[unsent.len() - 2].record, Record::Closed { span: 1 });
        assert_eq!(unsent[unsent.len() - 1].record, Record::LeftOut(2));
        pending.begin(8);
        pending.end();
        assert_eq!(unsent_records(&mut pending), []);
    }
}
