//! Bytes on their way to become a blob.

use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};

use super::{Blob, Body};
use crate::sys::arena::Allocation;

/// A [`Blob`] that is being written, made by [`PoolHandle::blob`](crate::PoolHandle::blob) or
/// [`WorkerContext::blob`](crate::WorkerContext::blob).
///
/// It begins empty and takes as many bytes as it was made for. What was written can be read and changed as a slice; once
/// it is [frozen](Self::freeze) nobody changes it any more. Room that was not used is given back then.
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
pub struct BlobMut(Draft);

enum Draft {
    Heap {
        bytes: Vec<u8>,
        capacity: usize,
    },
    /// A room and how much of it was written.
    Allocation(Allocation, usize),
}

impl BlobMut {
    pub(super) fn on_heap(capacity: usize) -> Self {
        BlobMut(Draft::Heap { bytes: Vec::with_capacity(capacity), capacity })
    }

    pub(super) fn in_room(allocation: Allocation) -> Self {
        BlobMut(Draft::Allocation(allocation, 0))
    }

    /// Bytes that it was made for.
    pub fn capacity(&self) -> usize {
        match &self.0 {
            Draft::Heap { capacity, .. } => *capacity,
            Draft::Allocation(allocation, _) => allocation.len(),
        }
    }

    /// Writes what a reader has to give, to its end or until there is no room; how many bytes that was.
    ///
    /// # Errors
    ///
    /// What the reader said; what was read before is there.
    pub fn fill_from(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        let before = self.len();
        match &mut self.0 {
            Draft::Heap { bytes, capacity } => {
                let allocation = (*capacity - bytes.len()) as u64;
                reader.take(allocation).read_to_end(bytes)?;
            }
            Draft::Allocation(allocation, written) => {
                while *written < allocation.len() {
                    match reader.read(&mut allocation[*written..]) {
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

    /// Appends so many zeroes and lends them, to be written over.
    ///
    /// # Errors
    ///
    /// `WriteZero` where there is no room for so many; it is as it was.
    pub fn append_zeroes(&mut self, count: usize) -> io::Result<&mut [u8]> {
        let before = self.len();
        if count > self.capacity() - before {
            return Err(full());
        }
        match &mut self.0 {
            Draft::Heap { bytes, .. } => bytes.resize(before + count, 0),
            Draft::Allocation(allocation, written) => {
                // What others have left there.
                allocation[before..before + count].fill(0);
                *written += count;
            }
        }
        Ok(&mut self[before..])
    }

    /// Gives up all bytes from this place on, if there are so many.
    pub fn truncate(&mut self, length: usize) {
        match &mut self.0 {
            Draft::Heap { bytes, .. } => bytes.truncate(length),
            Draft::Allocation(_, written) => *written = length.min(*written),
        }
    }

    /// Nobody changes these bytes any more.
    pub fn freeze(self) -> Blob {
        match self.0 {
            Draft::Heap { bytes, .. } => Blob::from(bytes),
            Draft::Allocation(mut allocation, written) => {
                allocation.shrink(written);
                Blob(Body::Allocation(allocation.into()))
            }
        }
    }
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, "the blob was made for fewer bytes")
}

/// What was written.
impl Deref for BlobMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Draft::Heap { bytes, .. } => bytes,
            Draft::Allocation(allocation, written) => &allocation[..*written],
        }
    }
}

impl DerefMut for BlobMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Draft::Heap { bytes, .. } => bytes,
            Draft::Allocation(allocation, written) => &mut allocation[..*written],
        }
    }
}

/// Writes what there is room for; `WriteZero` is all that can be wrong.
impl Write for BlobMut {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let count = from.len().min(self.capacity() - self.len());
        if count == 0 && !from.is_empty() {
            return Err(full());
        }
        match &mut self.0 {
            Draft::Heap { bytes, .. } => bytes.extend_from_slice(&from[..count]),
            Draft::Allocation(allocation, written) => {
                allocation[*written..*written + count].copy_from_slice(&from[..count]);
                *written += count;
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<BlobMut> for Blob {
    fn from(bytes: BlobMut) -> Self {
        bytes.freeze()
    }
}

impl std::fmt::Debug for BlobMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobMut({} of {} bytes)", self.len(), self.capacity())
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use super::*;

    fn drafts(capacity: usize) -> Vec<BlobMut> {
        let arena = crate::sys::arena::Arena::create(1 << 20, 0);
        let allocation = arena.ok().and_then(|(arena, _)| arena.allocation(capacity)).map(BlobMut::in_room);
        allocation.into_iter().chain([BlobMut::on_heap(capacity)]).collect()
    }

    #[test]
    fn as_much_as_there_is_room_for_is_taken_and_no_more() -> io::Result<()> {
        for mut draft in drafts(10) {
            assert_eq!((draft.capacity(), draft.len()), (10, 0));
            draft.write_all(b"one two")?;
            assert_eq!(draft.write(b" three")?, 3);
            assert_eq!(&*draft, b"one two th");
            assert_eq!(draft.write(b"x").map_err(|error| error.kind()), Err(io::ErrorKind::WriteZero));
            assert_eq!(draft.write(b"")?, 0);
            draft.truncate(3);
            draft[0] = b'O';
            assert_eq!(draft.append_zeroes(8).map_err(|error| error.kind()), Err(io::ErrorKind::WriteZero));
            assert_eq!(draft.append_zeroes(2)?, [0, 0], "whatever was there before");
            assert_eq!(draft.fill_from(&mut &b"four and more"[..])?, 5);
            assert_eq!(draft.fill_from(&mut &b"more"[..])?, 0);
            assert_eq!(*draft.freeze().bytes(), *b"One\0\0four ");
        }
        Ok(())
    }

    #[test]
    fn a_reader_that_fails_leaves_what_it_gave() {
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
        for mut draft in drafts(10) {
            assert!(draft.fill_from(&mut Failing(false)).is_err());
            assert_eq!(*Blob::from(draft).bytes(), [7]);
        }
    }
}
