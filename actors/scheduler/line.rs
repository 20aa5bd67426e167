//! Waiting checkouts that stand behind each other, with what is asked of them at once: who is first, and who is the first
//! that is no lane.

use std::collections::BTreeMap;

/// Where a waiting checkout stands among those of all lines: a lower rank stands further in front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    at: i64,
    /// Puts those in order that have joined directly ahead of one that has this `at`. The highest belongs to that one.
    ahead: u64,
}

impl Rank {
    pub(super) fn new(at: i64) -> Self {
        Rank { at, ahead: u64::MAX }
    }

    /// Returns a rank directly ahead of this one, and behind those of lower numbers.
    pub(super) fn ahead(self, number: u64) -> Self {
        Rank { at: self.at, ahead: number }
    }
}

/// Those of one bulkhead, or all without one. What it does takes a time that grows with the logarithm of their number.
#[derive(Default)]
pub(super) struct Line {
    checkouts: BTreeMap<Rank, u64>,
    lanes: BTreeMap<Rank, u64>,
}

impl Line {
    pub(super) fn insert(&mut self, rank: Rank, id: u64, is_lane: bool) {
        let previous = self.of_kind(is_lane).insert(rank, id);
        debug_assert!(previous.is_none(), "a rank is given once");
    }

    pub(super) fn remove(&mut self, rank: Rank, is_lane: bool) {
        self.of_kind(is_lane).remove(&rank);
    }

    fn of_kind(&mut self, is_lane: bool) -> &mut BTreeMap<Rank, u64> {
        if is_lane { &mut self.lanes } else { &mut self.checkouts }
    }

    pub(super) fn len(&self) -> usize {
        self.checkouts.len() + self.lanes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.checkouts.is_empty() && self.lanes.is_empty()
    }

    /// Returns how many are no lanes.
    pub(super) fn exclusive(&self) -> usize {
        self.checkouts.len()
    }

    /// Returns the first one.
    pub(super) fn front(&self) -> Option<(Rank, u64)> {
        first_of(&self.checkouts).into_iter().chain(first_of(&self.lanes)).min()
    }

    /// Returns the first one that is no lane and has fewer than so many ahead of it.
    pub(super) fn first_exclusive(&self, most: usize) -> Option<(Rank, u64)> {
        let first = first_of(&self.checkouts).filter(|_| most > 0)?;
        let is_within = self.lanes.len() < most || self.lanes.range(..first.0).take(most).count() < most;
        is_within.then_some(first)
    }

    /// Returns all from front to back, with their ranks.
    pub(super) fn ranked(&self) -> impl Iterator<Item = (Rank, u64)> {
        let (mut checkouts, mut lanes) = (self.checkouts.iter().peekable(), self.lanes.iter().peekable());
        std::iter::from_fn(move || {
            let is_lane = match (checkouts.peek(), lanes.peek()) {
                (Some(checkout), Some(lane)) => lane < checkout,
                (checkout, _) => checkout.is_none(),
            };
            let next = if is_lane { lanes.next() } else { checkouts.next() };
            next.map(|(rank, id)| (*rank, *id))
        })
    }
}

fn first_of(ids: &BTreeMap<Rank, u64>) -> Option<(Rank, u64)> {
    ids.first_key_value().map(|(rank, id)| (*rank, *id))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_line_behaves_like_a_sorted_list(
            joins in prop::collection::vec((any::<bool>(), -50_i64..50, 0_u64..3), 0..60),
            leaves in prop::collection::vec(any::<usize>(), 0..30),
            most in 0_usize..8,
        ) {
            let (mut line, mut model) = (Line::default(), Vec::<(Rank, u64, bool)>::new());
            for (id, (is_lane, at, ahead)) in (0_u64..).zip(joins) {
                let rank = Rank::new(at).ahead(ahead);
                if model.iter().all(|(other, ..)| *other != rank) {
                    line.insert(rank, id, is_lane);
                    model.push((rank, id, is_lane));
                }
            }
            for at in leaves {
                if model.is_empty() {
                    break;
                }
                let (rank, _, is_lane) = model.swap_remove(at % model.len());
                line.remove(rank, is_lane);
            }
            model.sort_unstable();
            let whole: Vec<_> = model.iter().map(|(rank, id, _)| (*rank, *id)).collect();
            prop_assert_eq!(line.ranked().collect::<Vec<_>>(), whole.clone());
            prop_assert_eq!(line.front(), whole.first().copied());
            prop_assert_eq!((line.len(), line.is_empty()), (whole.len(), whole.is_empty()));
            prop_assert_eq!(line.exclusive(), model.iter().filter(|(.., is_lane)| !is_lane).count());
            for most in [most, usize::MAX] {
                let first = model.iter().take(most).find(|(.., is_lane)| !is_lane);
                prop_assert_eq!(line.first_exclusive(most), first.map(|(rank, id, _)| (*rank, *id)));
            }
        }
    }
}
