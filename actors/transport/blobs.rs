//! Blobs on the host's side: those in calls, and those that workers report.

use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::blob;
use crate::blob::{Blob, BlobMut, ResultArena};
use crate::failure::Failure;
use crate::sys::arena::Arena;
use crate::sys::descriptors;
use crate::wire::call::{ArenaSpan, Lending, Lent, MAX_LENT};
use crate::wire::frame::PayloadError;

/// Free bytes (64 MiB) of a pool's arena that stay mapped, so that arguments up to this size need no new memory
/// from the system each time.
const KEPT_BYTES: usize = 64 << 20;

/// The arena that holds the blobs of a pool's calls.
pub(crate) struct BlobMemory {
    arena: Arc<Arena>,
    /// A descriptor of the same memory that does not permit writing; workers read through it.
    read_only: OwnedFd,
}

impl BlobMemory {
    pub(crate) fn create(bytes: usize) -> io::Result<Self> {
        let (arena, read_only) = Arena::create(bytes, KEPT_BYTES)?;
        Ok(BlobMemory { arena, read_only })
    }

    /// Returns the descriptor that a fork server maps for its workers.
    pub(crate) fn read_only_descriptor(&self) -> io::Result<OwnedFd> {
        Ok(descriptors::duplicate(self.read_only.as_fd())?)
    }

    pub(crate) fn in_use(&self) -> usize {
        self.arena.in_use()
    }
}

/// Allocates a blob of up to `capacity` bytes, in the pool's arena if the blob is large and there is an arena.
///
/// # Errors
///
/// A [`Failure`] where the arena is full; nothing is allocated then.
pub(crate) fn allocate(memory: Option<&BlobMemory>, capacity: usize) -> Result<BlobMut, Failure> {
    BlobMut::allocate(memory.map(|memory| &memory.arena), capacity)
}

/// A blob of up to `limit` bytes that takes its memory as it grows, from the arena of `pool` if it has one.
pub(crate) fn growing(memory: Option<&BlobMemory>, limit: usize, pool: &str) -> BlobMut {
    BlobMut::up_to(limit, memory.map(|memory| &memory.arena), pool)
}

/// Appends an encoded message to `out` and returns its large blobs, in the order of their numbers.
///
/// # Errors
///
/// [`PayloadError`] where `encode` fails; no blobs are lent then.
pub(crate) fn encode(
    memory: Option<&BlobMemory>,
    out: &mut Vec<u8>,
    encode: impl FnMut(&mut Vec<u8>) -> Result<(), PayloadError>,
) -> Result<Vec<Blob>, PayloadError> {
    let into_arena = |arena: &Arc<Arena>, blobs: Vec<Blob>| -> Option<Vec<Blob>> {
        blobs.into_iter().map(|blob| blob.into_arena(arena)).collect()
    };
    blob::encode(out, memory.map(|memory| |blobs| into_arena(&memory.arena, blobs)), encode)
}

/// Returns where these blobs lie in the arena.
pub(crate) fn spans(blobs: &[Blob]) -> Vec<ArenaSpan> {
    // Every lent blob lies in the arena, so none is filtered out.
    blobs.iter().filter_map(Blob::span).collect()
}

/// An encoded message and its blobs in the arena.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) blobs: Vec<Blob>,
}

/// Hashes the content of the blobs, independent of where they lie.
impl Hash for Encoded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
        self.blobs.iter().for_each(|blob| blob.bytes().hash(state));
    }
}

/// Blobs that one worker may still read after the calls that they came with are answered.
#[derive(Default)]
pub(crate) struct BorrowedBlobs(Mutex<BlobLists>);

#[derive(Default)]
struct BlobLists {
    /// The worker reported that it still uses these, by their starts.
    reported: BTreeMap<u64, Blob>,
    /// The worker was given up while calls with these were running; they are kept until it exits.
    until_exit: Vec<Blob>,
}

impl BorrowedBlobs {
    /// Keeps these blobs until the worker has exited.
    pub(crate) fn keep_until_exit(&self, blobs: Vec<Blob>) {
        if !blobs.is_empty() {
            self.0.lock().until_exit.extend(blobs);
        }
    }

    /// Drops all blobs; called once the worker has exited.
    pub(crate) fn clear(&self) {
        let held = std::mem::take(&mut *self.0.lock());
        drop(held);
    }

    /// Applies the worker's report on its blobs and returns the blobs of its next reply, in the order of their
    /// numbers. `given` are the blobs of the call that it replies to.
    ///
    /// It takes time linear in the report and the blobs of the call, apart from a logarithm of what the worker holds.
    ///
    /// # Errors
    ///
    /// What is impossible in the report. The reply's blobs are dropped; a valid list of blobs in use was applied
    /// all the same.
    pub(crate) fn receive_lending(
        &self,
        Lending { lent, held }: Lending,
        given: &[Blob],
        result_arena: Option<&ResultArena>,
    ) -> Result<Vec<Blob>, &'static str> {
        let given: BTreeMap<u64, &Blob> =
            given.iter().filter_map(|blob| Some((start_of(blob)?, blob))).collect();
        let mut known = self.0.lock();
        let find = |start: &u64| given.get(start).copied().or_else(|| known.reported.get(start)).cloned();
        let lent = lent_blobs(&lent, result_arena, find);
        let reported = held.map(|held| {
            // So no blob is reported twice.
            let is_ascending = held.is_sorted_by(|one, next| one < next);
            let blobs = held.iter().map(|start| Some((*start, find(start)?)));
            is_ascending.then(|| blobs.collect::<Option<BTreeMap<u64, Blob>>>()).flatten()
        });
        let before = match reported {
            None => None,
            Some(None) => return Err("it reported that it uses a blob that it was not lent"),
            Some(Some(reported)) => Some(std::mem::replace(&mut known.reported, reported)),
        };
        drop(known);
        drop(before);
        lent
    }
}

fn start_of(blob: &Blob) -> Option<u64> {
    blob.span().map(|span| span.start)
}

/// Returns the blobs of a reply; `find` returns an argument by its start.
fn lent_blobs(
    lent: &[Lent],
    result_arena: Option<&ResultArena>,
    find: impl Fn(&u64) -> Option<Blob>,
) -> Result<Vec<Blob>, &'static str> {
    if lent.len() > MAX_LENT {
        return Err("it lent more blobs than a reply may have");
    }
    let mut slots = HashSet::new();
    let blob = |lent: &Lent| match lent {
        Lent::Own { slot, span } if slots.insert(*slot) => Blob::from_worker(result_arena?, *slot, span),
        Lent::Own { .. } => None,
        Lent::Given { start } => find(start),
    };
    let blobs: Option<Vec<Blob>> = lent.iter().map(blob).collect();
    blobs.ok_or("it lent a blob that it does not have")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{ResultMemory, TABLE_LENGTH};
    use crate::sys::arena::PAGE;
    use crate::sys::memory_file;
    use crate::sys::memory_file::UnmappedFile;
    use crate::sys::shared_memory::SharedMemory;
    use crate::testing::seeded_rng::{SeededRng, seeds};

    /// Returns a random report, valid or not, of a worker on its blobs.
    fn random_lending(rng: &mut SeededRng, given: &[Blob]) -> Lending {
        let number = |rng: &mut SeededRng| match rng.below(4) {
            0 => 0,
            1 => (rng.below(20) * PAGE) as u64,
            2 => rng.below(20 * PAGE) as u64,
            _ => rng.next() >> rng.below(64),
        };
        let start = |rng: &mut SeededRng| {
            let known = given[rng.below(given.len())].span().map_or(0, |span| span.start);
            if rng.happens(800) { known } else { number(rng) }
        };
        let lent = (0..rng.below(4)).map(|_| {
            if rng.happens(500) {
                return Lent::Given { start: start(rng) };
            }
            let slot = if rng.happens(800) { rng.below(1024) as u32 } else { rng.next() as u32 };
            Lent::Own { slot, span: ArenaSpan { start: number(rng), length: number(rng) } }
        });
        let lent = lent.collect();
        let held = rng.happens(300).then(|| (0..rng.below(4)).map(|_| start(rng)).collect());
        Lending { lent, held }
    }

    #[test]
    fn no_lending_of_a_worker_reaches_beyond_its_arena() -> io::Result<()> {
        let length = 16 * PAGE;
        let (memory, _file) = SharedMemory::create(c"forkpool-test", PAGE + TABLE_LENGTH)?;
        let results = UnmappedFile::new(memory_file::of_length(c"forkpool-test", length)?, length);
        let result_arena =
            ResultArena::new(Arc::new(memory), PAGE, ResultMemory::Unmapped(Arc::new(results)));
        let own = BlobMemory::create(64 * PAGE)?;
        let (mut taken, mut refused) = (0, 0);
        for seed in seeds(0..300) {
            let mut rng = SeededRng::new(seed);
            let borrowed = BorrowedBlobs::default();
            for _ in 0..20 {
                let given: Vec<Blob> = (0..3_u8)
                    .filter_map(|number| Blob::from(vec![number; 5000]).into_arena(&own.arena))
                    .collect();
                let result_arena = Some(&result_arena).filter(|_| rng.happens(900));
                match borrowed.receive_lending(random_lending(&mut rng, &given), &given, result_arena) {
                    Ok(lent) => {
                        taken += lent.len();
                        assert!(lent.iter().all(|blob| blob.to_vec().len() <= length), "seed {seed}");
                    }
                    Err(_) => refused += 1,
                }
            }
            borrowed.keep_until_exit(vec![Blob::default()]);
            borrowed.clear();
            assert_eq!(own.in_use(), 0, "seed {seed}: nothing is held for a worker that has ended");
        }
        assert!(taken > 100 && refused > 100, "both were tried: {taken} and {refused}");
        Ok(())
    }
}
