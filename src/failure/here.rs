//! What is known of a failure where it was made, and does not travel with it.

use std::sync::atomic::{AtomicBool, Ordering};

/// It makes no difference between failures.
#[derive(Debug, Default)]
pub(super) struct Here {
    /// Whether the message exceeded a limit of its size on its way into the pool. For who reads a failure that has
    /// travelled, another message was sent.
    pub(super) too_large: bool,
    is_told: AtomicBool,
}

impl Here {
    /// Notes that the report of the failure is told. Returns whether it was not before.
    pub(super) fn mark_told(&self) -> bool {
        !self.is_told.swap(true, Ordering::Relaxed)
    }
}

impl Clone for Here {
    fn clone(&self) -> Self {
        let is_told = AtomicBool::new(self.is_told.load(Ordering::Relaxed));
        Here { too_large: self.too_large, is_told }
    }
}

impl PartialEq for Here {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Here {}

#[cfg(test)]
mod tests {
    use crate::failure::Failure;

    #[test]
    fn a_failure_is_told_once_with_its_clones_and_equals_one_that_is_not() {
        let failure = Failure::task("it failed").of_large_message(true);
        let (clone, later) = (failure.clone(), Failure::task("it failed"));
        assert!(failure.mark_told());
        assert!(!clone.mark_told());
        assert!(!clone.in_pool("a pool").mark_told());
        assert_eq!(failure, later);
        assert!(later.mark_told());
    }
}
