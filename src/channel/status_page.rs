//! What a worker notes in memory for whoever looks at it from outside, also when it is dead: what it does, since when,
//! and what it logged last.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::blob::ResultArena;
use crate::sys::clock;
use crate::sys::shared_memory::SharedMemory;

/// What the memory of a channel is called in /proc.
pub(super) const MEMORY_NAME: &CStr = c"forkpool";

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Bytes of the page that holds the notes. Its first six lines are for the counters of rings, if the channel has any.
pub(super) const HEAD: usize = 4096;

/// Whether a call of the checkout at hand has begun.
pub(super) const BEGUN: usize = 6 * LINE;

/// Since when its code runs, on the coarse clock; 0 while it does not.
const SINCE: usize = 7 * LINE;

/// The call that ran last, counted from 1; 0 is none.
pub(super) const CALL: usize = 7 * LINE + 4;

/// Bytes logged so far, modulo 2³².
pub(super) const LOGGED: usize = 8 * LINE;

/// Where the last bytes that were logged lie, in a circle.
const LOG: usize = HEAD / 2;

/// How many of them are kept; a power of two.
const LOG_BYTES: usize = HEAD / 2;

/// Longest record, in bytes; beyond that it is cut.
const LONGEST_RECORD: usize = 512;

/// Most records that are read back.
const MOST_RECORDS: usize = 20;

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It runs a call of this number.
    Call(u32),
    /// It ends a checkout: none of the next one's calls has begun.
    Release,
    /// It waits, or moves bytes.
    Nothing,
}

/// The notes of one worker.
#[derive(Clone)]
pub(crate) struct StatusPage(Arc<SharedMemory>);

impl StatusPage {
    /// Memory for the notes of a worker whose channel has none, with so much behind it, and what others open it with.
    pub(crate) fn create(result_arena: usize) -> rustix::io::Result<(Self, std::os::fd::OwnedFd)> {
        let (memory, file) = SharedMemory::create(MEMORY_NAME, HEAD + result_arena)?;
        Ok((StatusPage(Arc::new(memory)), file))
    }

    /// The notes in memory that is mapped already.
    pub(super) fn of(memory: Arc<SharedMemory>) -> Self {
        StatusPage(memory)
    }

    /// The notes alone, whatever lies behind them.
    ///
    /// # Errors
    ///
    /// What the system said, or `INVAL` for memory that is too short or that others can make shorter.
    pub(crate) fn open(file: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        SharedMemory::open_beginning(file, HEAD).map(|memory| StatusPage(Arc::new(memory)))
    }

    /// The notes and all that lies behind them.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub(super) fn open_all(file: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        SharedMemory::open(file, HEAD).map(|memory| StatusPage(Arc::new(memory)))
    }

    /// What lies behind the notes of a worker whose channel has no rings.
    pub(crate) fn result_arena(&self) -> Option<ResultArena> {
        ResultArena::of(&self.0, HEAD)
    }

    /// Notes what this worker does from now on.
    pub(crate) fn write(&self, doing: Doing) {
        let store = |at: usize, value: u32| self.0.number(at).store(value, Ordering::Release);
        match doing {
            Doing::Call(number) => {
                store(BEGUN, 1);
                store(CALL, number.wrapping_add(1));
                store(SINCE, clock::coarse_millis());
            }
            Doing::Release => {
                store(BEGUN, 0);
                store(SINCE, clock::coarse_millis());
            }
            Doing::Nothing => store(SINCE, 0),
        }
    }

    /// Since when its code has been running, on the coarse clock.
    pub(crate) fn running_since(&self) -> Option<u32> {
        Some(self.0.number(SINCE).load(Ordering::Acquire)).filter(|&since| since != 0)
    }

    /// Whether a call of the checkout at hand had begun, for whoever finds the worker dead.
    pub(crate) fn begun(&self) -> bool {
        self.0.number(BEGUN).load(Ordering::Acquire) != 0
    }

    /// The number of the call that ran last.
    #[cfg(feature = "actors")]
    pub(crate) fn last_call(&self) -> Option<u32> {
        self.0.number(CALL).load(Ordering::Acquire).checked_sub(1)
    }

    /// Adds a record to the log, in place of the oldest. One thread at a time may do so.
    pub(crate) fn log(&self, record: &str) {
        let record = crate::wire::frame::cut(record.replace(['\n', '\r'], " "), LONGEST_RECORD) + "\n";
        let logged = self.0.number(LOGGED).load(Ordering::Relaxed);
        let at = logged as usize % LOG_BYTES;
        let (first, wrapped) = record.as_bytes().split_at(record.len().min(LOG_BYTES - at));
        self.0.write(LOG + at, first);
        self.0.write(LOG, wrapped);
        // At most LONGEST_RECORD and a few.
        self.0.number(LOGGED).store(logged.wrapping_add(record.len() as u32), Ordering::Release);
    }

    /// The last records, oldest first.
    pub(crate) fn records(&self) -> Vec<String> {
        let logged = self.0.number(LOGGED).load(Ordering::Acquire) as usize;
        let count = logged.min(LOG_BYTES);
        let start = (logged - count) % LOG_BYTES;
        let mut bytes = Vec::new();
        self.0.read(LOG + start, count.min(LOG_BYTES - start), &mut bytes);
        self.0.read(LOG, count - bytes.len(), &mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        // The oldest has lost its beginning.
        let whole = if logged > count { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &*text };
        let records: Vec<String> = whole.lines().map(str::to_owned).collect();
        records[records.len().saturating_sub(MOST_RECORDS)..].to_vec()
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use super::*;

    fn status_page() -> rustix::io::Result<StatusPage> {
        StatusPage::create(0).map(|(status_page, _)| status_page)
    }

    #[test]
    fn what_a_worker_does_is_seen_from_outside() -> rustix::io::Result<()> {
        let status_page = status_page()?;
        assert_eq!(
            (status_page.begun(), status_page.last_call(), status_page.running_since()),
            (false, None, None)
        );
        status_page.write(Doing::Call(0));
        assert!(
            status_page.begun()
                && status_page.last_call() == Some(0)
                && status_page.running_since().is_some()
        );
        status_page.write(Doing::Nothing);
        assert!(
            status_page.begun()
                && status_page.last_call() == Some(0)
                && status_page.running_since().is_none()
        );
        status_page.write(Doing::Release);
        assert!(
            !status_page.begun()
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
            assert!(records.len() <= MOST_RECORDS);
            let first = number + 1 - records.len();
            let expected: Vec<String> =
                (first..=number).map(|number| format!("record {number} of two lines")).collect();
            assert_eq!(records, expected);
        }
        status_page.log(&"ä".repeat(LOG_BYTES));
        assert!(status_page.records().last().is_some_and(|last| last.len() <= LONGEST_RECORD + 10));
        Ok(())
    }

    #[test]
    fn a_worker_that_scribbles_over_its_log_harms_nobody() -> rustix::io::Result<()> {
        let status_page = status_page()?;
        for logged in [1, LOG_BYTES - 1, LOG_BYTES + 1, 7 * LOG_BYTES + 3, u32::MAX as usize] {
            status_page.0.write(LOG, &[0xff; LOG_BYTES]);
            status_page.0.number(LOGGED).store(logged as u32, Ordering::Relaxed);
            assert!(status_page.records().len() <= MOST_RECORDS, "{logged}");
        }
        Ok(())
    }
}
