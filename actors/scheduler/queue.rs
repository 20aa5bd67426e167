//! A queue with removal from the middle in constant time.

use std::collections::HashMap;

/// An ordered set of ids: a doubly linked list in a hash map. Pushing and popping at the back and removing from the middle
/// take constant time.
#[derive(Default)]
pub(crate) struct LinkedQueue {
    nodes: HashMap<u64, Node>,
    ends: Option<Ends>,
}

struct Node {
    prev: Option<u64>,
    next: Option<u64>,
}

#[derive(Clone, Copy)]
struct Ends {
    front: u64,
    back: u64,
}

impl LinkedQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn front(&self) -> Option<u64> {
        self.ends.map(|ends| ends.front)
    }

    /// Returns the ids from front to back.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        std::iter::successors(self.front(), |id| self.nodes.get(id)?.next)
    }

    /// Adds an id at the back. The id must not be in the queue.
    pub(crate) fn push_back(&mut self, id: u64) {
        let prev = self.ends.map(|ends| ends.back);
        let previous = self.nodes.insert(id, Node { prev, next: None });
        debug_assert!(previous.is_none(), "an id is in the queue at most once");
        self.link(prev, Some(id));
        self.link(Some(id), None);
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
        PopBack,
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<QueueStep>> {
        let step = prop_oneof![
            3 => Just(QueueStep::PushBack),
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
                        queue.push_back(id);
                        model.push_back(id);
                    }
                    QueueStep::PopBack => prop_assert_eq!(queue.pop_back(), model.pop_back()),
                    QueueStep::Remove(_) if model.is_empty() => prop_assert!(!queue.remove(id)),
                    QueueStep::Remove(at) => {
                        let removed = model.remove(at % model.len());
                        prop_assert!(removed.is_some_and(|removed| queue.remove(removed)));
                    }
                }
                prop_assert_eq!(queue.iter().collect::<VecDeque<_>>(), model.clone());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
        }
    }
}
