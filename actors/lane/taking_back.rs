//! Calls that a worker has not begun: taken back because they stand behind a slow one, or were given up.

use std::collections::BTreeSet;

use super::driver::Driver;
use crate::actors::reply::AnswerSlot;
use crate::clock::Instant;

impl Driver {
    /// Notes which calls have begun behind the first one, where that makes a difference.
    pub(super) fn note_progress(&mut self, now: Instant) {
        for (worker, held) in self.workers.iter_mut().zip(&mut self.state.held) {
            if held.is_slow(now)
                && let Some(Ok(Some(begun))) = worker.channel().map(|channel| channel.begun())
            {
                held.mark_begun(begun, now);
            }
        }
    }

    /// Drops the calls that their requesters gave up before they began, and notes which are to be killed.
    pub(super) fn drop_cancelled(&mut self) {
        if !self.signals.take_cancelled(&mut self.doomed) {
            return;
        }
        for at in 0..self.workers.len() {
            // The first call has not begun either while the worker runs `checkout_done`.
            let begun = self.workers[at].channel().map(|channel| channel.begun());
            let Some(Ok(Some(begun))) = begun else { continue };
            let mut waiting = self.state.held[at].written.iter().skip(begun);
            if waiting.any(|call| call.single.call.slot.is_abandoned()) {
                self.take_back(at);
            }
        }
        self.state.queued.retain(|queued| !queued.single.call.slot.is_abandoned());
        self.forget_doomed();
    }

    /// Forgets those that are answered or in another lane.
    pub(super) fn forget_doomed(&mut self) {
        if !self.doomed.is_empty() {
            let written = self.state.held.iter().flat_map(|held| &held.written);
            let numbers = written.filter_map(|call| call.single.call.slot.request_number());
            let doomed: BTreeSet<_> = numbers.filter(|number| self.doomed.contains(number)).collect();
            self.doomed = doomed;
        }
    }

    /// Takes back the calls that a worker has not begun, to be written anew.
    pub(super) fn take_back(&mut self, at: usize) {
        let (worker, held) = (&mut self.workers[at], &mut self.state.held[at]);
        // A gate that is corrupt is found again by what reads it next; nothing is taken back there.
        let Some(Ok(Some(begun))) = worker.channel().map(|channel| channel.take_back()) else { return };
        let taken = held.take_behind(begun);
        self.state.requeue(taken, |id, place| worker.message(id, place));
        if begun == 0 {
            self.show_running(at);
        }
    }

    /// Has calls run elsewhere that stand behind a slow one.
    pub(super) fn spread(&mut self, now: Instant) {
        self.note_progress(now);
        while let Some(slow) = self.state.slow_worker(now) {
            let (before, stuck_since) =
                (self.state.held[slow].written.len(), self.state.held[slow].stuck_since());
            self.take_back(slow);
            if let Some(since) = stuck_since
                && self.state.held[slow].written.is_empty()
            {
                // This call has its worker. The others would only follow it there, as if the worker were free.
                self.write_first(slow, now);
                self.state.held[slow].stay_stuck(since);
            }
            if self.state.held[slow].written.len() == before {
                return;
            }
            self.write_queued(now);
        }
    }
}
