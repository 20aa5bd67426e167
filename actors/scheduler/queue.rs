//! A queue with removal from the middle in constant time.

use std::collections::HashMap;

/// Where an id stands among those of several queues: a lower one stands further in front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    at: i64,
    /// Puts those in order that have joined directly ahead of one that has this `at`. The highest belongs to that one.
    ahead: u64,
}

impl Rank {
    pub(crate) fn new(at: i64) -> Self {
        Rank { at, ahead: u64::MAX }
    }

    /// Returns a rank directly ahead of this one, and behind those of lower numbers.
    pub(crate) fn ahead(self, number: u64) -> Self {
        Rank { at: self.at, ahead: number }
    }
}

/// An ordered set of ids, each with a rank: a doubly linked list in a hash map. Pushing and popping at both ends and
/// removing from the middle take constant time, and [`insert_ranked`](Self::insert_ranked) passes those ahead.
#[derive(Default)]
pub(crate) struct LinkedQueue {
    nodes: HashMap<u64, Node>,
    ends: Option<Ends>,
}

struct Node {
    rank: Rank,
    prev: Option<u64>,
    next: Option<u64>,
}

#[derive(Clone, Copy)]
struct Ends {
    front: u64,
    back: u64,
}

impl LinkedQueue {
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn front(&self) -> Option<u64> {
        self.ends.map(|ends| ends.front)
    }

    /// Returns the ids from front to back.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        std::iter::successors(self.front(), |id| self.nodes.get(id)?.next)
    }

    /// Returns the ids from front to back, with their ranks.
    pub(crate) fn ranked(&self) -> impl Iterator<Item = (Rank, u64)> {
        self.iter().filter_map(|id| Some((self.nodes.get(&id)?.rank, id)))
    }

    /// Adds an id at the back. The id must not be in the queue.
    pub(crate) fn push_back(&mut self, id: u64) {
        self.push_back_ranked(id, Rank::default());
    }

    /// Adds an id with this rank at the back. The id must not be in the queue.
    pub(crate) fn push_back_ranked(&mut self, id: u64, rank: Rank) {
        let prev = self.ends.map(|ends| ends.back);
        self.insert(id, rank, prev, None);
    }

    /// Adds an id with this rank at the front. The id must not be in the queue.
    pub(crate) fn push_front_ranked(&mut self, id: u64, rank: Rank) {
        let next = self.front();
        self.insert(id, rank, None, next);
    }

    /// Adds an id with this rank behind those with lower ones. All must stand by their ranks, and the id must not be in the
    /// queue.
    pub(crate) fn insert_ranked(&mut self, id: u64, rank: Rank) {
        let next = self.ranked().find(|(other, _)| *other > rank).map(|(_, next)| next);
        let prev = match next {
            Some(next) => self.nodes.get(&next).and_then(|node| node.prev),
            None => self.ends.map(|ends| ends.back),
        };
        self.insert(id, rank, prev, next);
    }

    pub(crate) fn pop_back(&mut self) -> Option<u64> {
        let back = self.ends?.back;
        self.remove(back);
        Some(back)
    }

    /// Removes an id from any position. Returns `false` if it was not in the queue.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let Some(Node { prev, next, .. }) = self.nodes.remove(&id) else {
            return false;
        };
        self.link(prev, next);
        true
    }

    fn insert(&mut self, id: u64, rank: Rank, prev: Option<u64>, next: Option<u64>) {
        let previous = self.nodes.insert(id, Node { rank, prev, next });
        debug_assert!(previous.is_none(), "an id is in the queue at most once");
        self.link(prev, Some(id));
        self.link(Some(id), next);
    }

    /// Makes two nodes neighbours. `None` stands for the outside of an end.
    fn link(&mut self, prev: Option<u64>, next: Option<u64>) {
        if let Some(node) = prev.and_then(|id| self.nodes.get_mut(&id)) {
            node.next = next;
        }
        if let Some(node) = next.and_then(|id| self.nodes.get_mut(&id)) {
            node.prev = prev;
        }
        self.ends = match (prev, next, self.ends) {
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
    enum QueueStep {
        PushBack,
        PushFront,
        InsertBefore(usize),
        PopBack,
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<QueueStep>> {
        let step = prop_oneof![
            3 => Just(QueueStep::PushBack),
            1 => Just(QueueStep::PushFront),
            1 => any::<usize>().prop_map(QueueStep::InsertBefore),
            1 => Just(QueueStep::PopBack),
            2 => any::<usize>().prop_map(QueueStep::Remove),
        ];
        prop::collection::vec(step, 0..100)
    }

    proptest! {
        #[test]
        fn a_linked_queue_behaves_like_a_deque_with_removal_from_the_middle(steps in steps()) {
            let (mut queue, mut model) = (LinkedQueue::default(), VecDeque::new());
            for (id, step) in (0_u64..).zip(steps) {
                match step {
                    QueueStep::PushBack => {
                        queue.push_back_ranked(id, Rank::new(id as i64));
                        model.push_back((Rank::new(id as i64), id));
                    }
                    QueueStep::PushFront => {
                        queue.push_front_ranked(id, Rank::new(-(id as i64)));
                        model.push_front((Rank::new(-(id as i64)), id));
                    }
                    QueueStep::InsertBefore(_) if model.is_empty() => {}
                    QueueStep::InsertBefore(at) => {
                        let rank = model[at % model.len()].0.ahead(id);
                        let at = model.iter().take_while(|(other, _)| *other < rank).count();
                        queue.insert_ranked(id, rank);
                        model.insert(at, (rank, id));
                    }
                    QueueStep::PopBack => {
                        prop_assert_eq!(queue.pop_back(), model.pop_back().map(|(_, id)| id));
                    }
                    QueueStep::Remove(_) if model.is_empty() => prop_assert!(!queue.remove(id)),
                    QueueStep::Remove(at) => {
                        let removed = model.remove(at % model.len());
                        prop_assert!(removed.is_some_and(|(_, removed)| queue.remove(removed)));
                    }
                }
                prop_assert_eq!(queue.ranked().collect::<VecDeque<_>>(), model.clone());
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
        }
    }
}
