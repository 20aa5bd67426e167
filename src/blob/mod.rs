//! Many bytes in one value that travels without being copied where it can.
//!
//! Small ones are written into their message as any bytes are. Of large ones the message has only the number, and the
//! bytes stay where they are: an argument's in an arena of the host's, which workers map to be read, and a result's in an
//! arena of the worker's, which the host reads by atomic operations, for it does not trust it to leave them alone.

mod blob_mut;
#[cfg(feature = "actors")]
mod host_side;
mod reader;
mod result_arena;
mod serde_impl;
mod worker_side;

use std::borrow::Cow;
use std::sync::Arc;

pub use blob_mut::BlobMut;
pub use reader::BlobReader;
#[cfg(feature = "actors")]
pub(crate) use result_arena::LENGTH_OF_TABLE;
pub(crate) use result_arena::ResultArena;
#[cfg(feature = "actors")]
pub(crate) use serde_impl::carry;
pub(crate) use serde_impl::{encode, receive};
pub(crate) use worker_side::{PendingLoan, begin, hear, lend, tell};

use crate::failure::{Failure, FailureKind};
use crate::sys::arena::{Allocation, Arena, ReadOnlyAllocation};
use result_arena::ResultAllocation;

/// Fewest bytes that are worth a room of their own.
pub(crate) const INLINE: usize = 16 << 10;

/// Many bytes, to be sent in messages and results without being copied on the way.
///
/// It is a value like any other: a field of a message or of its result, at any depth. It serializes as bytes for
/// everybody else. Fewer than 16 KiB travel in the message itself. More stay where they are, in memory that the pool shares
/// with its workers ([`blob_memory`](crate::Builder::blob_memory)), and count little towards
/// [`max_payload`](crate::Builder::max_payload):
///
/// - **An argument** that was made with [`PoolHandle::blob`](crate::PoolHandle::blob) is read by the worker where it was
///   written; one that was made of a `Vec` is copied once.
/// - **A result** that was made with [`WorkerContext::blob`](crate::WorkerContext::blob) is read by the application where
///   the worker has written it; again one of a `Vec` is copied once.
/// - An argument that a worker returns is the same bytes again, and nothing was copied.
///
/// Clones share the bytes, which nobody changes any more. They are given back when the last clone is dropped, in all
/// processes, or the process that has it ends.
///
/// Where there is no such memory, because the server is reached over a network, or no room in it, the bytes travel in
/// the message, as long as that keeps to `max_payload`. Elsewhere than in messages and results, in a configuration for
/// example, they are bytes as any others.
///
/// ```
/// use std::io::BufRead;
///
/// use forkpool::Blob;
///
/// # fn main() -> std::io::Result<()> {
/// let page = Blob::from(b"first line\nsecond line\n".to_vec());
/// assert_eq!(page.len(), 23);
/// // Piece by piece, wherever the bytes are.
/// let lines: Vec<String> = page.reader().lines().collect::<Result<_, _>>()?;
/// assert_eq!(lines, ["first line", "second line"]);
/// // All of them at once; on the application's side of a result this copies.
/// assert!(page.bytes().starts_with(b"first"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Blob(Body);

/// Where the bytes are.
#[derive(Clone)]
enum Body {
    Heap(Arc<Vec<u8>>),
    /// In an arena of this process.
    Allocation(Arc<Allocation>),
    /// In the host's arena, read by a worker.
    Argument(Arc<ReadOnlyAllocation>),
    /// In a worker's arena, read by the host, which does not trust it to leave them alone.
    #[cfg_attr(not(feature = "actors"), expect(dead_code, reason = "only the host reads it"))]
    Result(Arc<ResultAllocation>),
}

impl Blob {
    /// A copy of these bytes.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self::from(bytes.to_vec())
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        match self.stable() {
            Ok(bytes) => bytes.len(),
            Err(allocation) => allocation.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes at once: where they are, or a copy where somebody could change them, which is so for a large result on
    /// the application's side. [`reader`](Self::reader) needs no copy of all of them.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self.stable() {
            Ok(bytes) => Cow::Borrowed(bytes),
            Err(allocation) => Cow::Owned(allocation.to_vec()),
        }
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes().into_owned()
    }

    /// Copies bytes out from this place on, as many as `into` has room for and as there are; how many that was.
    pub fn read_at(&self, at: usize, into: &mut [u8]) -> usize {
        let count = into.len().min(self.len().saturating_sub(at));
        let into = &mut into[..count];
        match self.stable() {
            Ok(_) if count == 0 => {}
            Ok(bytes) => into.copy_from_slice(&bytes[at..at + count]),
            Err(allocation) => allocation.read_at(at, into),
        }
        count
    }

    /// Reads the bytes in place, from the first to the last.
    pub fn reader(&self) -> BlobReader<'_> {
        BlobReader::new(self)
    }

    /// The bytes where they are, if nobody can change them.
    fn stable(&self) -> Result<&[u8], &ResultAllocation> {
        match &self.0 {
            Body::Heap(bytes) => Ok(bytes),
            Body::Allocation(allocation) => Ok(allocation),
            Body::Argument(allocation) => Ok(allocation),
            Body::Result(allocation) => Err(allocation),
        }
    }
}

/// Room for a result of this worker, of so many bytes at most; elsewhere ordinary memory.
///
/// # Errors
///
/// [`Overloaded`](FailureKind::Overloaded) where the application has not dropped enough of the blobs it was given.
pub fn blob(capacity: usize) -> Result<BlobMut, Failure> {
    match worker_side::arena().filter(|_| capacity >= INLINE) {
        Some(arena) => {
            worker_side::allocation(capacity).map(BlobMut::in_room).ok_or_else(|| no_room(arena, capacity))
        }
        None => Ok(BlobMut::on_heap(capacity)),
    }
}

/// What is said where an arena has no room for so many bytes.
pub(crate) fn no_room(arena: &Arena, capacity: usize) -> Failure {
    let (length, in_use) = (arena.length(), arena.in_use());
    let text = format!("no room for {capacity} bytes in blob_memory: of {length} bytes {in_use} are in use");
    Failure::of(FailureKind::Overloaded, text)
}

impl Default for Blob {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Blob(Body::Heap(Arc::new(bytes)))
    }
}

impl From<Blob> for Vec<u8> {
    /// The bytes themselves where this is the only clone of one that was made of a `Vec`; a copy of them elsewhere.
    fn from(blob: Blob) -> Self {
        match blob.0 {
            Body::Heap(bytes) => Arc::unwrap_or_clone(bytes),
            _ => blob.to_vec(),
        }
    }
}

/// Two are equal that have the same bytes, wherever those are.
impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && (self.is_same(other) || self.reader().equals(other.reader()))
    }
}

impl Eq for Blob {}

impl Blob {
    /// Whether it is a clone of the other.
    fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Body::Heap(one), Body::Heap(other)) => Arc::ptr_eq(one, other),
            (Body::Allocation(one), Body::Allocation(other)) => Arc::ptr_eq(one, other),
            (Body::Argument(one), Body::Argument(other)) => Arc::ptr_eq(one, other),
            // What it holds may change while it is compared, and would still be itself.
            (Body::Result(one), Body::Result(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// How many bytes there are, and not which.
impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}
