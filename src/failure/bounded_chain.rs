//! The limit on the length of a chain of causes. A chain is decoded and dropped recursively, and a cause takes as
//! little as two bytes when encoded. Without a limit a worker could send a chain of millions and overflow the stack of
//! the process that decodes it.

use std::cell::Cell;

/// The largest depth of a chain of causes, the failure included. Longer chains of texts are cut; longer encoded chains
/// are rejected.
pub(super) const MAX_CHAIN: usize = 32;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Counts one cause that is being decoded on this thread, until it is dropped.
pub(super) struct DepthGuard;

impl DepthGuard {
    /// Goes one level deeper.
    ///
    /// # Errors
    ///
    /// A decoding error at the largest depth; the depth is unchanged then.
    pub(super) fn enter<E: serde::de::Error>() -> Result<Self, E> {
        if DEPTH.get() >= MAX_CHAIN {
            return Err(E::custom("a chain of causes is too long"));
        }
        DEPTH.set(DEPTH.get() + 1);
        Ok(DepthGuard)
    }
}

impl Drop for DepthGuard {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}
