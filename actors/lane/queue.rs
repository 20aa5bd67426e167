//! The calls of a lane that no worker has, in order.

use std::collections::VecDeque;

use super::state::Queued;

/// A queue of calls. It counts those that need places of their own among the waiting checkouts.
pub(crate) struct Queue<C, M> {
    calls: VecDeque<Queued<C, M>>,
    runs: usize,
}

impl<C, M> Default for Queue<C, M> {
    fn default() -> Self {
        Queue { calls: VecDeque::new(), runs: 0 }
    }
}

impl<C, M> Queue<C, M> {
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Returns how many runs there are, see [`Queued::starts_run`]. The first call is part of one in any case.
    pub(crate) fn runs(&self) -> usize {
        self.runs + usize::from(self.first().is_some_and(|first| !first.starts_run))
    }

    pub(crate) fn first(&self) -> Option<&Queued<C, M>> {
        self.calls.front()
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Queued<C, M>> {
        self.calls.get_mut(at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Queued<C, M>> {
        self.calls.iter()
    }

    /// Returns which of these places among the waiting checkouts, in order, the lane can do without best: one that is older
    /// than all calls while a checkout comes before them, or else the last of those that serve the same run, or of all.
    /// `first_exclusive` is the number of the first waiting checkout that is no lane.
    pub(crate) fn surplus(
        &self,
        places: impl ExactSizeIterator<Item = u64>,
        first_exclusive: u64,
    ) -> Option<usize> {
        let last = places.len().checked_sub(1)?;
        let Some(first) = self.first().filter(|_| first_exclusive != u64::MAX) else { return Some(last) };
        let is_next = first.ticket < first_exclusive;
        let starts = self.calls.iter().enumerate().filter(|(at, call)| *at == 0 || call.starts_run);
        let mut starts = starts.map(|(_, call)| call.ticket).peekable();
        let (mut run, mut run_before, mut shared) = (0, 0, None);
        for (at, place) in places.enumerate() {
            while starts.next_if(|start| *start < place).is_some() {
                run += 1;
            }
            if run == 0 && !is_next {
                return Some(at);
            }
            let serves = run.max(1);
            if std::mem::replace(&mut run_before, serves) == serves {
                shared = Some(at);
            }
        }
        Some(shared.unwrap_or(last))
    }

    /// Adds a call behind those with lower numbers: it may have been sent on another thread before them.
    pub(crate) fn insert(&mut self, queued: Queued<C, M>) {
        self.runs += usize::from(queued.starts_run);
        let behind = self.calls.iter().rev().take_while(|other| other.ticket > queued.ticket).count();
        self.calls.insert(self.calls.len() - behind, queued);
    }

    /// Adds a call ahead of all others.
    pub(crate) fn push_first(&mut self, queued: Queued<C, M>) {
        self.runs += usize::from(queued.starts_run);
        self.calls.push_front(queued);
    }

    pub(crate) fn pop_first(&mut self) -> Option<Queued<C, M>> {
        let first = self.calls.pop_front()?;
        self.runs -= usize::from(first.starts_run);
        Some(first)
    }

    /// Takes a call that gets no worker. The next one of its run starts that run then.
    pub(crate) fn remove(&mut self, at: usize) -> Option<Queued<C, M>> {
        let queued = self.calls.remove(at)?;
        match self.calls.get_mut(at) {
            Some(next) if at > 0 && !next.starts_run => next.starts_run = queued.starts_run,
            _ => self.runs -= usize::from(queued.starts_run),
        }
        Some(queued)
    }

    /// Drops the calls for which this is `false`.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Queued<C, M>) -> bool) {
        let mut at = 0;
        while let Some(queued) = self.calls.get(at) {
            if keep(queued) {
                at += 1;
            } else {
                self.remove(at);
            }
        }
    }

    /// Takes all calls.
    pub(crate) fn take(&mut self) -> VecDeque<Queued<C, M>> {
        self.runs = 0;
        std::mem::take(&mut self.calls)
    }
}

#[cfg(test)]
mod tests {

    use super::super::state::Single;
    use super::*;
    use crate::clock::Instant;

    /// P4
    #[test]
    fn each_run_keeps_a_place() {
        // Calls as (number, starts a run), places, the first checkout that is no lane, and the place to do without.
        type Row = (&'static [(u64, bool)], &'static [u64], u64, usize);
        let table: [Row; 8] = [
            (&[(30, true)], &[11, 31], 20, 0),
            (&[(10, true), (30, true)], &[11, 12, 31], 20, 1),
            (&[(10, true), (30, true)], &[11, 31, 32], 20, 2),
            (&[(10, false), (12, false)], &[11, 13], 20, 1),
            (&[(0, false), (30, true)], &[5, 11, 31], 20, 1),
            (&[(10, true), (30, true)], &[11, 31], u64::MAX, 1),
            (&[], &[11, 31], 20, 1),
            (&[(10, true), (30, true), (50, true)], &[11, 31, 33, 51], 20, 2),
        ];
        for (calls, places, first_exclusive, expected) in table {
            let mut queue = Queue::default();
            for (ticket, starts_run) in calls {
                let single = Single::new((), None, Instant::now());
                queue.insert(Queued { single, message: (), ticket: *ticket, starts_run: *starts_run });
            }
            let surplus = queue.surplus(places.iter().copied(), first_exclusive);
            assert_eq!(surplus, Some(expected), "{calls:?} with {places:?} before {first_exclusive}");
        }
        assert_eq!(Queue::<(), ()>::default().surplus([].into_iter(), 20), None);
    }
}
