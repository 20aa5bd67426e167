//! The gate of a worker: one word by which the host takes back calls that it has written and the worker has not begun.
//!
//! The host writes calls ahead of their replies, and gives each the current epoch. The worker begins a call by raising the
//! count of begun calls in a compare-and-swap that fails in another epoch. The host takes back all calls that have not
//! begun by raising the epoch, which tells it the count at that moment. So each call either begins or is taken back, and
//! both sides agree on which.
//!
//! A worker writes to the word, so the host checks what it reads there. A worker that begins a call in spite of the gate
//! runs it twice, as one may that answers a call without running it.
//!
//! Everything here is generic over the shared memory: `tests/loom` includes this file and has it run through all
//! interleavings. So it names nothing else of this crate.

use std::sync::atomic::Ordering;

/// The word that both sides see.
pub(crate) trait GateWord {
    fn load(&self, order: Ordering) -> u32;
    /// Stores `new` if the number is `current`; returns the number otherwise.
    fn swap_if(&self, current: u32, new: u32) -> Result<(), u32>;
}

/// The word has a value that only a worker can have written that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker's gate is corrupt")]
#[cfg_attr(not(feature = "actors"), allow(dead_code, reason = "only the host takes calls back"))]
pub(crate) struct CorruptGate;

/// What the word holds. Both numbers wrap; far fewer calls than that are ever written ahead.
#[derive(Clone, Copy)]
struct Gate {
    epoch: u16,
    begun: u16,
}

impl Gate {
    fn of(word: u32) -> Self {
        // The casts take the two halves.
        Gate { epoch: (word >> 16) as u16, begun: word as u16 }
    }

    fn word(self) -> u32 {
        u32::from(self.epoch) << 16 | u32::from(self.begun)
    }
}

/// Begins a call of this epoch at the worker; returns `false` if the host has taken it back.
pub(crate) fn begin(word: &impl GateWord, epoch: u16) -> bool {
    let mut seen = word.load(Ordering::Acquire);
    loop {
        let gate = Gate::of(seen);
        if gate.epoch != epoch {
            return false;
        }
        let begun = Gate { begun: gate.begun.wrapping_add(1), ..gate };
        match word.swap_if(seen, begun.word()) {
            Ok(()) => return true,
            Err(now) => seen = now,
        }
    }
}

/// The host's side of the gate. It keeps what it knows for sure, and does not read that back.
#[derive(Default)]
#[cfg_attr(not(feature = "actors"), allow(dead_code, reason = "only the host takes calls back"))]
pub(crate) struct HostGate {
    epoch: u16,
    /// Calls behind the gate that were answered, since the worker's start.
    answered: u16,
    /// Calls that were written and neither answered nor taken back.
    open: u16,
}

#[cfg_attr(not(feature = "actors"), allow(dead_code, reason = "only the host takes calls back"))]
impl HostGate {
    /// Returns the epoch of the calls that are written now.
    pub(crate) fn epoch(&self) -> u16 {
        self.epoch
    }

    /// Notes that a call was written.
    pub(crate) fn add_written(&mut self) {
        self.open += 1;
    }

    /// Notes that the first open call was answered.
    pub(crate) fn add_answered(&mut self) {
        self.open = self.open.saturating_sub(1);
        self.answered = self.answered.wrapping_add(1);
    }

    /// Returns how many of the open calls have begun, or had begun when the worker died.
    ///
    /// # Errors
    ///
    /// [`CorruptGate`]; the worker is not to be used any more.
    pub(crate) fn begun(&self, word: &impl GateWord) -> Result<usize, CorruptGate> {
        self.check(Gate::of(word.load(Ordering::Acquire)))
    }

    /// Takes back all calls that have not begun, and starts a new epoch. Returns how many of the open calls have begun; the
    /// others never will.
    ///
    /// # Errors
    ///
    /// [`CorruptGate`]; the worker is not to be used any more.
    pub(crate) fn take_back(&mut self, word: &impl GateWord) -> Result<usize, CorruptGate> {
        let mut seen = word.load(Ordering::Acquire);
        let next = self.epoch.wrapping_add(1);
        // Each failure is a call that has begun meanwhile.
        for _ in 0..=self.open {
            let gate = Gate::of(seen);
            let begun = self.check(gate)?;
            match word.swap_if(seen, Gate { epoch: next, ..gate }.word()) {
                Ok(()) => {
                    self.epoch = next;
                    self.open = u16::try_from(begun).unwrap_or(self.open);
                    return Ok(begun);
                }
                Err(now) => seen = now,
            }
        }
        Err(CorruptGate)
    }

    fn check(&self, gate: Gate) -> Result<usize, CorruptGate> {
        let begun = gate.begun.wrapping_sub(self.answered);
        if gate.epoch == self.epoch && begun <= self.open { Ok(begun.into()) } else { Err(CorruptGate) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// A host and a worker at one gate, with two calls written.
    fn two_written() -> (AtomicU32, HostGate) {
        let mut host = HostGate::default();
        host.add_written();
        host.add_written();
        (AtomicU32::new(0), host)
    }

    #[test]
    fn a_call_either_begins_or_is_taken_back() {
        let (word, mut host) = two_written();
        let epoch = host.epoch();
        assert_eq!(host.begun(&word), Ok(0));
        assert!(begin(&word, epoch));
        assert_eq!(host.begun(&word), Ok(1));
        assert_eq!(host.take_back(&word), Ok(1));
        assert!(!begin(&word, epoch), "it is taken back");
        host.add_answered();
        host.add_written();
        assert!(begin(&word, host.epoch()));
        assert_eq!(host.take_back(&word), Ok(1));
    }

    #[test]
    fn both_numbers_wrap() {
        let (word, mut host) = (AtomicU32::new(0), HostGate::default());
        for _ in 0..70_000 {
            host.add_written();
            assert!(begin(&word, host.epoch()));
            assert_eq!(host.take_back(&word), Ok(1));
            host.add_answered();
            assert_eq!(host.begun(&word), Ok(0));
        }
    }

    #[test]
    fn a_word_that_no_worker_writes_is_an_error() {
        for word in [1 << 16, 3, u32::MAX, 0xffff] {
            let (_, mut host) = two_written();
            let word = AtomicU32::new(word);
            assert_eq!(host.begun(&word), Err(CorruptGate));
            assert_eq!(host.take_back(&word), Err(CorruptGate));
        }
    }

    /// A worker could hold the host up with a word that changes all the time.
    #[test]
    fn a_word_that_never_stands_still_is_an_error() {
        struct Restless;

        impl GateWord for Restless {
            fn load(&self, _: Ordering) -> u32 {
                0
            }

            fn swap_if(&self, _: u32, _: u32) -> Result<(), u32> {
                Err(1)
            }
        }

        let (_, mut host) = two_written();
        assert_eq!(host.take_back(&Restless), Err(CorruptGate));
    }
}
