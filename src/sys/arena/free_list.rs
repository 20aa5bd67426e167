//! Which bytes of an arena are whose. Nothing here touches memory.

use std::collections::BTreeMap;
use std::ops::Range;

/// What is free: warm where the system has its memory still with us, and cold where it has not.
#[derive(Debug)]
pub(super) struct FreeList {
    warm: Ranges,
    cold: Ranges,
    length: usize,
    /// Free bytes that may stay warm.
    kept: usize,
    in_use: usize,
}

impl FreeList {
    pub(super) fn new(length: usize, kept: usize) -> Self {
        let (warm, mut cold) = (Ranges::default(), Ranges::default());
        cold.put(0..length);
        FreeList { warm, cold, length, kept, in_use: 0 }
    }

    /// Bytes that there are.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Bytes that are taken.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Takes so many bytes in a row, warm ones if there are; where they begin. `give_back` makes warm ones cold, where
    /// only both kinds together are enough.
    pub(super) fn take(&mut self, count: usize, mut give_back: impl FnMut(Range<usize>)) -> Option<usize> {
        if count > self.length - self.in_use {
            return None;
        }
        let start = match self.warm.take(count).or_else(|| self.cold.take(count)) {
            Some(start) => start,
            None => {
                for range in self.warm.drain() {
                    give_back(range.clone());
                    self.cold.put(range);
                }
                self.cold.take(count)?
            }
        };
        self.in_use += count;
        Some(start)
    }

    /// Takes bytes back that are not needed any more; `false` if they are too many to stay warm: they are nobody's until
    /// [`is_back`](Self::is_back).
    pub(super) fn keep(&mut self, range: Range<usize>) -> bool {
        let fits = self.warm.bytes + range.len() <= self.kept;
        if fits {
            self.in_use -= range.len();
            self.warm.put(range);
        }
        fits
    }

    /// The system has these back.
    pub(super) fn is_back(&mut self, range: Range<usize>) {
        self.in_use -= range.len();
        self.cold.put(range);
    }
}

/// Ranges that touch neither each other nor what is not theirs, by where they begin.
#[derive(Debug, Default)]
struct Ranges {
    ends: BTreeMap<usize, usize>,
    bytes: usize,
}

impl Ranges {
    /// Takes so many bytes from the first range that has them.
    fn take(&mut self, count: usize) -> Option<usize> {
        if count > self.bytes {
            return None;
        }
        let (start, end) =
            self.ends.iter().map(|(start, end)| (*start, *end)).find(|(start, end)| end - start >= count)?;
        self.ends.remove(&start);
        if start + count < end {
            self.ends.insert(start + count, end);
        }
        self.bytes -= count;
        Some(start)
    }

    fn put(&mut self, Range { mut start, mut end }: Range<usize>) {
        self.bytes += end - start;
        if let Some((&before, &until)) = self.ends.range(..start).next_back()
            && until == start
        {
            start = before;
        }
        if let Some(behind) = self.ends.remove(&end) {
            end = behind;
        }
        self.ends.insert(start, end);
    }

    fn drain(&mut self) -> impl Iterator<Item = Range<usize>> + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.ends).into_iter().map(|(start, end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::seeded_rng::{SeededRng, seeds};

    #[test]
    fn what_is_warm_is_taken_first_and_what_is_too_much_goes_back() {
        let mut space = FreeList::new(100, 30);
        let none = |_: Range<usize>| unreachable!("there is enough of one kind");
        assert_eq!((space.take(20, none), space.take(40, none)), (Some(0), Some(20)));
        assert!(space.keep(0..20), "it is little enough to stay warm");
        assert!(!space.keep(20..60), "with what is warm already it is too much");
        assert_eq!(space.in_use(), 40, "it is nobody else's until it is back");
        space.is_back(20..60);
        assert_eq!((space.take(20, none), space.in_use()), (Some(0), 20));
    }

    #[test]
    fn where_only_both_kinds_are_enough_the_warm_go_back() {
        let mut space = FreeList::new(100, 100);
        assert_eq!(space.take(60, |_| ()), Some(0));
        assert!(space.keep(0..60));
        let mut back = Vec::new();
        assert_eq!(space.take(80, |range| back.push(range)), Some(0));
        assert_eq!(back.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(), [(0, 60)]);
        assert_eq!(space.take(21, |_| ()), None);
    }

    #[test]
    fn whatever_is_taken_and_given_no_byte_has_two_owners_and_none_is_lost() {
        for seed in seeds(0..200) {
            let mut chance = SeededRng::new(seed);
            let mut space = FreeList::new(1000, chance.pick(&[0, 50, 1000]));
            let mut taken: Vec<Range<usize>> = Vec::new();
            for _ in 0..300 {
                if chance.happens(550) {
                    let count = 1 + chance.below(200);
                    if let Some(start) = space.take(count, |_| ()) {
                        assert!(start + count <= 1000, "seed {seed}");
                        let overlaps =
                            |range: &Range<usize>| start < range.end && range.start < start + count;
                        assert!(!taken.iter().any(overlaps), "seed {seed}");
                        taken.push(start..start + count);
                    }
                } else if !taken.is_empty() {
                    let range = taken.swap_remove(chance.below(taken.len()));
                    if !space.keep(range.clone()) {
                        space.is_back(range);
                    }
                }
                assert_eq!(space.in_use(), taken.iter().map(Range::len).sum::<usize>(), "seed {seed}");
            }
            for range in taken {
                if !space.keep(range.clone()) {
                    space.is_back(range);
                }
            }
            assert_eq!(space.take(1000, |_| ()), Some(0), "seed {seed}: all of it is free in one piece");
        }
    }
}
