//! A channel through two rings in shared memory. Doorbell pipes wake the sleeping end, and their end-of-file
//! reports that the worker is gone.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::retry_timer::RetryTimer;
use super::{Arrived, Buffers, ROUNDS_BEFORE_YIELD};
use crate::blob::{ResultArena, ResultMemory};
use crate::channel::{
    AdaptiveSpin, DoorbellSender, HostDoorbells, Ring, StatusPage, WakeCondition, WorkerEnd, WorkerMemory,
    doorbells,
};
use crate::clock::Instant;
use crate::sys::passing::is_passing;
use crate::sys::process::Owner;
use crate::sys::{descriptors, reactor};

/// Maximum time (20 µs) for which the host spins for a reply; it looks in each turn of the event loop, so other tasks
/// run in between.
const LONGEST_SPIN: Duration = Duration::from_micros(20);

/// Looks in a row before the other tasks of the thread get their turn. They take one or two microseconds, as a turn of
/// the event loop does, and find a reply sooner.
const LOOKS_IN_PLACE: u32 = 64;

/// Most polls in a row that are to look again at once, before the timers of the task are polled all the same.
const MAX_UNTIMED_LOOKS: u32 = 32;

/// The same maximum (100 µs) while a forked worker is being set up.
const SETUP_SPIN: Duration = Duration::from_micros(100);

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The end that looked last on this thread, by its number; 0 if none did.
    static LAST_TO_LOOK: Cell<u64> = const { Cell::new(0) };
}

/// The host's end of both rings.
pub(super) struct Rings {
    ring: Ring,
    /// The doorbell that wakes this end; `None` if it could not be registered anew, or the worker's doorbell could
    /// not be rung.
    rx: Option<AsyncFd<OwnedFd>>,
    tx: DoorbellSender,
    /// Runs while the worker's doorbell is to be rung once more, because there was no memory for it.
    retry: RetryTimer,
    spin: AdaptiveSpin,
    /// Rounds since this end last let other tasks run.
    rounds: u32,
    /// Whether bytes were read or written since this end last found nothing to do.
    moved: bool,
    /// Polls in a row that ended because the task is to look again at once.
    looks: u32,
    /// Whether this end has set its flag, so that the worker rings its doorbell.
    armed: bool,
    /// Identifies this end among those of the process.
    number: u64,
    /// The application's process. A copy of it that is forked closes the channel for itself alone.
    owner: Owner,
}

/// When an end that has found nothing looks again.
enum NextLook {
    /// Something has arrived.
    Now,
    /// After the other tasks of this thread.
    NextTurn,
    /// When its doorbell was rung.
    WhenWoken,
}

/// Closes the channel, also where another process holds this end of it.
impl Drop for Rings {
    fn drop(&mut self) {
        if self.owner.is_this() {
            self.ring.close();
            // A worker that cannot be woken is killed after a while.
            let _ = self.tx.notify();
        }
    }
}

impl Rings {
    pub(super) fn new(results: Option<OwnedFd>) -> io::Result<(Self, StatusPage, WorkerEnd)> {
        let (HostDoorbells { rx, tx }, doorbells) = doorbells()?;
        let (ring, channel) = Ring::create()?;
        let status_page = ring.status_page();
        let rings = Rings {
            ring,
            rx: Some(reactor::register(rx)?),
            tx,
            retry: RetryTimer::default(),
            spin: AdaptiveSpin::new(SETUP_SPIN),
            rounds: 0,
            moved: false,
            looks: 0,
            armed: false,
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            owner: Owner::this(),
        };
        let memory = WorkerMemory { channel, results };
        Ok((rings, status_page, WorkerEnd::Rings { doorbells, memory }))
    }

    pub(super) fn result_arena(&self, results: ResultMemory) -> ResultArena {
        self.ring.result_arena(results)
    }

    pub(super) fn register_here(&mut self) -> io::Result<()> {
        if let Some(rx) = self.rx.take() {
            self.rx = Some(reactor::register(rx.into_inner())?);
        }
        Ok(())
    }

    pub(super) fn finish_setup(&mut self) {
        self.spin = AdaptiveSpin::new(LONGEST_SPIN);
    }

    pub(super) fn poll_exchange(
        &mut self,
        buffers: &mut Buffers,
        cx: &mut Context<'_>,
        expects: bool,
    ) -> Poll<Arrived> {
        let polled = self.exchange(buffers, cx, expects);
        if polled.is_pending() {
            self.rounds = 0;
        }
        polled
    }

    /// Returns whether the last poll has its task look again at once. The task need not poll its timers before that,
    /// except once in a while.
    pub(super) fn looks_again(&mut self) -> bool {
        if self.looks > MAX_UNTIMED_LOOKS {
            self.looks = 0;
        }
        self.looks > 0
    }

    fn exchange(&mut self, buffers: &mut Buffers, cx: &mut Context<'_>, expects: bool) -> Poll<Arrived> {
        loop {
            if std::mem::take(&mut self.armed) {
                self.ring.disarm();
            }
            self.rounds += 1;
            if self.rounds > ROUNDS_BEFORE_YIELD {
                // However much the worker sends, other tasks get their turn.
                self.looks = self.looks.saturating_add(1);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.retry.is_started() && self.retry.poll_over(cx) {
                self.ring_doorbell();
            }
            self.write_now(buffers);
            match self.read_now(buffers) {
                Arrived::Nothing => {}
                arrived => return Poll::Ready(arrived),
            }
            match self.next_look(expects) {
                NextLook::Now => continue,
                NextLook::NextTurn => {
                    self.looks = self.looks.saturating_add(1);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                NextLook::WhenWoken => self.looks = 0,
            }
            let condition =
                if buffers.outgoing.is_empty() { WakeCondition::Bytes } else { WakeCondition::Either };
            self.armed = true;
            match self.ring.arm(condition) {
                Ok(true) if !self.wake_worker_for_space() => return Poll::Ready(Arrived::Corrupt),
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return Poll::Ready(Arrived::Corrupt),
            }
            let Some(rx) = &self.rx else {
                return Poll::Ready(Arrived::End);
            };
            let Ok(mut guard) = ready!(rx.poll_read_ready(cx)) else {
                return Poll::Ready(Arrived::End);
            };
            let closed = guard.ready().is_read_closed();
            guard.clear_ready();
            if closed {
                return Poll::Ready(match self.read_now(buffers) {
                    Arrived::Nothing => Arrived::End,
                    arrived => arrived,
                });
            }
            // Before it is armed again: some kernels report no byte that is written behind others.
            self.drain_doorbell();
        }
    }

    /// Decides when to look again.
    ///
    /// It looks once more after bytes have moved, since most likely more will follow, and a look is cheaper than a
    /// doorbell. And it looks again for a short while if the worker runs on another processor and replies have
    /// usually come in that time. Other tasks have their turn in between.
    fn next_look(&mut self, expects: bool) -> NextLook {
        if std::mem::take(&mut self.moved) {
            return NextLook::NextTurn;
        }
        if !expects || !self.ring.peer_is_on_other_processor() || !self.spin.begin_wait() {
            return NextLook::WhenWoken;
        }
        // Its flag may not have been seen at the last read. Impossible counters are reported by the next read.
        self.wake_worker_for_space();
        if self.look_in_place() {
            return NextLook::Now;
        }
        if self.spin.try_spin(Instant::now()) { NextLook::NextTurn } else { NextLook::WhenWoken }
    }

    /// Looks some times, unless the replies of late took longer or the worker needs this processor; returns whether bytes
    /// have arrived.
    pub(super) fn look(&mut self) -> bool {
        self.has_bytes()
            || self.ring.peer_is_on_other_processor() && self.spin.begin_wait() && self.look_in_place()
    }

    /// Looks some more times; returns whether bytes have arrived. It does not do so if other ends look on this thread as
    /// well, because their replies may be there.
    fn look_in_place(&self) -> bool {
        let is_alone = LAST_TO_LOOK.replace(self.number) == self.number;
        is_alone
            && (0..LOOKS_IN_PLACE).any(|_| {
                std::hint::spin_loop();
                self.has_bytes()
            })
    }

    /// Returns whether there are bytes to read, or the counters are impossible.
    pub(super) fn has_bytes(&self) -> bool {
        self.ring.has_bytes() != Ok(false)
    }

    pub(super) fn read_now(&mut self, buffers: &mut Buffers) -> Arrived {
        let ring = &mut self.ring;
        match buffers.incoming.fill(|buffer| ring.read(buffer)) {
            Ok((0, _)) => Arrived::Nothing,
            Ok(_) => {
                self.moved = true;
                self.spin.finish_wait();
                if self.wake_worker_for_space() { Arrived::Some } else { Arrived::Corrupt }
            }
            Err(_) => Arrived::Corrupt,
        }
    }

    /// Returns whether the worker is seen to sleep until there are bytes.
    pub(super) fn worker_sleeps(&self) -> bool {
        self.ring.peer_sleeps()
    }

    pub(super) fn write_now(&mut self, buffers: &mut Buffers) {
        if !buffers.outgoing.is_empty() {
            self.ring.record_processor();
        }
        while !buffers.outgoing.is_empty() {
            match self.ring.write(buffers.outgoing.unsent()) {
                Ok(count) if count > 0 => {
                    self.moved = true;
                    self.spin.restart_wait();
                    buffers.outgoing.mark_sent(count);
                }
                // Impossible counters are reported by the next read.
                Ok(_) | Err(_) => return,
            }
            if self.ring.take_wake_request(WakeCondition::Bytes) {
                self.ring_doorbell();
            }
        }
    }

    /// Wakes the worker if it is seen to sleep until there is space. Returns `false` if its counters are impossible.
    fn wake_worker_for_space(&mut self) -> bool {
        let wants = self.ring.take_wake_request_for_space();
        if wants == Ok(true) {
            self.ring_doorbell();
        }
        wants.is_ok()
    }

    fn ring_doorbell(&mut self) {
        match self.tx.notify().map_err(io::Error::from) {
            Ok(()) => {}
            Err(error) if is_passing(&error) => self.retry.start(),
            // The worker would sleep for ever. Report the channel as closed.
            Err(_) => self.rx = None,
        }
    }

    /// Empties the doorbell pipe, whose bytes carry no information. Whatever is written from now on is reported.
    fn drain_doorbell(&self) {
        if let Some(rx) = &self.rx {
            // The pipe is empty, or closed, which the reactor reports.
            let _ = descriptors::read_and_discard(rx.as_fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{AnyWorkerIo, WorkerIo};

    /// G2: some kernels report no byte that is written to a doorbell behind others, so none may be left in it.
    #[test]
    fn the_doorbell_is_empty_when_the_host_sleeps() -> Result<(), Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let (mut rings, _, worker_end) = Rings::new(None)?;
            let (mut worker, _) = AnyWorkerIo::open(worker_end)?;
            let mut buffers = Buffers::default();
            for round in 0..10 {
                // The host sleeps, is woken, and sleeps again.
                for number in [0, 1] {
                    while rings.exchange_once(&mut buffers).await != Arrived::Nothing {}
                    let doorbell = rings.rx.as_ref().ok_or("no doorbell")?;
                    assert_eq!(rustix::io::ioctl_fionread(doorbell.as_fd())?, 0, "{round}, {number}");
                    assert_eq!(worker.send(b"a reply", false)?, 7);
                }
            }
            Ok(())
        })
    }

    /// T3: a worker that sends without a pause, and each time before the host looks, holds up no timer.
    #[test]
    fn an_end_that_always_looks_again_has_its_timers_polled_once_in_a_while()
    -> Result<(), Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let (mut rings, _, worker_end) = Rings::new(None)?;
            let (mut worker, _) = AnyWorkerIo::open(worker_end)?;
            let mut buffers = Buffers::default();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut looks = 0;
            for _ in 0..10 {
                let mut in_a_row = 0;
                loop {
                    worker.send(b"a record", true)?;
                    assert_eq!(rings.poll_exchange(&mut buffers, &mut cx, true), Poll::Ready(Arrived::Some));
                    assert_eq!(rings.poll_exchange(&mut buffers, &mut cx, true), Poll::Pending);
                    if !rings.looks_again() {
                        break;
                    }
                    in_a_row += 1;
                    assert!(in_a_row <= MAX_UNTIMED_LOOKS);
                }
                looks += in_a_row;
            }
            assert!(looks > 0, "it does look again");
            Ok(())
        })
    }

    #[test]
    fn an_end_looks_in_place_only_while_no_other_one_looks() -> Result<(), Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _entered = runtime.enter();
        let ends = [Rings::new(None)?, Rings::new(None)?];
        let mut rings = Vec::new();
        for (host, _, worker_end) in ends {
            let (mut worker, _) = AnyWorkerIo::open(worker_end)?;
            worker.send(b"a reply", true)?;
            rings.push((host, worker));
        }
        let looks = [0, 0, 1, 0, 1, 1].map(|at: usize| rings[at].0.look_in_place());
        assert_eq!(looks, [false, true, false, false, false, true]);
        Ok(())
    }

    impl Rings {
        /// What one poll comes to after the reactor had its turn.
        async fn exchange_once(&mut self, buffers: &mut Buffers) -> Arrived {
            let mut last = Arrived::Nothing;
            for _ in 0..4 {
                tokio::task::yield_now().await;
                let polled = std::future::poll_fn(|cx| Poll::Ready(self.poll_exchange(buffers, cx, false)));
                match polled.await {
                    Poll::Ready(arrived) => last = arrived,
                    Poll::Pending => {}
                }
            }
            last
        }
    }
}
