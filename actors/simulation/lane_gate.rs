//! How simulated lanes take back calls that a worker has not begun, at the worker's real gate.

use super::channel::SimPipe;
use super::lane::SimLane;
use super::world::World;

impl World {
    /// Returns how many of the open calls of a worker have begun; `None` without a gate.
    pub(super) fn begun(&self, lane: &SimLane, at: usize) -> Option<usize> {
        let lease = self.leases.get(&lane.workers[at].number).filter(|_| self.plan.has_gates)?;
        Some(lease.pipe.gate.begun(&lease.pipe.gate_word).expect("the gate is right"))
    }

    pub(super) fn note_progress(&self, lane: &mut SimLane) {
        let now = self.now();
        for at in 0..lane.workers.len() {
            if lane.state.held[at].is_slow(now)
                && let Some(begun) = self.begun(lane, at)
            {
                lane.state.held[at].mark_begun(begun, now);
            }
        }
    }

    /// Takes back the calls that a worker has not begun; returns how many those are.
    pub(super) fn take_back(&mut self, lane: &mut SimLane, at: usize) -> usize {
        let Some(begun) = self.close_gate(lane, at) else { return 0 };
        self.requeue_behind(lane, at, begun)
    }

    /// Starts a new epoch at the gate of a worker; returns how many of its open calls have begun, and `None` without a gate.
    pub(super) fn close_gate(&mut self, lane: &SimLane, at: usize) -> Option<usize> {
        let pipe = self.pipe(lane.workers[at].number)?;
        Some(pipe.gate.take_back(&pipe.gate_word).expect("the gate is right"))
    }

    /// Returns the channel of a worker with a gate, which those at ports have not.
    pub(super) fn pipe(&mut self, worker: u64) -> Option<&mut SimPipe> {
        let has_gates = self.plan.has_gates;
        self.leases.get_mut(&worker).filter(|_| has_gates).map(|lease| &mut lease.pipe)
    }

    pub(super) fn requeue_behind(&mut self, lane: &mut SimLane, at: usize, begun: usize) -> usize {
        let taken = lane.state.held[at].take_behind(begun);
        let count = taken.len();
        for written in &taken {
            let call = written.single.call.number;
            self.record("call taken back", || call.to_string());
            self.leave_worker(call);
        }
        lane.state.requeue(taken, |_, size| *size);
        count
    }

    pub(super) fn spread(&mut self, lane: &mut SimLane) {
        self.note_progress(lane);
        let now = self.now();
        while let Some(slow) = lane.state.slow_worker(now) {
            let stuck_since = lane.state.held[slow].stuck_since();
            if self.take_back(lane, slow) == 0 {
                return;
            }
            if let Some(since) = stuck_since
                && lane.state.held[slow].written.is_empty()
            {
                self.write_first(lane, slow);
                lane.state.held[slow].stay_stuck(since);
            }
            self.write_queued_singles(lane);
        }
    }
}
