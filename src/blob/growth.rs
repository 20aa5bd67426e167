//! A blob that takes memory as it is filled.

use std::io;
use std::sync::Arc;

use super::blob_mut::{Storage, no_memory};
use super::{BlobMut, MIN_SHARED};
use crate::failure::{Failure, FailureKind};
use crate::sys::arena::{Allocation, Arena};

/// Bytes that a blob takes from the arena first (32 KiB).
const FIRST: usize = 2 * MIN_SHARED;

/// Where a growing blob takes its memory from. It is in ordinary memory until it has [`MIN_SHARED`] bytes, and for good
/// where there is no arena.
pub(super) struct Growth {
    arena: Option<Arc<Arena>>,
    /// The pool that its failures name.
    pool: String,
}

impl BlobMut {
    /// A blob of up to `limit` bytes that takes memory from `arena` as it grows; failures name `pool`.
    pub(crate) fn up_to(limit: usize, arena: Option<&Arc<Arena>>, pool: &str) -> Self {
        BlobMut::growing(limit, Growth { arena: arena.cloned(), pool: pool.to_owned() })
    }
}

impl Growth {
    /// Whether bytes move to shared memory once there are enough of them.
    pub(super) fn has_arena(&self) -> bool {
        self.arena.is_some()
    }

    /// Makes room for `length` bytes in all, which must not be more than `limit`.
    ///
    /// The allocation grows where it is as long as the pages behind it are free. Otherwise its bytes are copied to one
    /// at least twice as long, so that each byte is copied twice at most, on average.
    ///
    /// # Errors
    ///
    /// `StorageFull` with a [`Failure`] if the arena has no room, and `OutOfMemory` if the system has no memory. The
    /// bytes stay where they are.
    pub(super) fn make_room(&self, storage: &mut Storage, length: usize, limit: usize) -> io::Result<()> {
        let Some(arena) = &self.arena else { return Ok(()) };
        let moved = match storage {
            Storage::Heap(bytes) if length.max(bytes.len()) < MIN_SHARED => return Ok(()),
            Storage::Heap(bytes) => self.copied(arena, bytes, length, length.max(FIRST).min(limit))?,
            Storage::Allocation(allocation, written) => {
                if length <= allocation.len() {
                    return Ok(());
                }
                let wanted = length.max(allocation.len().saturating_mul(2)).min(limit);
                allocation.extend(wanted);
                if length <= allocation.len() {
                    return Ok(());
                }
                self.copied(arena, &allocation[..*written], length, wanted)?
            }
        };
        *storage = moved;
        Ok(())
    }

    /// Copies `bytes` to a new allocation of `wanted` bytes, of which `length` are needed.
    fn copied(&self, arena: &Arc<Arena>, bytes: &[u8], length: usize, wanted: usize) -> io::Result<Storage> {
        let mut allocation: Allocation =
            arena.allocation(wanted).ok_or_else(|| self.full(arena, length, wanted))?;
        if !allocation.commit(bytes.len()) {
            return Err(no_memory());
        }
        allocation[..bytes.len()].copy_from_slice(bytes);
        Ok(Storage::Allocation(allocation, bytes.len()))
    }

    fn full(&self, arena: &Arena, length: usize, wanted: usize) -> io::Error {
        let (all, in_use) = (arena.length(), arena.in_use());
        if length > all {
            let failure = super::never_fits(arena, length).in_pool(&self.pool);
            return io::Error::new(io::ErrorKind::StorageFull, failure);
        }
        let text = format!(
            "not enough blob_memory for a blob that has grown to {length} bytes: \
             it needs {wanted} bytes in one piece, and {in_use} of {all} bytes are in use"
        );
        let failure = Failure::of(FailureKind::Overloaded, text).in_pool(&self.pool);
        io::Error::new(io::ErrorKind::StorageFull, failure)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::sys::arena::PAGE;

    const KIB: usize = 1 << 10;

    fn arena(bytes: usize) -> io::Result<Arc<Arena>> {
        Ok(Arena::create(bytes, bytes / 4)?.0)
    }

    /// The byte at this position of a pattern that does not repeat in pages.
    fn byte(at: usize) -> u8 {
        (at / PAGE + at) as u8
    }

    fn append(blob: &mut BlobMut, count: usize) -> io::Result<()> {
        let bytes: Vec<u8> = (blob.len()..blob.len() + count).map(byte).collect();
        blob.write_all(&bytes)
    }

    fn is_intact(bytes: &[u8]) -> bool {
        bytes.iter().enumerate().all(|(at, found)| *found == byte(at))
    }

    #[test]
    fn memory_is_taken_as_bytes_arrive_and_given_back_exactly() -> io::Result<()> {
        let (arena, limit) = (arena(2048 * KIB)?, 400 * KIB);
        let mut blobs: Vec<BlobMut> = (0..3).map(|_| BlobMut::up_to(limit, Some(&arena), "p")).collect();
        blobs.iter_mut().try_for_each(|blob| append(blob, 16 * KIB - 1))?;
        assert_eq!((arena.in_use(), blobs[0].capacity()), (0, limit), "a few bytes take none of it");
        while blobs[0].len() < limit {
            for blob in &mut blobs {
                append(blob, (limit - blob.len()).min(7 * KIB + 3))?;
            }
            let (used, needed) = (arena.in_use(), blobs[0].len().max(FIRST));
            assert!(used <= 3 * 2 * needed, "{used} bytes for three of {needed}");
        }
        assert_eq!(arena.in_use(), 3 * limit, "no more than the limit at the end");
        assert_eq!(blobs[0].write(b"x").map_err(|error| error.kind()), Err(io::ErrorKind::WriteZero));
        blobs[0].truncate(5);
        let frozen: Vec<_> = blobs.into_iter().map(BlobMut::freeze).collect();
        assert_eq!(arena.in_use(), 2 * limit + PAGE, "what is not used is free");
        assert!(frozen.iter().all(|blob| is_intact(&blob.bytes())));
        drop(frozen);
        assert_eq!(arena.in_use(), 0);
        Ok(())
    }

    #[test]
    fn a_blob_without_neighbours_is_not_moved() -> io::Result<()> {
        let arena = arena(16384 * KIB)?;
        let mut blob = BlobMut::up_to(8192 * KIB, Some(&arena), "p");
        let mut moves = vec![0; 2];
        for round in &mut moves {
            let mut at = blob.as_ptr();
            while blob.len() < 4096 * KIB {
                append(&mut blob, 10 * KIB)?;
                *round += usize::from(std::mem::replace(&mut at, blob.as_ptr()) != at);
            }
            blob = BlobMut::up_to(8192 * KIB, Some(&arena), "p");
        }
        assert!(moves.iter().all(|moves| *moves <= 2), "in ordinary memory and out of it: {moves:?}");
        Ok(())
    }

    #[test]
    fn a_blob_that_always_has_a_neighbour_is_copied_twice_at_most() -> io::Result<()> {
        let (arena, _) = Arena::create(8192 * KIB, 0)?;
        let mut blob = BlobMut::up_to(8192 * KIB, Some(&arena), "p");
        append(&mut blob, 16 * KIB)?;
        let (mut at, mut copied, mut neighbours) = (blob.as_ptr(), 0, Vec::new());
        while blob.len() < 1000 * KIB {
            // Fills what is free in front of it, and then the page behind it.
            while neighbours.last().is_none_or(|last: &Allocation| last.as_ptr() < blob.as_ptr()) {
                neighbours.extend(arena.allocation(1));
            }
            let before = blob.len();
            append(&mut blob, 10 * KIB)?;
            copied += if std::mem::replace(&mut at, blob.as_ptr()) == at { 0 } else { before };
        }
        assert!(copied > 0 && copied <= 2 * blob.len(), "{copied} bytes were copied for {}", blob.len());
        Ok(())
    }

    #[test]
    fn a_full_arena_refuses_the_write_and_keeps_what_is_there() -> io::Result<()> {
        let arena = arena(128 * KIB)?;
        let other = arena.allocation(64 * KIB);
        let mut blob = BlobMut::up_to(1 << 30, Some(&arena), "mill");
        let error = loop {
            if let Err(error) = append(&mut blob, 5 * KIB) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let failure = error.downcast::<Failure>().map_err(|_| io::Error::other("another error"))?;
        assert_eq!((failure.kind(), failure.pool()), (FailureKind::Overloaded, Some("mill")));
        let text = failure.to_string();
        assert!(text.contains("grown to 66560 bytes"), "{text}");
        assert!(text.contains("131072 of 131072 bytes are in use"), "{text}");
        assert!(blob.len() == 60 * KIB && is_intact(&blob), "{blob:?}");
        assert!(blob.append_zeroes(100 * KIB).is_err());
        append(&mut blob, 4 * KIB)?;
        let full = blob.fill_from(&mut &[7][..]).map_err(|error| error.kind());
        assert_eq!((full, blob.len()), (Err(io::ErrorKind::StorageFull), 64 * KIB));
        assert!(is_intact(&blob.freeze().bytes()));
        drop(other);
        assert_eq!(arena.in_use(), 0);
        Ok(())
    }

    #[test]
    fn every_way_to_write_grows_a_blob_to_its_limit() -> io::Result<()> {
        let arena = arena(1024 * KIB)?;
        for arena in [Some(&arena), None] {
            let mut blob = BlobMut::up_to(100 * KIB, arena, "p");
            let bytes: Vec<u8> = (0..200 * KIB).map(byte).collect();
            assert_eq!(blob.write(&bytes[..17 * KIB])?, 17 * KIB);
            assert_eq!(blob.fill_from(&mut (&bytes[17 * KIB..40 * KIB]))?, 23 * KIB);
            blob.append_zeroes(30 * KIB)?.copy_from_slice(&bytes[40 * KIB..70 * KIB]);
            assert!(blob.append_zeroes(31 * KIB).is_err());
            assert_eq!(blob.fill_from(&mut (&bytes[70 * KIB..]))?, 30 * KIB);
            assert_eq!(
                blob.write(&bytes[100 * KIB..]).map_err(|error| error.kind()),
                Err(io::ErrorKind::WriteZero)
            );
            assert!(*blob.freeze().bytes() == bytes[..100 * KIB]);
            let huge = BlobMut::up_to(usize::MAX, arena, "p");
            assert_eq!((huge.capacity(), huge.freeze().len()), (usize::MAX, 0));
        }
        assert_eq!(arena.in_use(), 0);
        Ok(())
    }
}
