//! The time in which the application was frozen, as the thread of supervision finds out: user code cannot block that
//! thread, so an application that computes is not taken for a frozen one.

use std::time::Duration;

use actix_rt::time::sleep;
use parking_lot::Mutex;

use crate::clock::Instant;
use crate::frozen_time::FrozenTime;

/// Time between two beats (250 ms).
const BEAT: Duration = Duration::from_millis(250);

/// Longest time between two beats of an application that runs. It includes what a busy machine may be late by.
const LONGEST_BEAT: Duration = Duration::from_millis(500);

/// The record of the thread of supervision that runs; `None` without one.
static RECORD: Mutex<Option<Record>> = Mutex::new(None);

struct Record {
    /// Identifies the thread, which may end while the next one starts.
    thread: u64,
    time: FrozenTime,
}

/// Returns how much of the time since `begin` this application was frozen.
///
/// After a freeze all threads run again at once, so the first that asks notes it, and not only the one that beats.
pub(crate) fn frozen_since(begin: Instant) -> Duration {
    let mut record = RECORD.lock();
    record.as_mut().map_or(Duration::ZERO, |record| {
        record.time.note_run(Instant::now(), LONGEST_BEAT);
        record.time.since(begin)
    })
}

/// Beats for as long as the thread runs.
pub(super) async fn beat() {
    let beating = Beating::begin();
    loop {
        sleep(BEAT).await;
        beating.note_run();
    }
}

struct Beating(u64);

impl Beating {
    fn begin() -> Self {
        let mut record = RECORD.lock();
        let thread = record.as_ref().map_or(0, |record| record.thread) + 1;
        *record = Some(Record { thread, time: FrozenTime::new(Instant::now()) });
        Beating(thread)
    }

    fn note_run(&self) {
        if let Some(record) = RECORD.lock().as_mut().filter(|record| record.thread == self.0) {
            record.time.note_run(Instant::now(), LONGEST_BEAT);
        }
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        RECORD.lock().take_if(|record| record.thread == self.0);
    }
}
