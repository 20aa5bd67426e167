//! How deep a chain of causes may be. Each link is decoded within the one before, and dropped so: a worker that
//! sends a chain of millions, two bytes for each, must not exhaust the stack of whoever decodes it.

use std::cell::Cell;

/// Most links of a chain of causes that are kept or decoded; nobody reads further.
pub(super) const DEEPEST: usize = 32;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// One link that is being decoded.
pub(super) struct DepthGuard;

impl DepthGuard {
    /// One level further down.
    ///
    /// # Errors
    ///
    /// A text for whoever decodes, below the deepest.
    pub(super) fn enter<E: serde::de::Error>() -> Result<Self, E> {
        if DEPTH.get() >= DEEPEST {
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
