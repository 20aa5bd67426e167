//! A line in which every place can be given up at once, however long it is.

use std::collections::HashMap;

/// An ordered set of ids: pushed and taken at both ends, and removed from the middle, each in constant time.
#[derive(Default)]
pub(crate) struct LinkedQueue {
    places: HashMap<u64, Node>,
    ends: Option<Ends>,
}

struct Node {
    before: Option<u64>,
    behind: Option<u64>,
}

#[derive(Clone, Copy)]
struct Ends {
    front: u64,
    back: u64,
}

impl LinkedQueue {
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn front(&self) -> Option<u64> {
        self.ends.map(|ends| ends.front)
    }

    /// Ids from front to back.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        std::iter::successors(self.front(), |id| self.places.get(id)?.behind)
    }

    /// Adds an id that is not in the line yet.
    pub(crate) fn push_back(&mut self, id: u64) {
        let before = self.ends.map(|ends| ends.back);
        self.insert(id, before, None);
    }

    /// Adds an id that is not in the line yet ahead of all others.
    pub(crate) fn push_front(&mut self, id: u64) {
        let behind = self.front();
        self.insert(id, None, behind);
    }

    pub(crate) fn pop_front(&mut self) -> Option<u64> {
        let front = self.front()?;
        self.remove(front);
        Some(front)
    }

    pub(crate) fn pop_back(&mut self) -> Option<u64> {
        let back = self.ends?.back;
        self.remove(back);
        Some(back)
    }

    /// Takes an id out, wherever it stands; `false` if it was not in the line.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let Some(Node { before, behind }) = self.places.remove(&id) else {
            return false;
        };
        self.link(before, behind);
        true
    }

    fn insert(&mut self, id: u64, before: Option<u64>, behind: Option<u64>) {
        let previous = self.places.insert(id, Node { before, behind });
        debug_assert!(previous.is_none(), "an id stands in a line once");
        self.link(before, Some(id));
        self.link(Some(id), behind);
    }

    /// Makes two places neighbours; `None` is the outside of an end.
    fn link(&mut self, before: Option<u64>, behind: Option<u64>) {
        if let Some(place) = before.and_then(|id| self.places.get_mut(&id)) {
            place.behind = behind;
        }
        if let Some(place) = behind.and_then(|id| self.places.get_mut(&id)) {
            place.before = before;
        }
        self.ends = match (before, behind, self.ends) {
            (None, None, _) => None,
            (None, Some(front), Some(ends)) => Some(Ends { front, ..ends }),
            (Some(back), None, Some(ends)) => Some(Ends { back, ..ends }),
            (None, Some(only), None) | (Some(only), None, None) => Some(Ends { front: only, back: only }),
            (Some(_), Some(_), ends) => ends,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        PushBack,
        PushFront,
        PopFront,
        PopBack,
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::PushBack),
            1 => Just(Step::PushFront),
            1 => Just(Step::PopFront),
            1 => Just(Step::PopBack),
            2 => any::<usize>().prop_map(Step::Remove),
        ];
        prop::collection::vec(step, 0..100)
    }

    proptest! {
        #[test]
        fn a_line_is_a_deque_that_can_be_left_from_the_middle(steps in steps()) {
            let (mut queue, mut model) = (LinkedQueue::default(), VecDeque::new());
            for (id, step) in (0_u64..).zip(steps) {
                match step {
                    Step::PushBack => { queue.push_back(id); model.push_back(id); }
                    Step::PushFront => { queue.push_front(id); model.push_front(id); }
                    Step::PopFront => prop_assert_eq!(queue.pop_front(), model.pop_front()),
                    Step::PopBack => prop_assert_eq!(queue.pop_back(), model.pop_back()),
                    Step::Remove(_) if model.is_empty() => prop_assert!(!queue.remove(id)),
                    Step::Remove(at) => {
                        let removed = model.remove(at % model.len());
                        prop_assert!(removed.is_some_and(|removed| queue.remove(removed)));
                    }
                }
                prop_assert_eq!(queue.iter().collect::<VecDeque<_>>(), model.clone());
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
        }
    }
}
