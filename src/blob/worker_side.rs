//! A worker's side: the arguments it was lent, and the results it lends.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::result_arena::{ResultArena, SLOTS};
use super::{Blob, Body};
use crate::sys::arena::{Allocation, Arena, ReadOnlyAllocation, ReadOnlyArena};
use crate::wire::call::{ArenaSpan, Lent};

/// What this process, if it is a worker, shares with its host.
static LENDING: OnceLock<Lending> = OnceLock::new();

struct Lending {
    /// The worker itself: what a handler forks has a copy of all this, and nothing to say in it.
    process: u32,
    arguments: Option<Arc<ReadOnlyArena>>,
    annex: Option<ResultArena>,
    /// Made when it is first needed.
    arena: OnceLock<Option<Arc<Arena>>>,
    books: Mutex<LoanRegistry>,
}

#[derive(Default)]
struct LoanRegistry {
    /// Rooms that the host reads, by the numbers under which they were lent.
    lent: Vec<(usize, Arc<Allocation>)>,
    /// Numbers that were used and are free again, and how many were ever used.
    free: Vec<usize>,
    used: usize,
    /// Rooms of the host's that are in use beyond their call.
    held: Vec<Arc<ReadOnlyAllocation>>,
    /// Those that the host was told of.
    told: Vec<u64>,
}

/// This process is a worker, and has these two to share with its host.
pub(crate) fn begin(arguments: Option<Arc<ReadOnlyArena>>, annex: Option<ResultArena>) {
    let (process, arena, books) = (std::process::id(), OnceLock::new(), Mutex::default());
    // A process becomes a worker once.
    let _ = LENDING.set(Lending { process, arguments, annex, arena, books });
}

/// A room for a result; `None` in a process that is no worker, and where there is no room.
pub(super) fn room(bytes: usize) -> Option<Allocation> {
    LENDING.get()?.room(bytes)
}

/// Where results lie, if they have such a place, which may be full.
pub(super) fn arena() -> Option<&'static Arc<Arena>> {
    LENDING.get()?.arena()
}

/// What the host lends with its next call.
///
/// # Errors
///
/// `InvalidData` where that cannot be.
pub(crate) fn hear(spans: &[ArenaSpan]) -> io::Result<Vec<Blob>> {
    let arguments = LENDING.get().and_then(|lending| lending.arguments.as_ref());
    let room = |span: &ArenaSpan| {
        let (start, length) = (usize::try_from(span.start).ok()?, usize::try_from(span.length).ok()?);
        arguments?.room(start, length).map(|room| Blob(Body::Argument(Arc::new(room))))
    };
    let blobs: Option<Vec<Blob>> = spans.iter().map(room).collect();
    blobs.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it lends what it does not have"))
}

/// Lends what a result refers to; `None` where there is no room for all of it.
pub(crate) fn lend(blobs: Vec<Blob>) -> Option<Vec<PendingLoan>> {
    let lending = LENDING.get()?;
    blobs.into_iter().map(|blob| lending.lend(blob)).collect()
}

/// A call is over: which arguments are still in use, all of them by where they begin, if that has changed since this was
/// last asked. What the host has given back is free again.
pub(crate) fn tell(arguments: Vec<Blob>) -> Option<Vec<u64>> {
    LENDING.get()?.tell(arguments)
}

impl Lending {
    fn arena(&self) -> Option<&Arc<Arena>> {
        self.arena.get_or_init(|| self.annex.as_ref().and_then(ResultArena::claim)).as_ref()
    }

    fn room(&self, bytes: usize) -> Option<Allocation> {
        self.books().sweep(self.annex.as_ref());
        self.arena()?.room(bytes)
    }

    fn lend(&self, blob: Blob) -> Option<PendingLoan> {
        let room = match blob.0 {
            Body::Argument(room) => {
                return Some(PendingLoan { annex: None, lent: Lent::Given { start: room.start() as u64 } });
            }
            Body::Allocation(room) => room,
            Body::Heap(bytes) => {
                let mut room = self.room(bytes.len())?;
                room.copy_from_slice(&bytes);
                Arc::new(room)
            }
            // It is the host that has these.
            Body::Result(_) => return None,
        };
        if std::process::id() != self.process {
            return None;
        }
        let annex = self.annex.as_ref()?;
        let mut books = self.books();
        books.sweep(Some(annex));
        let slot = books.free_slot()?;
        annex.lend(slot);
        let span = ArenaSpan { start: room.start() as u64, length: room.len() as u64 };
        books.lent.push((slot, room));
        // There are fewer than that.
        let lent = Lent::Own { slot: slot as u32, span };
        Some(PendingLoan { annex: Some((annex.clone(), slot)), lent })
    }

    fn tell(&self, arguments: Vec<Blob>) -> Option<Vec<u64>> {
        let mut books = self.books();
        books.sweep(self.annex.as_ref());
        books.leave(self.annex.as_ref());
        for blob in arguments {
            if let Body::Argument(room) = blob.0 {
                books.held.push(room);
            }
        }
        if books.held.is_empty() && books.told.is_empty() {
            return None;
        }
        // Whoever else has it is the worker's own code.
        books.held.retain(|room| Arc::strong_count(room) > 1);
        let mut held: Vec<u64> = books.held.iter().map(|room| room.start() as u64).collect();
        held.sort_unstable();
        held.dedup();
        if held == books.told {
            return None;
        }
        books.told.clone_from(&held);
        Some(held)
    }

    fn books(&self) -> MutexGuard<'_, LoanRegistry> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoanRegistry {
    /// Lets go of what the host has given back.
    fn sweep(&mut self, annex: Option<&ResultArena>) {
        if let Some(annex) = annex {
            let back = self.lent.extract_if(.., |(slot, _)| annex.is_back(*slot));
            self.free.extend(back.map(|(slot, _)| slot));
        }
    }

    /// A number that nothing is lent under, if there is one.
    fn free_slot(&mut self) -> Option<usize> {
        self.free.pop().or_else(|| {
            let next = Some(self.used).filter(|&slot| slot < SLOTS)?;
            self.used += 1;
            Some(next)
        })
    }

    /// Notes which of those that are lent the worker's own code does not have any more.
    fn leave(&self, annex: Option<&ResultArena>) {
        if let Some(annex) = annex {
            let left = self.lent.iter().filter(|(_, room)| Arc::strong_count(room) == 1);
            left.for_each(|(slot, _)| annex.leave(*slot));
        }
    }
}

/// Something that is about to be lent; given back if it is dropped before that is said.
#[derive(Debug)]
pub(crate) struct PendingLoan {
    annex: Option<(ResultArena, usize)>,
    lent: Lent,
}

impl PendingLoan {
    /// It is being said.
    pub(crate) fn said(mut self) -> Lent {
        self.annex = None;
        std::mem::replace(&mut self.lent, Lent::Given { start: 0 })
    }
}

impl Drop for PendingLoan {
    fn drop(&mut self) {
        if let Some((annex, slot)) = &self.annex {
            annex.give_back(*slot);
        }
    }
}
