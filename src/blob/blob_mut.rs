//! A blob while it is written.

use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};

#[cfg(feature = "actors")]
use super::growth::Growth;
use super::{Blob, Body};
use crate::sys::arena::Allocation;

/// A [`Blob`] while it is written, allocated by [`PoolHandle::blob`](crate::PoolHandle::blob),
/// [`PoolHandle::blob_up_to`](crate::PoolHandle::blob_up_to) or [`WorkerContext::blob`](crate::WorkerContext::blob).
///
/// It starts empty and takes up to [`capacity`](Self::capacity) bytes, through [`Write`],
/// [`fill_from`](Self::fill_from) or [`append_zeroes`](Self::append_zeroes). The bytes written so far can be read and
/// changed as a slice. [`freeze`](Self::freeze) turns it into an immutable [`Blob`] and frees shared memory that was
/// not used. Dropping it instead frees all of it.
///
/// One that was made by `blob_up_to` takes memory as it is written, and a write fails with
/// [`StorageFull`](io::ErrorKind::StorageFull) if the pool has no more. That error is made from a
/// [`Failure`](crate::Failure), which [`downcast`](io::Error::downcast) returns.
///
/// ```no_run
/// # use actix::prelude::*;
/// # use forkpool::prelude::*;
/// # fn upload<W: Worker>(pool: &PoolHandle<W>, file: &mut std::fs::File) -> Result<Blob, Box<dyn std::error::Error>> {
/// let mut bytes = pool.blob(file.metadata()?.len() as usize)?;
/// bytes.fill_from(file)?;
/// Ok(bytes.freeze())
/// # }
/// ```
#[must_use = "a blob is shared once `freeze` is called"]
pub struct BlobMut {
    storage: Storage,
    /// Most bytes.
    capacity: usize,
    /// Where it takes more memory from; `None` if it has all that it needs.
    #[cfg(feature = "actors")]
    growth: Option<Growth>,
}

pub(super) enum Storage {
    Heap(Vec<u8>),
    /// An allocation in shared memory, and how many bytes of it were written.
    Allocation(Allocation, usize),
}

impl BlobMut {
    pub(super) fn on_heap(capacity: usize) -> Self {
        Self::of(Storage::Heap(Vec::with_capacity(capacity)), capacity)
    }

    pub(super) fn in_allocation(allocation: Allocation) -> Self {
        let capacity = allocation.len();
        Self::of(Storage::Allocation(allocation, 0), capacity)
    }

    fn of(storage: Storage, capacity: usize) -> Self {
        BlobMut {
            storage,
            capacity,
            #[cfg(feature = "actors")]
            growth: None,
        }
    }

    #[cfg(feature = "actors")]
    pub(super) fn growing(capacity: usize, growth: Growth) -> Self {
        BlobMut { storage: Storage::Heap(Vec::new()), capacity, growth: Some(growth) }
    }

    /// Returns how many bytes this blob can hold: as many as were requested.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends bytes from a reader until its end or until the capacity is reached; returns how many.
    ///
    /// # Errors
    ///
    /// The reader's error, except for [`Interrupted`](io::ErrorKind::Interrupted), which is retried; or
    /// [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the system has no memory for more, and
    /// [`StorageFull`](io::ErrorKind::StorageFull) if the pool has none. The bytes read before the error stay appended.
    pub fn fill_from(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        let before = self.len();
        while self.len() < self.capacity {
            self.make_room(self.len() + 1)?;
            let most = self.most_in_place();
            match &mut self.storage {
                Storage::Heap(bytes) => {
                    let space = (most - bytes.len()) as u64;
                    if (reader.by_ref().take(space).read_to_end(bytes)? as u64) < space {
                        break;
                    }
                }
                Storage::Allocation(allocation, written) => {
                    match reader.read(&mut allocation[*written..most]) {
                        Ok(0) => break,
                        Ok(count) => *written += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(self.len() - before)
    }

    /// Appends `count` zero bytes and returns them as a slice to be overwritten.
    ///
    /// # Errors
    ///
    /// [`WriteZero`](io::ErrorKind::WriteZero) if fewer than `count` bytes of capacity are left,
    /// [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the system has no memory for them, and
    /// [`StorageFull`](io::ErrorKind::StorageFull) if the pool has none; nothing is appended then.
    pub fn append_zeroes(&mut self, count: usize) -> io::Result<&mut [u8]> {
        let before = self.len();
        if count > self.capacity - before {
            return Err(full());
        }
        self.make_room(before + count)?;
        match &mut self.storage {
            Storage::Heap(bytes) => bytes.resize(before + count, 0),
            Storage::Allocation(allocation, written) => {
                // Earlier allocations have left their bytes there.
                allocation[before..before + count].fill(0);
                *written += count;
            }
        }
        Ok(&mut self[before..])
    }

    /// Shortens the blob to its first `length` bytes; does nothing if it has no more than that. The capacity stays.
    pub fn truncate(&mut self, length: usize) {
        match &mut self.storage {
            Storage::Heap(bytes) => bytes.truncate(length),
            Storage::Allocation(_, written) => *written = length.min(*written),
        }
    }

    /// Turns this into an immutable [`Blob`]. Shared memory beyond the bytes written is freed, in whole pages.
    pub fn freeze(self) -> Blob {
        match self.storage {
            Storage::Heap(bytes) => Blob::from(bytes),
            Storage::Allocation(mut allocation, written) => {
                allocation.shrink(written);
                Blob(Body::Allocation(allocation.into()))
            }
        }
    }

    /// Provides memory for the first `length` bytes, which must not be more than the capacity.
    fn make_room(&mut self, length: usize) -> io::Result<()> {
        #[cfg(feature = "actors")]
        if let Some(growth) = &self.growth {
            growth.make_room(&mut self.storage, length, self.capacity)?;
        }
        let has_memory = match &mut self.storage {
            Storage::Allocation(allocation, _) => allocation.commit(length),
            Storage::Heap(_) => true,
        };
        if has_memory { Ok(()) } else { Err(no_memory()) }
    }

    /// Returns how many bytes may be there before there must be room for more.
    fn most_in_place(&self) -> usize {
        match &self.storage {
            Storage::Allocation(allocation, _) => allocation.committed(),
            #[cfg(feature = "actors")]
            Storage::Heap(_) if self.growth.as_ref().is_some_and(Growth::has_arena) => {
                self.capacity.min(super::MIN_SHARED - 1)
            }
            Storage::Heap(_) => self.capacity,
        }
    }
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, "the blob has reached its capacity")
}

/// The system refuses memory for a blob that has a place in the arena.
pub(super) fn no_memory() -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, "the system has no memory for the blob")
}

/// Gives access to the bytes written so far.
impl Deref for BlobMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.storage {
            Storage::Heap(bytes) => bytes,
            Storage::Allocation(allocation, written) => &allocation[..*written],
        }
    }
}

impl DerefMut for BlobMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Heap(bytes) => bytes,
            Storage::Allocation(allocation, written) => &mut allocation[..*written],
        }
    }
}

/// Appends as many bytes as fit. Fails with [`WriteZero`](io::ErrorKind::WriteZero) if none fit, with
/// [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the system has no memory for them, and with
/// [`StorageFull`](io::ErrorKind::StorageFull) if the pool has none.
impl Write for BlobMut {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let before = self.len();
        let count = from.len().min(self.capacity - before);
        if count == 0 && !from.is_empty() {
            return Err(full());
        }
        self.make_room(before + count)?;
        match &mut self.storage {
            Storage::Heap(bytes) => bytes.extend_from_slice(&from[..count]),
            Storage::Allocation(allocation, written) => {
                allocation[before..before + count].copy_from_slice(&from[..count]);
                *written += count;
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Every write is complete at once.
        Ok(())
    }
}

/// [Freezes](BlobMut::freeze) the blob.
impl From<BlobMut> for Blob {
    fn from(bytes: BlobMut) -> Self {
        bytes.freeze()
    }
}

/// Shows the number of bytes and the capacity, not the bytes.
impl std::fmt::Debug for BlobMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobMut({} of {} bytes)", self.len(), self.capacity())
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use super::*;

    /// An empty blob of each kind of storage.
    fn empty_blobs(capacity: usize) -> Vec<BlobMut> {
        let arena = crate::sys::arena::Arena::create(1 << 20, 0);
        let allocation =
            arena.ok().and_then(|(arena, _)| arena.allocation(capacity)).map(BlobMut::in_allocation);
        allocation.into_iter().chain([BlobMut::on_heap(capacity)]).collect()
    }

    #[test]
    fn bytes_are_taken_up_to_the_capacity_and_no_more() -> io::Result<()> {
        for mut blob in empty_blobs(10) {
            assert_eq!((blob.capacity(), blob.len()), (10, 0));
            blob.write_all(b"one two")?;
            assert_eq!(blob.write(b" three")?, 3);
            assert_eq!(&*blob, b"one two th");
            assert_eq!(blob.write(b"x").map_err(|error| error.kind()), Err(io::ErrorKind::WriteZero));
            assert_eq!(blob.write(b"")?, 0);
            blob.truncate(3);
            blob[0] = b'O';
            assert_eq!(blob.append_zeroes(8).map_err(|error| error.kind()), Err(io::ErrorKind::WriteZero));
            assert_eq!(blob.append_zeroes(2)?, [0, 0], "whatever was there before");
            assert_eq!(blob.fill_from(&mut &b"four and more"[..])?, 5);
            assert_eq!(blob.fill_from(&mut &b"more"[..])?, 0);
            assert_eq!(*blob.freeze().bytes(), *b"One\0\0four ");
        }
        Ok(())
    }

    #[test]
    fn bytes_that_a_reader_gave_before_it_failed_stay() {
        struct Failing(bool);
        impl Read for Failing {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::Error::other("broken"));
                }
                into[0] = 7;
                Ok(1)
            }
        }
        for mut blob in empty_blobs(10) {
            assert!(blob.fill_from(&mut Failing(false)).is_err());
            assert_eq!(*Blob::from(blob).bytes(), [7]);
        }
    }
}
