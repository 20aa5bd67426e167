//! Whether the report of a failure was told.

use std::sync::atomic::{AtomicBool, Ordering};

/// Is marked once. It makes no difference between failures.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicBool);

impl Told {
    /// Marks it. Returns whether it was not marked before.
    pub(super) fn mark(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

impl Clone for Told {
    fn clone(&self) -> Self {
        Told(AtomicBool::new(self.0.load(Ordering::Relaxed)))
    }
}

impl PartialEq for Told {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Told {}

#[cfg(test)]
mod tests {
    use crate::failure::Failure;

    #[test]
    fn a_failure_is_told_once_with_its_clones_and_equals_one_that_is_not() {
        let failure = Failure::task("it failed");
        let (clone, later) = (failure.clone(), Failure::task("it failed"));
        assert!(failure.mark_told());
        assert!(!clone.mark_told());
        assert!(!clone.in_pool("a pool").mark_told());
        assert_eq!(failure, later);
        assert!(later.mark_told());
    }
}
