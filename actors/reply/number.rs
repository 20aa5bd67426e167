//! Numbers of requests: how a lane finds the call whose requester gave it up.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many numbers a thread takes at a time.
const BLOCK: usize = 1 << 12;

static NEXT_BLOCK: AtomicUsize = AtomicUsize::new(BLOCK);

thread_local! {
    /// The last number that was given out on this thread. The block is used up behind its last number.
    static LAST: Cell<usize> = const { Cell::new(BLOCK - 1) };
}

/// Returns a number that no other request of this process has.
pub(crate) fn next_request_number() -> NonZeroUsize {
    let next = LAST.get().wrapping_add(1);
    let next = if next.is_multiple_of(BLOCK) { NEXT_BLOCK.fetch_add(BLOCK, Ordering::Relaxed) } else { next };
    LAST.set(next);
    // Zero comes round after all other numbers.
    NonZeroUsize::new(next).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_is_given_out_twice() {
        let numbers = || Vec::from_iter((0..3 * BLOCK).map(|_| next_request_number()));
        let others = std::thread::spawn(numbers);
        let (own, others) = (numbers(), others.join().expect("it does not panic"));
        let all: BTreeSet<_> = own.into_iter().chain(others).collect();
        assert_eq!(all.len(), 6 * BLOCK);
    }
}
