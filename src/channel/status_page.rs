//! The page of shared memory in which a worker records what it is doing, since when, and its last log records. Other
//! processes read it, even after the worker's death.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::gate;
use super::gate::GateWord;
#[cfg(feature = "actors")]
use super::gate::{CorruptGate, HostGate};
use crate::blob::{ResultArena, ResultMemory, TABLE_LENGTH};
use crate::sys::clock;
use crate::sys::shared_memory::SharedMemory;

/// Name of a channel's memory in /proc.
pub(super) const MEMORY_NAME: &CStr = c"forkpool";

/// Bytes of a cache line.
pub(super) const CACHE_LINE: usize = 64;

/// Bytes of the status page. Its first six cache lines are for the counters of the rings, if the channel has rings.
pub(super) const PAGE_LENGTH: usize = 4096;

/// Bytes of the memory of a channel without rings.
pub(super) const MEMORY_LENGTH: usize = PAGE_LENGTH + TABLE_LENGTH;

/// Offset: whether a call of the current checkout has begun.
pub(super) const CALL_BEGUN: usize = 6 * CACHE_LINE;

/// Offset: when the running code of the worker began, on the coarse clock; 0 if no code runs.
const RUNNING_SINCE: usize = 7 * CACHE_LINE;

/// Offset: number of the call that ran last, counted from 1; 0 if none has run.
pub(super) const LAST_CALL: usize = 7 * CACHE_LINE + 4;

/// Offset: bytes logged so far, modulo 2³².
pub(super) const LOG_WRITTEN: usize = 8 * CACHE_LINE;

/// Offset: the gate behind which calls wait that were written ahead, see [`gate`].
const GATE: usize = 30 * CACHE_LINE;

/// Offset of the circular buffer that holds the last logged bytes.
const LOG: usize = PAGE_LENGTH / 2;

/// Bytes of that buffer; a power of two.
const LOG_CAPACITY: usize = PAGE_LENGTH / 2;

/// Longest log record, in bytes; a longer one is cut.
const MAX_RECORD: usize = 512;

/// Most log records that are read back.
const MAX_RECORDS: usize = 20;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It runs the call of this number.
    Call(u32),
    /// It ends a checkout; no call of the next one has begun.
    Release,
    /// It waits, or sends or receives bytes.
    Idle,
}

impl GateWord for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn swap_if(&self, current: u32, new: u32) -> Result<(), u32> {
        self.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
}

/// The status page of one worker.
#[derive(Clone)]
pub(crate) struct StatusPage(pub(super) Arc<SharedMemory>);

impl StatusPage {
    /// Creates the memory of a channel without rings. Returns its status page and the descriptor with which other
    /// processes open it.
    pub(crate) fn create() -> rustix::io::Result<(Self, std::os::fd::OwnedFd)> {
        let (memory, file) = SharedMemory::create(MEMORY_NAME, MEMORY_LENGTH)?;
        memory.populate_if_strict()?;
        Ok((StatusPage(Arc::new(memory)), file))
    }

    /// The status page in memory that is mapped already.
    pub(super) fn new(memory: Arc<SharedMemory>) -> Self {
        StatusPage(memory)
    }

    /// Maps the status page alone, to read it, and keeps it out of processes that are forked from this one.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is too short or not sealed against shrinking.
    pub(crate) fn watch(file: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let memory = SharedMemory::open_beginning(file, PAGE_LENGTH)?;
        Ok(StatusPage(Arc::new(memory.keep_from_children())))
    }

    /// Drops the copy of a watched page in a forked process.
    pub(crate) fn drop_in_child(self) {
        if let Some(memory) = Arc::into_inner(self.0) {
            memory.drop_in_child();
        }
    }

    /// Maps the status page and the table behind it, to read and write them.
    ///
    /// # Errors
    ///
    /// Those of [`watch`](Self::watch).
    pub(super) fn open_all(file: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        SharedMemory::open(file, MEMORY_LENGTH).map(|memory| StatusPage(Arc::new(memory)))
    }

    /// Returns the worker's arena for results, whose table lies behind the page of a channel without rings.
    pub(crate) fn result_arena(&self, results: ResultMemory) -> ResultArena {
        ResultArena::new(self.0.clone(), PAGE_LENGTH, results)
    }

    /// Records what this worker is doing from now on.
    pub(crate) fn set_activity(&self, activity: Activity) {
        let store = |at: usize, value: u32| self.0.atomic_u32(at).store(value, Ordering::Release);
        match activity {
            Activity::Call(number) => {
                store(CALL_BEGUN, 1);
                store(LAST_CALL, number.wrapping_add(1));
                store(RUNNING_SINCE, clock::coarse_millis());
            }
            Activity::Release => {
                store(CALL_BEGUN, 0);
                store(RUNNING_SINCE, clock::coarse_millis());
            }
            Activity::Idle => store(RUNNING_SINCE, 0),
        }
    }

    /// Begins a call of this epoch in the worker; returns `false` if the host has taken it back.
    pub(crate) fn begin(&self, epoch: u16) -> bool {
        gate::begin(self.gate(), epoch)
    }

    /// Returns how many of the calls that are open at this gate have begun, or had begun when the worker died.
    ///
    /// # Errors
    ///
    /// [`CorruptGate`]; the worker is not to be used any more.
    #[cfg(feature = "actors")]
    pub(crate) fn begun(&self, host: &HostGate) -> Result<usize, CorruptGate> {
        host.begun(self.gate())
    }

    /// Takes back the open calls that have not begun; returns how many have.
    ///
    /// # Errors
    ///
    /// [`CorruptGate`]; the worker is not to be used any more.
    #[cfg(feature = "actors")]
    pub(crate) fn take_back(&self, host: &mut HostGate) -> Result<usize, CorruptGate> {
        host.take_back(self.gate())
    }

    fn gate(&self) -> &AtomicU32 {
        self.0.atomic_u32(GATE)
    }

    /// When the running code began, on the coarse clock; `None` if no code runs.
    pub(crate) fn running_since(&self) -> Option<u32> {
        Some(self.0.atomic_u32(RUNNING_SINCE).load(Ordering::Acquire)).filter(|&since| since != 0)
    }

    /// Whether a call of the current checkout has begun, or had begun when the worker died.
    pub(crate) fn call_begun(&self) -> bool {
        self.0.atomic_u32(CALL_BEGUN).load(Ordering::Acquire) != 0
    }

    /// The number of the call that ran last, or `None` if none has run.
    #[cfg(feature = "actors")]
    pub(crate) fn last_call(&self) -> Option<u32> {
        self.0.atomic_u32(LAST_CALL).load(Ordering::Acquire).checked_sub(1)
    }

    /// Appends a log record; it overwrites the oldest bytes. Only one thread at a time may call this.
    pub(crate) fn log(&self, record: &str) {
        let record = crate::wire::frame::cut(record.replace(['\n', '\r'], " "), MAX_RECORD) + "\n";
        let logged = self.0.atomic_u32(LOG_WRITTEN).load(Ordering::Relaxed);
        let at = logged as usize % LOG_CAPACITY;
        let (first, wrapped) = record.as_bytes().split_at(record.len().min(LOG_CAPACITY - at));
        self.0.write(LOG + at, first);
        self.0.write(LOG, wrapped);
        // At most MAX_RECORD and a few bytes, so the cast loses nothing.
        self.0.atomic_u32(LOG_WRITTEN).store(logged.wrapping_add(record.len() as u32), Ordering::Release);
    }

    /// The last log records, oldest first.
    pub(crate) fn records(&self) -> Vec<String> {
        let logged = self.0.atomic_u32(LOG_WRITTEN).load(Ordering::Acquire) as usize;
        let count = logged.min(LOG_CAPACITY);
        let start = (logged - count) % LOG_CAPACITY;
        let mut bytes = Vec::new();
        self.0.read(LOG + start, count.min(LOG_CAPACITY - start), &mut bytes);
        self.0.read(LOG, count - bytes.len(), &mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        // The beginning of the oldest one is overwritten.
        let whole = if logged > count { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &*text };
        let records: Vec<String> = whole.lines().map(str::to_owned).collect();
        records[records.len().saturating_sub(MAX_RECORDS)..].to_vec()
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use super::*;

    fn status_page() -> rustix::io::Result<StatusPage> {
        StatusPage::create().map(|(status_page, _)| status_page)
    }

    #[test]
    fn what_a_worker_does_can_be_read_by_others() -> rustix::io::Result<()> {
        let status_page = status_page()?;
        assert_eq!(
            (status_page.call_begun(), status_page.last_call(), status_page.running_since()),
            (false, None, None)
        );
        status_page.set_activity(Activity::Call(0));
        assert!(
            status_page.call_begun()
                && status_page.last_call() == Some(0)
                && status_page.running_since().is_some()
        );
        status_page.set_activity(Activity::Idle);
        assert!(
            status_page.call_begun()
                && status_page.last_call() == Some(0)
                && status_page.running_since().is_none()
        );
        status_page.set_activity(Activity::Release);
        assert!(
            !status_page.call_begun()
                && status_page.last_call() == Some(0)
                && status_page.running_since().is_some()
        );
        Ok(())
    }

    #[test]
    fn the_last_records_are_read_back_whole_and_in_order() -> rustix::io::Result<()> {
        let status_page = status_page()?;
        assert!(status_page.records().is_empty());
        for number in 0..1000 {
            status_page.log(&format!("record {number}\nof two lines"));
            let records = status_page.records();
            assert!(records.len() <= MAX_RECORDS);
            let first = number + 1 - records.len();
            let expected: Vec<String> =
                (first..=number).map(|number| format!("record {number} of two lines")).collect();
            assert_eq!(records, expected);
        }
        status_page.log(&"ä".repeat(LOG_CAPACITY));
        assert!(status_page.records().last().is_some_and(|last| last.len() <= MAX_RECORD + 10));
        Ok(())
    }

    #[test]
    fn a_worker_that_overwrites_its_log_with_garbage_harms_no_reader() -> rustix::io::Result<()> {
        let status_page = status_page()?;
        for logged in [1, LOG_CAPACITY - 1, LOG_CAPACITY + 1, 7 * LOG_CAPACITY + 3, u32::MAX as usize] {
            status_page.0.write(LOG, &[0xff; LOG_CAPACITY]);
            status_page.0.atomic_u32(LOG_WRITTEN).store(logged as u32, Ordering::Relaxed);
            assert!(status_page.records().len() <= MAX_RECORDS, "{logged}");
        }
        Ok(())
    }
}
