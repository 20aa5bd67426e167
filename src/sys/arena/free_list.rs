//! Which ranges of an arena are free. Nothing here touches memory.

use std::collections::BTreeMap;
use std::ops::Range;

/// The free ranges of an arena: resident ones, which still have memory, and returned ones, whose memory the system has.
#[derive(Debug)]
pub(super) struct FreeList {
    resident: Ranges,
    returned: Ranges,
    length: usize,
    /// Most free bytes that stay resident.
    kept: usize,
    in_use: usize,
}

impl FreeList {
    pub(super) fn new(length: usize, kept: usize) -> Self {
        let (resident, mut returned) = (Ranges::default(), Ranges::default());
        returned.insert(0..length);
        FreeList { resident, returned, length, kept, in_use: 0 }
    }

    /// Bytes of the whole arena.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Bytes that are not free.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Takes `count` contiguous bytes, resident ones if possible, and returns where they begin and whether they are
    /// resident; `None` if there is no such range. If only both kinds together suffice, `return_pages` is called for all resident ranges first.
    pub(super) fn take(
        &mut self,
        count: usize,
        mut return_pages: impl FnMut(Range<usize>),
    ) -> Option<(usize, bool)> {
        if count > self.length - self.in_use {
            return None;
        }
        let resident = self.resident.take(count).map(|start| (start, true));
        let taken = match resident.or_else(|| self.returned.take(count).map(|start| (start, false))) {
            Some(taken) => taken,
            None => {
                for range in self.resident.drain() {
                    return_pages(range.clone());
                    self.returned.insert(range);
                }
                (self.returned.take(count)?, false)
            }
        };
        self.in_use += count;
        Some(taken)
    }

    /// Takes the free bytes from `start` on, up to `most` of them, and returns how many and whether they are resident;
    /// `None` if `start` does not begin a free range. It takes bytes of one kind only, so more may be free behind them.
    #[cfg(feature = "actors")]
    pub(super) fn take_at(&mut self, start: usize, most: usize) -> Option<(usize, bool)> {
        let resident = self.resident.take_at(start, most).map(|count| (count, true));
        let taken = resident.or_else(|| self.returned.take_at(start, most).map(|count| (count, false)))?;
        self.in_use += taken.0;
        Some(taken)
    }

    /// Frees a range and keeps it resident. Returns `false` if too many bytes are resident already; the range stays in
    /// use then until [`mark_returned`](Self::mark_returned).
    pub(super) fn try_keep(&mut self, range: Range<usize>) -> bool {
        let fits = self.resident.bytes + range.len() <= self.kept;
        if fits {
            self.in_use -= range.len();
            self.resident.insert(range);
        }
        fits
    }

    /// Frees a range whose memory was returned to the system.
    pub(super) fn mark_returned(&mut self, range: Range<usize>) {
        self.in_use -= range.len();
        self.returned.insert(range);
    }
}

/// Disjoint ranges that do not touch each other, by their beginnings.
#[derive(Debug, Default)]
struct Ranges {
    /// The end of each range, by its beginning.
    ends: BTreeMap<usize, usize>,
    /// Bytes of all ranges.
    bytes: usize,
}

impl Ranges {
    /// Takes `count` bytes from the first range that is long enough.
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

    /// Takes up to `most` bytes of the range that begins at `start` and returns how many.
    #[cfg(feature = "actors")]
    fn take_at(&mut self, start: usize, most: usize) -> Option<usize> {
        let end = self.ends.remove(&start)?;
        let count = most.min(end - start);
        if start + count < end {
            self.ends.insert(start + count, end);
        }
        self.bytes -= count;
        Some(count)
    }

    /// Adds a range and joins it with its neighbours.
    fn insert(&mut self, Range { mut start, mut end }: Range<usize>) {
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

    /// Removes all ranges.
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
    fn resident_ranges_are_taken_first_and_too_many_of_them_are_returned() {
        let mut free_list = FreeList::new(100, 30);
        let none = |_: Range<usize>| unreachable!("one kind suffices");
        assert_eq!(
            (free_list.take(20, none), free_list.take(40, none)),
            (Some((0, false)), Some((20, false)))
        );
        assert!(free_list.try_keep(0..20), "few enough bytes to stay resident");
        assert!(!free_list.try_keep(20..60), "too many, with those that are resident already");
        assert_eq!(free_list.in_use(), 40, "in use until their memory is returned");
        free_list.mark_returned(20..60);
        assert_eq!((free_list.take(20, none), free_list.in_use()), (Some((0, true)), 20));
    }

    #[test]
    fn if_only_both_kinds_suffice_the_resident_ranges_are_returned() {
        let mut free_list = FreeList::new(100, 100);
        assert_eq!(free_list.take(60, |_| ()), Some((0, false)));
        assert!(free_list.try_keep(0..60));
        let mut back = Vec::new();
        assert_eq!(free_list.take(80, |range| back.push(range)), Some((0, false)));
        assert_eq!(back.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(), [(0, 60)]);
        assert_eq!(free_list.take(21, |_| ()), None);
    }

    #[cfg(feature = "actors")]
    #[test]
    fn what_is_free_behind_a_range_is_taken_kind_by_kind() {
        let mut free_list = FreeList::new(100, 100);
        assert_eq!(
            (free_list.take(10, |_| ()), free_list.take(20, |_| ())),
            (Some((0, false)), Some((10, false)))
        );
        assert_eq!(free_list.take_at(10, 5), None, "in use");
        assert!(free_list.try_keep(10..30));
        assert_eq!(free_list.take_at(10, 5), Some((5, true)));
        assert_eq!(free_list.take_at(15, 50), Some((15, true)), "up to those whose memory the system has");
        assert_eq!(free_list.take_at(30, 60), Some((60, false)));
        assert_eq!(free_list.in_use(), 90);
        assert_eq!(free_list.take_at(90, 60), Some((10, false)));
        assert_eq!(free_list.take_at(100, 1), None, "the end");
    }

    #[test]
    fn no_byte_ever_has_two_owners_and_none_is_lost() {
        for seed in seeds(0..200) {
            let mut chance = SeededRng::new(seed);
            let mut free_list = FreeList::new(1000, chance.pick(&[0, 50, 1000]));
            let mut taken: Vec<Range<usize>> = Vec::new();
            for _ in 0..300 {
                if chance.happens(550) {
                    let count = 1 + chance.below(200);
                    if let Some((start, _)) = free_list.take(count, |_| ()) {
                        assert!(start + count <= 1000, "seed {seed}");
                        let overlaps =
                            |range: &Range<usize>| start < range.end && range.start < start + count;
                        assert!(!taken.iter().any(overlaps), "seed {seed}");
                        taken.push(start..start + count);
                    }
                } else if chance.happens(400) && !taken.is_empty() {
                    let grown = chance.below(taken.len());
                    let (end, most) = (taken[grown].end, 1 + chance.below(200));
                    if let Some((count, _)) = free_list.take_at(end, most) {
                        assert!(count <= most && end + count <= 1000, "seed {seed}");
                        let overlaps = |range: &Range<usize>| end < range.end && range.start < end + count;
                        assert!(!taken.iter().any(overlaps), "seed {seed}");
                        taken[grown].end += count;
                    }
                } else if !taken.is_empty() {
                    let range = taken.swap_remove(chance.below(taken.len()));
                    if !free_list.try_keep(range.clone()) {
                        free_list.mark_returned(range);
                    }
                }
                assert_eq!(free_list.in_use(), taken.iter().map(Range::len).sum::<usize>(), "seed {seed}");
            }
            for range in taken {
                if !free_list.try_keep(range.clone()) {
                    free_list.mark_returned(range);
                }
            }
            assert_eq!(
                free_list.take(1000, |_| ()).map(|(start, _)| start),
                Some(0),
                "seed {seed}: all of it is free in one piece"
            );
        }
    }
}
