//! Large values that travel between the processes without being copied if possible.
//!
//! A small blob is encoded as part of its message. Of a large one the message contains only a number, and the bytes
//! stay where they are: those of an argument in an arena of the host, which workers map read-only, and those of a
//! result in an arena of the worker. The host reads the latter through its descriptor and does not map it, because a
//! worker could change it, or take its pages away, at any time.

mod blob_mut;
#[cfg(feature = "actors")]
mod growth;
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
pub(crate) use result_arena::{ResultArena, ResultMemory, TABLE_LENGTH};
pub(crate) use serde_impl::{decode_with, encode};
pub(crate) use worker_side::{PendingLoan, finish_call, init_worker, lend, receive_arguments};

use crate::failure::{Failure, FailureKind};
use crate::sys::arena::{Allocation, Arena, ReadOnlyAllocation};
use result_arena::ResultAllocation;

/// Fewest bytes of a blob that is kept in shared memory instead of its message.
pub(crate) const MIN_SHARED: usize = 16 << 10;

/// Immutable bytes that calls pass to workers and back without copying them, where possible.
///
/// A blob is an ordinary value: a field of a message or of a result, at any depth. In messages and results, a blob of
/// fewer than 16 KiB is encoded as part of the message. A larger one stays in memory that the pool shares with its
/// workers ([`blob_memory`](crate::PoolBuilder::blob_memory)), and counts only a few bytes towards
/// [`max_payload`](crate::PoolBuilder::max_payload):
///
/// - **An argument** created with [`PoolHandle::blob`](crate::PoolHandle::blob) is read by the worker where it was
///   written; one created from a `Vec` is copied once.
/// - **A result** created with [`WorkerContext::blob`](crate::WorkerContext::blob) is read by the application where the
///   worker wrote it; one created from a `Vec` is copied once.
/// - **An argument that a worker returns** refers to the same bytes again; nothing is copied.
///
/// Clones share the bytes, which never change. Their memory is freed when the last clone in every process is dropped;
/// the clones of a process that exits count as dropped. As long as the application keeps a large result, it also keeps
/// a descriptor of the memory of all results of that worker.
///
/// A worker could break this rule and change a result that it has sent. Then the bytes are wrong, and nothing else
/// happens: the application copies them through the descriptor and never borrows them.
///
/// If there is no such memory, because the server is reached over a network, or not enough space in it, the bytes are
/// encoded as part of the message, within `max_payload`. Outside of messages and results, for example in a
/// configuration or in JSON, a blob serializes as plain bytes.
///
/// ```
/// use std::io::BufRead;
///
/// use forkpool::Blob;
///
/// # fn main() -> std::io::Result<()> {
/// let page = Blob::from(b"first line\nsecond line\n".to_vec());
/// assert_eq!(page.len(), 23);
/// // Reads piece by piece, wherever the bytes are.
/// let lines: Vec<String> = page.reader().lines().collect::<Result<_, _>>()?;
/// assert_eq!(lines, ["first line", "second line"]);
/// // All bytes at once; for a large result in the application this is a copy.
/// assert!(page.bytes().starts_with(b"first"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Blob(Body);

/// Where the bytes of a blob are.
#[derive(Clone)]
enum Body {
    Heap(Arc<Vec<u8>>),
    /// In an arena that this process writes to.
    Allocation(Arc<Allocation>),
    /// In the host's arena, which this worker maps read-only.
    Argument(Arc<ReadOnlyAllocation>),
    /// In a worker's arena, read by the host. The worker could still change them, so they are copied and never lent.
    #[cfg_attr(not(feature = "actors"), expect(dead_code, reason = "only the host reads results"))]
    Result(Arc<ResultAllocation>),
}

impl Blob {
    /// Creates a blob with a copy of these bytes, in ordinary memory.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self::from(bytes.to_vec())
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Body::Heap(bytes) => bytes.len(),
            Body::Allocation(allocation) => allocation.len(),
            Body::Argument(allocation) => allocation.length(),
            Body::Result(allocation) => allocation.len(),
        }
    }

    /// Whether the blob has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all bytes as one slice: borrowed if nothing can change them, and otherwise copied. They are copied from a
    /// large result in the application, and from a large argument in a worker whose application runs as another user.
    /// [`reader`](Self::reader) and [`read_at`](Self::read_at) need no copy of the whole.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self.stable_slice() {
            Ok(bytes) => Cow::Borrowed(bytes),
            Err(memory) => Cow::Owned(memory.to_vec()),
        }
    }

    /// Returns a copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes().into_owned()
    }

    /// Copies bytes from offset `at` on into `into` and returns how many.
    ///
    /// That is as many as fit into `into`, or as many as there are from `at` on if those are fewer; 0 if `at` lies at
    /// or beyond the end.
    pub fn read_at(&self, at: usize, into: &mut [u8]) -> usize {
        let count = into.len().min(self.len().saturating_sub(at));
        if count == 0 {
            return 0;
        }
        let into = &mut into[..count];
        match self.stable_slice() {
            Ok(bytes) => into.copy_from_slice(&bytes[at..at + count]),
            Err(memory) => memory.read_at(at, into),
        }
        count
    }

    /// Returns a reader over the bytes, from the first to the last.
    pub fn reader(&self) -> BlobReader<'_> {
        BlobReader::new(self)
    }

    /// Returns the bytes as a slice, or the memory of another process that could still change them.
    fn stable_slice(&self) -> Result<&[u8], ForeignMemory<'_>> {
        match &self.0 {
            Body::Heap(bytes) => Ok(bytes),
            Body::Allocation(allocation) => Ok(allocation),
            Body::Argument(allocation) => allocation.slice().ok_or(ForeignMemory::Argument(allocation)),
            Body::Result(allocation) => Err(ForeignMemory::Result(allocation)),
        }
    }
}

/// Bytes that another process may change at any time. They are copied out and never lent as a slice.
enum ForeignMemory<'a> {
    /// Those of an application that runs as another user than this worker.
    Argument(&'a ReadOnlyAllocation),
    /// Those of a worker of this application.
    Result(&'a ResultAllocation),
}

impl ForeignMemory<'_> {
    /// Copies the current bytes from offset `at` on; the range must lie within the memory.
    fn read_at(&self, at: usize, into: &mut [u8]) {
        match self {
            ForeignMemory::Argument(allocation) => allocation.copy_to(at, into),
            ForeignMemory::Result(allocation) => allocation.read_at(at, into),
        }
    }

    fn to_vec(&self) -> Vec<u8> {
        match self {
            ForeignMemory::Argument(allocation) => {
                let mut bytes = vec![0; allocation.length()];
                allocation.copy_to(0, &mut bytes);
                bytes
            }
            ForeignMemory::Result(allocation) => allocation.to_vec(),
        }
    }
}

/// Allocates a blob of at most `capacity` bytes for a result of this worker; ordinary memory for less than 16 KiB and
/// in a process without an arena for results.
///
/// # Errors
///
/// [`Overloaded`](FailureKind::Overloaded) if the application still holds so many results of this worker that too
/// little of the arena is free, and [`Payload`](FailureKind::Payload) if it would be too little in any case; nothing is
/// allocated then.
pub fn blob(capacity: usize) -> Result<BlobMut, Failure> {
    match worker_side::arena().filter(|_| capacity >= MIN_SHARED) {
        Some(arena) => worker_side::allocation(capacity)
            .map(BlobMut::in_allocation)
            .ok_or_else(|| arena_full(arena, capacity)),
        None => Ok(BlobMut::on_heap(capacity)),
    }
}

/// The failure if an arena has no free range of `capacity` bytes, now or ever.
pub(crate) fn arena_full(arena: &Arena, capacity: usize) -> Failure {
    let (length, in_use) = (arena.length(), arena.in_use());
    if capacity > length {
        return never_fits(arena, capacity);
    }
    let text = format!("not enough blob_memory for {capacity} bytes: {in_use} of {length} bytes are in use");
    Failure::of(FailureKind::Overloaded, text)
}

/// The failure if no arena of this size has room for so many bytes.
fn never_fits(arena: &Arena, bytes: usize) -> Failure {
    let text = format!("a blob of {bytes} bytes exceeds blob_memory, {} bytes", arena.length());
    Failure::of(FailureKind::Payload, text).of_large_message(true)
}

/// A blob without bytes.
impl Default for Blob {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl From<Vec<u8>> for Blob {
    /// Takes over the bytes without copying them.
    fn from(bytes: Vec<u8>) -> Self {
        Blob(Body::Heap(Arc::new(bytes)))
    }
}

impl From<Blob> for Vec<u8> {
    /// Returns the original `Vec` if this is the only clone of a blob created from one, and otherwise a copy.
    fn from(blob: Blob) -> Self {
        match blob.0 {
            Body::Heap(bytes) => Arc::unwrap_or_clone(bytes),
            _ => blob.to_vec(),
        }
    }
}

/// Blobs are equal if their bytes are equal, wherever these are.
impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && (self.is_same(other) || self.reader().equals(other.reader()))
    }
}

impl Eq for Blob {}

impl Blob {
    /// Whether both are clones of one blob.
    fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Body::Heap(one), Body::Heap(other)) => Arc::ptr_eq(one, other),
            (Body::Allocation(one), Body::Allocation(other)) => Arc::ptr_eq(one, other),
            (Body::Argument(one), Body::Argument(other)) => Arc::ptr_eq(one, other),
            // The worker may change these bytes during a comparison; a blob still equals itself.
            (Body::Result(one), Body::Result(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// Shows the number of bytes, not the bytes.
impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}
