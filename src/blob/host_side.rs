//! Blobs in the host: arguments lie in the host's own arena, results are read from the arenas of its workers.

use std::sync::Arc;

use super::{Blob, BlobMut, Body, MIN_SHARED, ResultArena};
use crate::failure::Failure;
use crate::sys::arena::Arena;
use crate::wire::call::ArenaSpan;

impl Blob {
    /// Returns a blob with the same bytes in `arena`, copied unless they lie there already; `None` if it has no space.
    pub(crate) fn into_arena(self, arena: &Arc<Arena>) -> Option<Self> {
        if matches!(&self.0, Body::Allocation(allocation) if allocation.belongs_to(arena)) {
            return Some(self);
        }
        let mut allocation = arena.allocation(self.len())?;
        if !allocation.commit(self.len()) {
            return None;
        }
        self.read_at(0, &mut allocation);
        Some(Blob(Body::Allocation(Arc::new(allocation))))
    }

    /// Returns where the bytes lie in the arena of this process; `None` if they do not lie in one.
    pub(crate) fn span(&self) -> Option<ArenaSpan> {
        match &self.0 {
            Body::Allocation(allocation) => {
                Some(ArenaSpan { start: allocation.start() as u64, length: allocation.len() as u64 })
            }
            Body::Heap(_) | Body::Argument(_) | Body::Result(_) => None,
        }
    }

    /// Returns the blob that a worker claims to have lent; `None` if it cannot exist.
    pub(crate) fn from_worker(result_arena: &ResultArena, slot: u32, span: &ArenaSpan) -> Option<Self> {
        result_arena.allocation(slot, span).map(|allocation| Blob(Body::Result(Arc::new(allocation))))
    }
}

impl BlobMut {
    /// Allocates a blob in `arena`; in ordinary memory if there is no arena or `capacity` is below [`MIN_SHARED`].
    ///
    /// # Errors
    ///
    /// [`Overloaded`](crate::FailureKind::Overloaded) if the arena has no free range of that length.
    pub(crate) fn allocate(arena: Option<&Arc<Arena>>, capacity: usize) -> Result<Self, Failure> {
        match arena.filter(|_| capacity >= MIN_SHARED) {
            Some(arena) => arena
                .allocation(capacity)
                .map(BlobMut::in_allocation)
                .ok_or_else(|| super::arena_full(arena, capacity)),
            None => Ok(BlobMut::on_heap(capacity)),
        }
    }
}
