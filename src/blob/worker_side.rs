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
    result_arena: Option<ResultArena>,
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
pub(crate) fn begin(arguments: Option<Arc<ReadOnlyArena>>, result_arena: Option<ResultArena>) {
    let (process, arena, books) = (std::process::id(), OnceLock::new(), Mutex::default());
    // A process becomes a worker once.
    let _ = LENDING.set(Lending { process, arguments, result_arena, arena, books });
}

/// A room for a result; `None` in a process that is no worker, and where there is no room.
pub(super) fn allocation(bytes: usize) -> Option<Allocation> {
    LENDING.get()?.allocation(bytes)
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
    let allocation = |span: &ArenaSpan| {
        let (start, length) = (usize::try_from(span.start).ok()?, usize::try_from(span.length).ok()?);
        arguments?.allocation(start, length).map(|allocation| Blob(Body::Argument(Arc::new(allocation))))
    };
    let blobs: Option<Vec<Blob>> = spans.iter().map(allocation).collect();
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
        self.arena.get_or_init(|| self.result_arena.as_ref().and_then(ResultArena::claim)).as_ref()
    }

    fn allocation(&self, bytes: usize) -> Option<Allocation> {
        self.books().sweep(self.result_arena.as_ref());
        self.arena()?.allocation(bytes)
    }

    fn lend(&self, blob: Blob) -> Option<PendingLoan> {
        let allocation = match blob.0 {
            Body::Argument(allocation) => {
                return Some(PendingLoan {
                    result_arena: None,
                    lent: Lent::Given { start: allocation.start() as u64 },
                });
            }
            Body::Allocation(allocation) => allocation,
            Body::Heap(bytes) => {
                let mut allocation = self.allocation(bytes.len())?;
                allocation.copy_from_slice(&bytes);
                Arc::new(allocation)
            }
            // It is the host that has these.
            Body::Result(_) => return None,
        };
        if std::process::id() != self.process {
            return None;
        }
        let result_arena = self.result_arena.as_ref()?;
        let mut books = self.books();
        books.sweep(Some(result_arena));
        let slot = books.free_slot()?;
        result_arena.lend(slot);
        let span = ArenaSpan { start: allocation.start() as u64, length: allocation.len() as u64 };
        books.lent.push((slot, allocation));
        // There are fewer than that.
        let lent = Lent::Own { slot: slot as u32, span };
        Some(PendingLoan { result_arena: Some((result_arena.clone(), slot)), lent })
    }

    fn tell(&self, arguments: Vec<Blob>) -> Option<Vec<u64>> {
        let mut books = self.books();
        books.sweep(self.result_arena.as_ref());
        books.leave(self.result_arena.as_ref());
        for blob in arguments {
            if let Body::Argument(allocation) = blob.0 {
                books.held.push(allocation);
            }
        }
        if books.held.is_empty() && books.told.is_empty() {
            return None;
        }
        // Whoever else has it is the worker's own code.
        books.held.retain(|allocation| Arc::strong_count(allocation) > 1);
        let mut held: Vec<u64> = books.held.iter().map(|allocation| allocation.start() as u64).collect();
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
    fn sweep(&mut self, result_arena: Option<&ResultArena>) {
        if let Some(result_arena) = result_arena {
            let back = self.lent.extract_if(.., |(slot, _)| result_arena.is_back(*slot));
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
    fn leave(&self, result_arena: Option<&ResultArena>) {
        if let Some(result_arena) = result_arena {
            let left = self.lent.iter().filter(|(_, allocation)| Arc::strong_count(allocation) == 1);
            left.for_each(|(slot, _)| result_arena.leave(*slot));
        }
    }
}

/// Something that is about to be lent; given back if it is dropped before that is said.
#[derive(Debug)]
pub(crate) struct PendingLoan {
    result_arena: Option<(ResultArena, usize)>,
    lent: Lent,
}

impl PendingLoan {
    /// It is being said.
    pub(crate) fn said(mut self) -> Lent {
        self.result_arena = None;
        std::mem::replace(&mut self.lent, Lent::Given { start: 0 })
    }
}

impl Drop for PendingLoan {
    fn drop(&mut self) {
        if let Some((result_arena, slot)) = &self.result_arena {
            result_arena.give_back(*slot);
        }
    }
}
