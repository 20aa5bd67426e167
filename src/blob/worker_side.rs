//! Blobs in a worker: the arguments lent to it, and the results it lends.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::result_arena::{MAX_LOANS, ResultArena};
use super::{Blob, Body};
use crate::sys::arena::{Allocation, Arena, ReadOnlyAllocation, ReadOnlyArena};
use crate::sys::original;
use crate::wire::call::{ArenaSpan, Lent, MAX_LENT};

/// The memory that this process, if it is a worker, shares with its host. A process that a handler forks has a copy of
/// all this and must not write to it.
static SHARED_ARENAS: OnceLock<SharedArenas> = OnceLock::new();

struct SharedArenas {
    arguments: Option<Arc<ReadOnlyArena>>,
    result_arena: Option<ResultArena>,
    /// The arena for results, created when it is first needed.
    arena: OnceLock<Option<Arc<Arena>>>,
    registry: Mutex<LoanRegistry>,
}

#[derive(Default)]
struct LoanRegistry {
    /// Allocations that the host reads, with their entries in the table.
    lent: Vec<(usize, Arc<Allocation>)>,
    /// Entries that were used before and are free again.
    free: Vec<usize>,
    /// How many entries were ever used.
    used: usize,
    /// Arguments that the worker's code still uses after their call.
    held: Vec<Arc<ReadOnlyAllocation>>,
    /// Start offsets of the arguments that were last reported to the host as held.
    reported: Vec<u64>,
}

/// Declares this process a worker and sets the memory that it shares with its host.
pub(crate) fn init_worker(arguments: Option<Arc<ReadOnlyArena>>, result_arena: Option<ResultArena>) {
    let (arena, registry) = (OnceLock::new(), Mutex::default());
    // A process becomes a worker once.
    let _ = SHARED_ARENAS.set(SharedArenas { arguments, result_arena, arena, registry });
}

/// Allocates memory for a result; `None` in a process that is not a worker, and if there is no space.
pub(super) fn allocation(bytes: usize) -> Option<Allocation> {
    SHARED_ARENAS.get()?.allocation(bytes)
}

/// The arena for results, which may be full; `None` if this process has none.
pub(super) fn arena() -> Option<&'static Arc<Arena>> {
    SHARED_ARENAS.get()?.arena()
}

/// Returns the blobs that the host lends with its next call.
///
/// # Errors
///
/// `InvalidData` if a range cannot exist.
pub(crate) fn receive_arguments(spans: &[ArenaSpan]) -> io::Result<Vec<Blob>> {
    let arguments = SHARED_ARENAS.get().and_then(|arenas| arenas.arguments.as_ref());
    let allocation = |span: &ArenaSpan| {
        let (start, length) = (usize::try_from(span.start).ok()?, usize::try_from(span.length).ok()?);
        arguments?.allocation(start, length).map(|allocation| Blob(Body::Argument(Arc::new(allocation))))
    };
    let blobs: Option<Vec<Blob>> = spans.iter().map(allocation).collect();
    blobs.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the call refers to a blob that does not exist")
    })
}

/// Lends the blobs of a result to the host; `None` if there are too many, or not enough space for all of them.
pub(crate) fn lend(blobs: Vec<Blob>) -> Option<Vec<PendingLoan>> {
    if blobs.len() > MAX_LENT || original::is_copy() {
        return None;
    }
    let arenas = SHARED_ARENAS.get()?;
    blobs.into_iter().map(|blob| arenas.lend(blob)).collect()
}

/// Ends a call and reclaims what the host has freed. Returns the start offsets of all arguments that the worker's code
/// still holds, or `None` if they have not changed since they were last reported.
pub(crate) fn finish_call(arguments: Vec<Blob>) -> Option<Vec<u64>> {
    SHARED_ARENAS.get()?.finish_call(arguments)
}

impl SharedArenas {
    fn arena(&self) -> Option<&Arc<Arena>> {
        self.arena.get_or_init(|| self.result_arena.as_ref().and_then(ResultArena::create_arena)).as_ref()
    }

    fn allocation(&self, bytes: usize) -> Option<Allocation> {
        self.registry().reclaim(self.result_arena.as_ref());
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
                if !allocation.commit(bytes.len()) {
                    return None;
                }
                allocation.copy_from_slice(&bytes);
                Arc::new(allocation)
            }
            // Only the host has these.
            Body::Result(_) => return None,
        };
        let result_arena = self.result_arena.as_ref()?;
        let mut registry = self.registry();
        registry.reclaim(Some(result_arena));
        let slot = registry.free_slot()?;
        result_arena.mark_lent(slot);
        let span = ArenaSpan { start: allocation.start() as u64, length: allocation.len() as u64 };
        registry.lent.push((slot, allocation));
        // There are at most MAX_LOANS slots, so the cast loses nothing.
        let lent = Lent::Own { slot: slot as u32, span };
        Some(PendingLoan { result_arena: Some((result_arena.clone(), slot)), lent })
    }

    fn finish_call(&self, arguments: Vec<Blob>) -> Option<Vec<u64>> {
        let mut registry = self.registry();
        registry.reclaim(self.result_arena.as_ref());
        registry.mark_unused(self.result_arena.as_ref());
        for blob in arguments {
            if let Body::Argument(allocation) = blob.0 {
                registry.held.push(allocation);
            }
        }
        if registry.held.is_empty() && registry.reported.is_empty() {
            return None;
        }
        // Any other reference belongs to the worker's code.
        registry.held.retain(|allocation| Arc::strong_count(allocation) > 1);
        let mut held: Vec<u64> = registry.held.iter().map(|allocation| allocation.start() as u64).collect();
        held.sort_unstable();
        held.dedup();
        if held == registry.reported {
            return None;
        }
        registry.reported.clone_from(&held);
        Some(held)
    }

    fn registry(&self) -> MutexGuard<'_, LoanRegistry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoanRegistry {
    /// Drops the allocations that the host has freed.
    fn reclaim(&mut self, result_arena: Option<&ResultArena>) {
        if let Some(result_arena) = result_arena {
            let back = self.lent.extract_if(.., |(slot, _)| result_arena.is_free(*slot));
            self.free.extend(back.map(|(slot, _)| slot));
        }
    }

    /// Returns an unused entry of the table, or `None` if all are in use.
    fn free_slot(&mut self) -> Option<usize> {
        self.free.pop().or_else(|| {
            let next = Some(self.used).filter(|&slot| slot < MAX_LOANS)?;
            self.used += 1;
            Some(next)
        })
    }

    /// Marks the lent allocations that the worker's code has dropped.
    fn mark_unused(&self, result_arena: Option<&ResultArena>) {
        if let Some(result_arena) = result_arena {
            let left = self.lent.iter().filter(|(_, allocation)| Arc::strong_count(allocation) == 1);
            left.for_each(|(slot, _)| result_arena.mark_host_only(*slot));
        }
    }
}

/// A blob that is about to be lent. Dropping it without [`commit`](Self::commit) takes the loan back.
#[derive(Debug)]
pub(crate) struct PendingLoan {
    result_arena: Option<(ResultArena, usize)>,
    lent: Lent,
}

impl PendingLoan {
    /// Makes the loan final, because it is being written to the host.
    pub(crate) fn commit(mut self) -> Lent {
        self.result_arena = None;
        std::mem::replace(&mut self.lent, Lent::Given { start: 0 })
    }
}

impl Drop for PendingLoan {
    fn drop(&mut self) {
        if let Some((result_arena, slot)) = &self.result_arena {
            result_arena.release(*slot);
        }
    }
}
