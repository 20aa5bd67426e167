//! The host's side: its arguments lie in its own arena, and results are read in those of its workers.

use std::sync::Arc;

use super::{Blob, BlobMut, Body, INLINE, ResultArena};
use crate::failure::Failure;
use crate::sys::arena::Arena;
use crate::wire::call::ArenaSpan;

impl Blob {
    /// The same bytes in this arena; `None` where it has no room for them.
    pub(crate) fn within(self, arena: &Arc<Arena>) -> Option<Self> {
        if matches!(&self.0, Body::Allocation(allocation) if allocation.is_of(arena)) {
            return Some(self);
        }
        let mut allocation = arena.allocation(self.len())?;
        self.read_at(0, &mut allocation);
        Some(Blob(Body::Allocation(Arc::new(allocation))))
    }

    /// Where it lies in its arena, if it does in one of this process.
    pub(crate) fn span(&self) -> Option<ArenaSpan> {
        match &self.0 {
            Body::Allocation(allocation) => {
                Some(ArenaSpan { start: allocation.start() as u64, length: allocation.len() as u64 })
            }
            Body::Heap(_) | Body::Argument(_) | Body::Result(_) => None,
        }
    }

    /// What a worker says it has lent; `None` where that cannot be.
    pub(crate) fn lent_by(result_arena: &ResultArena, slot: u32, span: &ArenaSpan) -> Option<Self> {
        result_arena.allocation(slot, span).map(|allocation| Blob(Body::Result(Arc::new(allocation))))
    }
}

impl BlobMut {
    /// Room for so many bytes in this arena, if there is one and they are worth that.
    ///
    /// # Errors
    ///
    /// That it is full.
    pub(crate) fn within(arena: Option<&Arc<Arena>>, capacity: usize) -> Result<Self, Failure> {
        match arena.filter(|_| capacity >= INLINE) {
            Some(arena) => arena
                .allocation(capacity)
                .map(BlobMut::in_room)
                .ok_or_else(|| super::no_room(arena, capacity)),
            None => Ok(BlobMut::on_heap(capacity)),
        }
    }
}
