//! A channel through two rings in shared memory. Doorbell pipes wake the sleeping end, and their end-of-file
//! reports that the worker is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

use super::retry_timer::RetryTimer;
use super::{Arrived, Buffers, ROUNDS_BEFORE_YIELD};
use crate::blob::{ResultArena, ResultMemory};
use crate::channel::{
    AdaptiveSpin, DoorbellSender, HostDoorbells, Ring, StatusPage, WakeCondition, WorkerEnd, WorkerMemory,
    doorbells,
};
use crate::sys::passing::is_passing;
use crate::sys::process::Owner;
use crate::sys::{descriptors, reactor};

/// Maximum time (20 µs) for which the host spins for a reply; it looks once in each turn of the event loop, so
/// other tasks run in between.
const LONGEST_SPIN: Duration = Duration::from_micros(20);

/// The same maximum (100 µs) while a forked worker is being set up.
const SETUP_SPIN: Duration = Duration::from_micros(100);

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
    /// The application's process. A copy of it that is forked closes the channel for itself alone.
    owner: Owner,
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

    fn exchange(&mut self, buffers: &mut Buffers, cx: &mut Context<'_>, expects: bool) -> Poll<Arrived> {
        loop {
            self.rounds += 1;
            if self.rounds > ROUNDS_BEFORE_YIELD {
                // However much the worker sends, other tasks get their turn.
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
            if self.continue_polling(expects) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let condition =
                if buffers.outgoing.is_empty() { WakeCondition::Bytes } else { WakeCondition::Either };
            match self.ring.arm(condition) {
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

    /// Decides whether to look again after the other tasks of this thread, instead of waiting for the doorbell.
    ///
    /// It looks once more after bytes have moved, since most likely more will follow, and a look is cheaper than a
    /// doorbell. And it looks again for a short while if the worker runs on another processor and replies have
    /// usually come in that time. Other tasks are not held up by this.
    fn continue_polling(&mut self, expects: bool) -> bool {
        if std::mem::take(&mut self.moved) {
            return true;
        }
        expects && self.ring.peer_is_on_other_processor() && self.spin.try_spin(Instant::now())
    }

    pub(super) fn peer_is_on_other_processor(&self) -> bool {
        self.ring.peer_is_on_other_processor()
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
                match self.ring.take_wake_request_for_space() {
                    Ok(true) => self.ring_doorbell(),
                    Ok(false) => {}
                    Err(_) => return Arrived::Corrupt,
                }
                Arrived::Some
            }
            Err(_) => Arrived::Corrupt,
        }
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
