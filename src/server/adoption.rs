//! Proof that an earlier server at the same path has forked a process.
//!
//! A pidfd alone proves nothing: any process may open one of any other. So a server sends with each pidfd a proof that
//! only servers of its own path can make, and its successor kills for a client only processes that come with theirs.

use std::hash::Hasher;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::{figures, random};

/// The secret of one path, which its servers keep in the lock file.
#[derive(Clone, Debug)]
pub(super) struct AdoptionKey(Arc<[AtomicU64; 2]>);

impl AdoptionKey {
    /// Makes a key that other processes cannot guess; `None` if the system has no random numbers.
    pub(super) fn new() -> Option<Self> {
        random::random_u128().ok().map(Self::from_number)
    }

    pub(super) fn from_number(number: u128) -> Self {
        AdoptionKey(Arc::new([(number >> 64) as u64, number as u64].map(AtomicU64::new)))
    }

    pub(super) fn number(&self) -> u128 {
        let (high, low) = self.halves();
        u128::from(high) << 64 | u128::from(low)
    }

    fn halves(&self) -> (u64, u64) {
        let [high, low] = &*self.0;
        (high.load(Ordering::Relaxed), low.load(Ordering::Relaxed))
    }

    /// Overwrites the key, in a forked process: its worker may be another user's by and by.
    pub(super) fn forget(&self) {
        self.0.iter().for_each(|half| half.store(0, Ordering::Relaxed));
    }

    /// Returns the proof that this process was forked by a server with this key; `None` if the process cannot be
    /// identified.
    pub(super) fn proof_for(&self, process: BorrowedFd<'_>) -> Option<u64> {
        let (number, started) = figures::identity(process)?;
        Some(self.tag(number, started))
    }

    /// Returns whether this is the proof for a process.
    pub(super) fn verify(&self, process: BorrowedFd<'_>, proof: u64) -> bool {
        figures::identity(process).is_some_and(|(number, started)| self.tag(number, started) == proof)
    }

    #[expect(
        deprecated,
        reason = "its successor promises no algorithm, and servers of other builds have to agree"
    )]
    fn tag(&self, number: u32, started: u64) -> u64 {
        let (high, low) = self.halves();
        // SipHash-2-4, a function that is made for this: without the key its values cannot be predicted.
        let mut hasher = std::hash::SipHasher::new_with_keys(high, low);
        hasher.write(&number.to_le_bytes());
        hasher.write(&started.to_le_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::process;

    /// G4
    #[test]
    fn a_proof_is_for_one_process_and_of_one_key() -> rustix::io::Result<()> {
        let own = process::open_pidfd(process::own_pid())?;
        let first = process::Pid::from_raw(1).map(process::open_pidfd).transpose()?;
        let key = AdoptionKey::from_number(7 << 64 | 8);
        let proof = key.proof_for(own.as_fd()).unwrap_or_default();
        assert!(key.verify(own.as_fd(), proof));
        assert_eq!(AdoptionKey::from_number(key.number()).proof_for(own.as_fd()), Some(proof));
        assert!(!key.verify(own.as_fd(), proof ^ 1));
        assert!(first.is_some_and(|first| !key.verify(first.as_fd(), proof)), "another process");
        assert!(!AdoptionKey::from_number(7 << 64 | 9).verify(own.as_fd(), proof), "another key");
        key.forget();
        assert!(!key.verify(own.as_fd(), proof), "a forgotten key");
        Ok(())
    }

    /// The algorithm may not change: the next server may be of another build. The value is that of the reference.
    #[test]
    fn the_proof_is_a_known_function() {
        let key = AdoptionKey::from_number(0x0706_0504_0302_0100_0f0e_0d0c_0b0a_0908);
        assert_eq!(key.tag(0x0302_0100, 0x0b0a_0908_0706_0504), reference_of_twelve_bytes());
    }

    /// SipHash-2-4 of the bytes 0 to 11 under the key of the bytes 0 to 15.
    fn reference_of_twelve_bytes() -> u64 {
        u64::from_le_bytes([0xfb, 0xe5, 0x0e, 0x86, 0xbc, 0x8f, 0x1e, 0x75])
    }
}
