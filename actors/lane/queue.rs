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
