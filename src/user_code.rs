//! Calls code of the user's, and drops values of the user's, where a panic must end nothing.
//!
//! A message, a reply, an error, a local of a context or a subscriber has a type of the user's. Its `Drop`, `Display` or
//! `From` may panic on a thread or in an actor of the library, which goes on all the same. The panic hook has reported
//! the panic.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "actors")]
use std::task::Waker;

/// Runs code of the user's; returns `None` if it panicked.
pub(crate) fn caught<T>(code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(code)).map_err(drop_payload).ok()
}

/// Drops what a panic carries, which may be a value of the user's as well.
pub(crate) fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // The next one might panic in the same way, without end.
        mem::forget(second);
    }
}

/// Drops a value of the user's.
#[cfg(feature = "actors")]
pub(crate) fn drop_caught<T>(value: T) {
    if mem::needs_drop::<T>() {
        caught(move || drop(value));
    }
}

/// Drops values of the user's one after the other. A collection that is dropped at once goes on behind a panic, and a
/// second panic would abort the process.
#[cfg(feature = "actors")]
pub(crate) fn drop_each<T>(values: impl IntoIterator<Item = T>) {
    values.into_iter().for_each(drop_caught);
}

/// Wakes tasks, some of which may be the user's.
#[cfg(feature = "actors")]
pub(crate) fn wake_each(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(|waker| {
        caught(|| waker.wake());
    });
}

/// Values of the user's that are dropped one after the other.
#[cfg(feature = "actors")]
#[derive(Debug)]
pub(crate) struct UserValues<T>(pub(crate) Vec<T>);

#[cfg(feature = "actors")]
impl<T> Drop for UserValues<T> {
    fn drop(&mut self) {
        drop_each(mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics when it is dropped, with another one of its kind.
    struct Grudge(u32);

    impl Drop for Grudge {
        fn drop(&mut self) {
            if self.0 > 0 {
                std::panic::panic_any(Grudge(self.0 - 1));
            }
        }
    }

    /// G1
    #[test]
    fn a_panic_that_carries_a_value_that_panics_is_caught() {
        assert_eq!(caught(|| 7), Some(7));
        for depth in 1..4 {
            assert_eq!(caught(|| -> u32 { std::panic::panic_any(Grudge(depth)) }), None);
            drop_caught(Grudge(depth));
        }
    }

    /// G1
    #[cfg(feature = "actors")]
    #[test]
    fn each_value_of_a_collection_is_dropped_although_others_panic() {
        let kept = std::rc::Rc::new(());
        let value = || (Grudge(1), kept.clone());
        drop(UserValues(vec![value(), value(), value()]));
        assert_eq!(std::rc::Rc::strong_count(&kept), 1);
    }
}
