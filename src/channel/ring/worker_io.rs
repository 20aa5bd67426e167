//! The worker's end of its rings. It waits without a runtime, and sleeps only where spinning does not pay.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{CorruptCounters, Ring, WakeCondition};
use crate::blob::{ResultArena, ResultMemory};
use crate::channel::adaptive_spin::AdaptiveSpin;
use crate::channel::blocking_channel::WorkerIo;
use crate::channel::doorbell::WorkerDoorbells;
use crate::channel::status_page::{Activity, StatusPage};
use crate::clock::Instant;
use crate::sys::{descriptors, process};

/// Looks into the ring between two readings of the clock while a worker spins.
const CHECKS_PER_CLOCK_READING: usize = 30;

/// Longest time that a worker spins for its next call: about what it takes to be woken.
const MAX_SPIN: Duration = Duration::from_micros(100);

/// How long a worker spins before it yields its processor for the first time, where no other thread has wanted it
/// lately. A yield takes as long as a short call, and a call that comes meanwhile waits for its end.
const UNYIELDING_SPIN: Duration = Duration::from_micros(10);

/// Some looks, a yield and a reading of the clock take less than this if no other thread ran meanwhile.
const VAIN_YIELD: Duration = Duration::from_micros(4);

/// Most waits in a row whose first microseconds are spun for without a yield. The one after them finds out whether
/// another thread wants the processor by now.
const MAX_UNYIELDING: u32 = 32;

/// Short waits in a row on the host's processor after which a worker moves to another one. Each time no processor was
/// idle the number doubles, up to the maximum.
const MIN_MOVE_THRESHOLD: u32 = 8;
const MAX_MOVE_THRESHOLD: u32 = 8192;

/// The worker looks for an idle processor in the last waits before that, several times because the host may be about to
/// sleep at any of them.
const IDLE_CHECKS: u32 = 4;

/// The worker's end of its channel: the rings, and the doorbells, whose end-of-file reports that the host is gone.
pub(crate) struct RingIo {
    ring: Ring,
    status_page: StatusPage,
    doorbells: Arc<WorkerDoorbells>,
    spin: AdaptiveSpin,
    /// The kernel's count of preemptions when it was last read. Reading it costs more than a look into the ring.
    preemptions: Option<u64>,
    /// Waits left whose first microseconds are spun for without a yield.
    unyielding: u32,
    /// The number of such waits that the next vain yield earns.
    next_unyielding: u32,
    /// Short waits in a row on the host's processor.
    short_waits: u32,
    /// Number of such waits after which this worker moves to an idle processor.
    move_threshold: u32,
    /// Whether the last checks before the threshold found an idle processor.
    idle_processor_seen: bool,
}

impl RingIo {
    /// Opens the rings in `memory`.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is too short or not sealed against shrinking.
    pub(crate) fn open(memory: &OwnedFd, doorbells: WorkerDoorbells) -> io::Result<Self> {
        Ok(RingIo::new(Ring::open(memory)?, Arc::new(doorbells)))
    }

    /// Returns another handle on the same channel, for frames that are sent in the middle of a call. Each handle sends
    /// whole frames.
    pub(crate) fn duplicate(&self) -> Self {
        RingIo::new(self.ring.duplicate(), self.doorbells.clone())
    }

    fn new(ring: Ring, doorbells: Arc<WorkerDoorbells>) -> Self {
        RingIo {
            status_page: ring.status_page(),
            ring,
            doorbells,
            spin: AdaptiveSpin::new(MAX_SPIN),
            preemptions: None,
            unyielding: 0,
            next_unyielding: 1,
            short_waits: 0,
            move_threshold: MIN_MOVE_THRESHOLD,
            idle_processor_seen: false,
        }
    }

    /// Returns this worker's status page.
    pub(crate) fn status_page(&self) -> StatusPage {
        self.ring.status_page()
    }

    /// Returns this worker's arena for results.
    pub(crate) fn result_arena(&self, results: ResultMemory) -> ResultArena {
        self.ring.result_arena(results)
    }

    /// Waits until there are bytes to read; returns `false` if the host is gone.
    fn wait(&mut self) -> io::Result<bool> {
        let has_bytes = match self.ring.peer_is_on_other_processor() {
            true => self.wait_on_other_processor()?,
            false => self.wait_on_host_processor()?,
        };
        self.ring.record_processor();
        Ok(has_bytes)
    }

    /// Waits on a processor of its own: it may spin.
    fn wait_on_other_processor(&mut self) -> io::Result<bool> {
        let yields_after = if self.unyielding > 0 { UNYIELDING_SPIN } else { Duration::ZERO };
        self.unyielding = self.unyielding.saturating_sub(1);
        // When the looks before the last yield began.
        let mut yielded = None;
        while !self.ring.has_bytes().map_err(invalid)? {
            let now = Instant::now();
            self.judge_yield(yielded.take(), now);
            if let Some(spun) = self.try_spin(now) {
                self.wake_host_for_space()?;
                yielded = self.spin_once(spun >= yields_after).then_some(now);
            } else if !self.sleep(WakeCondition::Bytes)? {
                return Ok(false);
            }
        }
        if yielded.is_some() {
            let now = Instant::now();
            self.judge_yield(yielded, now);
            let RingIo { spin, preemptions, .. } = self;
            spin.finish_wait_unless(now, || was_preempted(preemptions));
        } else {
            self.spin.finish_wait();
        }
        Ok(true)
    }

    /// Learns from a yield whether other threads want this processor. While they do, this worker yields early in each
    /// wait.
    fn judge_yield(&mut self, yielded: Option<Instant>, now: Instant) {
        let Some(yielded) = yielded else { return };
        if now.saturating_duration_since(yielded) < VAIN_YIELD {
            self.unyielding = self.next_unyielding;
            self.next_unyielding = (self.next_unyielding * 2).min(MAX_UNYIELDING);
        } else {
            self.unyielding = 0;
            self.next_unyielding = 1;
        }
    }

    /// Returns for how long this worker has spun if it is to look again: only on a processor that no other thread needs.
    fn try_spin(&mut self, now: Instant) -> Option<Duration> {
        let RingIo { ring, spin, preemptions, .. } = self;
        let preempted = || was_preempted(preemptions);
        ring.peer_is_on_other_processor().then(|| spin.try_spin_unless(now, preempted))?
    }

    /// Waits until the host has read some bytes; returns `false` if it is gone.
    fn wait_for_space(&mut self) -> io::Result<bool> {
        let until = Instant::now() + MAX_SPIN;
        while !self.ring.has_space().map_err(invalid)? {
            // A host that is reading makes space soon. One that is not sleeps or does something else.
            if self.ring.peer_is_on_other_processor() && Instant::now() < until {
                std::hint::spin_loop();
            } else if !self.sleep(WakeCondition::Space)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits on the processor that the host runs on. Each wake takes that processor from the host, so if wakes follow
    /// each other closely this worker moves to another one.
    fn wait_on_host_processor(&mut self) -> io::Result<bool> {
        let began = Instant::now();
        while !self.ring.has_bytes().map_err(invalid)? {
            if !self.sleep(WakeCondition::Bytes)? {
                return Ok(false);
            }
        }
        self.short_waits = if began.elapsed() < MAX_SPIN { self.short_waits + 1 } else { 0 };
        if self.short_waits + IDLE_CHECKS > self.move_threshold {
            self.consider_moving();
        }
        Ok(true)
    }

    /// Moves to another processor if one is idle. If none is, moving would only take it from another thread.
    fn consider_moving(&mut self) {
        // A host that does not sleep wants this processor as well.
        self.idle_processor_seen |= process::has_idle_processor(!self.ring.peer_sleeps());
        if self.short_waits < self.move_threshold {
            return;
        }
        self.short_waits = 0;
        if std::mem::take(&mut self.idle_processor_seen) {
            self.move_threshold = MIN_MOVE_THRESHOLD;
            process::move_to_other_processor();
            // What the waits have taken on the host's processor says nothing about those that follow.
            self.spin = AdaptiveSpin::new(MAX_SPIN);
        } else {
            self.move_threshold = (self.move_threshold * 2).min(MAX_MOVE_THRESHOLD);
        }
    }

    /// Looks into the ring several times, then yields the processor once if that is wanted; returns whether it did.
    fn spin_once(&self, yields: bool) -> bool {
        for _ in 0..CHECKS_PER_CLOCK_READING {
            if self.ring.has_bytes() != Ok(false) {
                return false;
            }
            std::hint::spin_loop();
        }
        if yields {
            // Lets other workers on this processor run. If one keeps it for long, `try_spin` ends the spinning.
            std::thread::yield_now();
        }
        yields
    }

    /// Sleeps until the host has done something; returns `false` if it is gone.
    fn sleep(&mut self, condition: WakeCondition) -> io::Result<bool> {
        if !self.ring.arm(condition).map_err(invalid)? {
            self.ring.disarm();
            return Ok(true);
        }
        self.wake_host_for_space()?;
        let is_connected = self.doorbells.wait()?;
        self.ring.disarm();
        // Code that closed a foreign descriptor during this wait may have ended its own channel; no call begins then.
        descriptors::check_open(self.doorbells.rx.as_fd())?;
        Ok(is_connected && !self.ring.is_closed())
    }

    /// Wakes the host if it is seen to sleep until there is space.
    fn wake_host_for_space(&self) -> io::Result<()> {
        if self.ring.take_wake_request_for_space().map_err(invalid)? {
            self.doorbells.notify()?;
        }
        Ok(())
    }

    /// Wakes the host if it sleeps until there are bytes, which were just published.
    ///
    /// Code that closed a foreign descriptor may have ended its own channel; then nothing more is sent on it, and no
    /// further call is read. A doorbell that is rung shows that. Otherwise a system call checks it, unless `more` bytes
    /// follow: it comes behind the bytes, so the host does not wait for it.
    fn finish_sending(&self, more: bool) -> io::Result<()> {
        if self.ring.take_wake_request(WakeCondition::Bytes) {
            self.doorbells.notify()?;
        } else if !more {
            descriptors::check_open(self.doorbells.tx.as_fd())?;
        }
        Ok(())
    }
}

impl WorkerIo for RingIo {
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        if !self.ring.has_bytes().map_err(invalid)? && !self.wait()? {
            return Ok(0);
        }
        let count = self.ring.read(bytes).map_err(invalid)?;
        self.wake_host_for_space()?;
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        self.ring.resume_after_duplicates();
        loop {
            let count = self.ring.write(bytes).map_err(invalid)?;
            if count > 0 {
                self.finish_sending(more || count < bytes.len())?;
                return Ok(count);
            }
            if !self.wait_for_space()? {
                return Ok(0);
            }
        }
    }

    fn set_activity(&self, activity: Activity) {
        self.status_page.set_activity(activity);
    }

    fn begin(&self, epoch: u16) -> bool {
        self.status_page.begin(epoch)
    }
}

/// Returns whether this thread was preempted since `count` was last read, and reads it anew.
fn was_preempted(count: &mut Option<u64>) -> bool {
    let (now, before) = (process::preemption_count(), *count);
    *count = Some(now);
    before.is_some_and(|before| before != now)
}

fn invalid(error: CorruptCounters) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::doorbell::doorbells;

    #[test]
    fn a_host_that_is_gone_before_it_read_the_doorbell_is_the_end_and_no_error()
    -> Result<(), Box<dyn std::error::Error>> {
        let (host, file) = Ring::create()?;
        let (host_doorbells, worker_doorbells) = doorbells()?;
        let mut worker = RingIo::open(&file, worker_doorbells)?;
        assert!(host.arm(WakeCondition::Bytes)?);
        assert_eq!(worker.send(b"unheard", false)?, 7);
        drop(host_doorbells);
        assert_eq!(worker.receive(&mut Vec::with_capacity(10))?, 0);
        Ok(())
    }

    /// G5: a forked process holds the host's ends.
    #[test]
    fn a_host_that_closes_its_channel_is_gone_although_its_doorbells_are_held()
    -> Result<(), Box<dyn std::error::Error>> {
        let (host, file) = Ring::create()?;
        let (held, worker_doorbells) = doorbells()?;
        let mut worker = RingIo::open(&file, worker_doorbells)?;
        host.close();
        held.tx.notify()?;
        assert_eq!(worker.receive(&mut Vec::with_capacity(10))?, 0);
        Ok(())
    }

    #[test]
    fn two_sides_that_sleep_whenever_they_may_lose_no_wake() -> Result<(), Box<dyn std::error::Error>> {
        let (host, file) = Ring::create()?;
        let ((rx, worker_tx), (worker_rx, tx)) =
            (descriptors::blocking_pipe()?, descriptors::blocking_pipe()?);
        let mut host = RingIo::new(host, Arc::new(WorkerDoorbells { rx, tx }));
        let mut worker = RingIo::open(&file, WorkerDoorbells { rx: worker_rx, tx: worker_tx })?;
        let echo = std::thread::spawn(move || -> io::Result<()> {
            let mut bytes = Vec::with_capacity(100_000);
            while worker.receive(&mut bytes)? > 0 {
                let mut unsent = bytes.as_slice();
                while !unsent.is_empty() {
                    let count = worker.send(unsent, false)?;
                    unsent = &unsent[count..];
                }
                bytes.clear();
            }
            Ok(())
        });
        for round in 0..20_000_usize {
            let size = 1 + round * 7 % 300;
            host.send(&vec![round as u8; size], false)?;
            let mut back = Vec::with_capacity(size);
            while back.len() < size {
                assert!(host.receive(&mut back)? > 0);
            }
            assert!(back.iter().all(|&byte| byte == round as u8));
        }
        drop(host);
        assert!(echo.join().is_ok_and(|ended| ended.is_ok()));
        Ok(())
    }
}
