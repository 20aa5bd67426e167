//! The bulkheads of a pool: who shares one, and what lanes see of the queue without the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Scheduler;
use super::line::Rank;
use super::registry::Registry;
use super::waiting::{Ahead, BulkheadId};
use crate::config::Options;

/// Whose workers a bulkhead counts.
#[derive(Debug, PartialEq, Eq)]
enum Members {
    /// The calls of a message, by its name.
    Message(&'static str),
    /// A class of callers, by its name.
    Class(String),
}

/// The most workers that the calls of a message, or those of a class of callers, have at a time.
pub(crate) struct Bulkhead {
    pub(crate) id: BulkheadId,
    members: Members,
    /// Those that come before the lanes of this bulkhead.
    pub(crate) queue: QueueView,
    /// The most workers, as last set.
    most: AtomicUsize,
}

impl Bulkhead {
    fn new(id: BulkheadId, members: Members, most: usize) -> Arc<Self> {
        Arc::new(Bulkhead { id, members, queue: QueueView::default(), most: AtomicUsize::new(most) })
    }

    /// Returns the most workers, as last set.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Returns the name of the class or the message.
    pub(crate) fn name(&self) -> &str {
        match &self.members {
            Members::Message(name) => name,
            Members::Class(name) => name,
        }
    }
}

/// Those in the queue that may have a worker before a lane has one, as lanes see them without the scheduler's lock.
pub(crate) struct QueueView {
    /// How many they are, lanes among them.
    waiting: AtomicUsize,
    /// The first of them; `u64::MAX` without one.
    first: AtomicU64,
    /// The first of them that is no lane; `u64::MAX` without one.
    first_exclusive: AtomicU64,
}

impl Default for QueueView {
    fn default() -> Self {
        QueueView {
            waiting: AtomicUsize::new(0),
            first: AtomicU64::new(u64::MAX),
            first_exclusive: AtomicU64::new(u64::MAX),
        }
    }
}

impl QueueView {
    /// Shows what has changed; called under the scheduler's lock.
    pub(super) fn show(&self, ahead: Ahead) {
        let id = |of: Option<(Rank, u64)>| of.map_or(u64::MAX, |(_, id)| id);
        self.waiting.store(ahead.count, Ordering::Relaxed);
        self.first.store(id(ahead.first), Ordering::Relaxed);
        self.first_exclusive.store(id(ahead.first_exclusive), Ordering::Relaxed);
    }

    /// Returns whether checkouts wait besides these.
    pub(crate) fn others_wait(&self, own: usize) -> bool {
        self.waiting.load(Ordering::Relaxed) > own
    }

    /// Returns the number of the first waiting checkout that is no lane; `u64::MAX` without one. Calls with a lower
    /// number came before it.
    pub(crate) fn first_exclusive(&self) -> u64 {
        self.first_exclusive.load(Ordering::Relaxed)
    }

    /// Returns the number of the first in the queue; `u64::MAX` if it is empty.
    pub(crate) fn first(&self) -> u64 {
        self.first.load(Ordering::Relaxed)
    }
}

/// Returns the bulkheads that a pool begins with: those of messages, numbered as in its state.
pub(super) fn of_messages(options: &Options) -> Vec<Arc<Bulkhead>> {
    let limits = options.message_limits.iter().enumerate();
    limits
        .map(|(at, limit)| Bulkhead::new(BulkheadId(at), Members::Message(limit.name), limit.most))
        .collect()
}

/// Returns these bulkheads by the message's index in the interface.
pub(super) fn by_message(options: &Options, bulkheads: &[Arc<Bulkhead>]) -> Vec<Option<Arc<Bulkhead>>> {
    let mut by_message = Vec::new();
    for (limit, bulkhead) in options.message_limits.iter().zip(bulkheads) {
        let at = usize::try_from(limit.method).unwrap_or(usize::MAX);
        if by_message.len() <= at {
            by_message.resize(at + 1, None);
        }
        by_message[at] = Some(bulkhead.clone());
    }
    by_message
}

impl Scheduler {
    /// Returns the bulkhead of a message that is sent to the pool, if it has one.
    pub(crate) fn bulkhead_of(&self, method: u32) -> Option<&Arc<Bulkhead>> {
        self.message_bulkheads.get(usize::try_from(method).ok()?)?.as_ref()
    }

    /// Returns what lanes see of the queue.
    pub(crate) fn queue_at<'a>(&'a self, bulkhead: Option<&'a Arc<Bulkhead>>) -> &'a QueueView {
        bulkhead.map_or(&self.lanes.queue, |bulkhead| &bulkhead.queue)
    }

    /// Returns the bulkhead of a class, and sets the most workers of the class.
    pub(crate) fn class(self: &Arc<Self>, name: &str, most: usize) -> Arc<Bulkhead> {
        let bulkhead = self.update(|registry, now| {
            let bulkhead = registry.class(name, most);
            bulkhead.most.store(most, Ordering::Relaxed);
            registry.state.set_most(bulkhead.id, most, now);
            bulkhead
        });
        // Lanes that have as many workers as they could have ask for more.
        self.wake_lanes();
        bulkhead
    }
}

impl Registry {
    fn class(&mut self, name: &str, most: usize) -> Arc<Bulkhead> {
        let is_this =
            |bulkhead: &&Arc<Bulkhead>| matches!(&bulkhead.members, Members::Class(class) if class == name);
        if let Some(bulkhead) = self.bulkheads.iter().find(is_this) {
            return bulkhead.clone();
        }
        let id = self.state.waiting.add_bulkhead(most);
        let bulkhead = Bulkhead::new(id, Members::Class(name.to_owned()), most);
        self.bulkheads.push(bulkhead.clone());
        bulkhead
    }

    /// Says that a bulkhead permits no more workers, if that is so.
    pub(super) fn full_text(&self, bulkhead: BulkheadId) -> Option<String> {
        let (in_use, most) = self.state.waiting().usage(bulkhead).filter(|(in_use, most)| in_use >= most)?;
        let of = match &self.bulkheads.get(bulkhead.0)?.members {
            Members::Message(name) => format!("for {name}"),
            Members::Class(name) => format!("of class {name}"),
        };
        Some(format!("{in_use} of {most} workers {of} are in use"))
    }
}
