//! Blobs on the host's side: those of calls, and what workers say of theirs.

use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::blob;
use crate::blob::{Blob, BlobMut, ResultArena};
use crate::failure::Failure;
use crate::sys::arena::Arena;
use crate::wire::call::{ArenaSpan, Lending, Lent};
use crate::wire::frame::PayloadError;

/// Free bytes of a pool's arena that stay with the application: enough for arguments of this size to be made without
/// asking the system for memory each time.
const KEPT: usize = 64 << 20;

/// Where the blobs of a pool's calls lie.
pub(crate) struct BlobMemory {
    arena: Arc<Arena>,
    /// With which workers read it.
    reading: OwnedFd,
}

impl BlobMemory {
    pub(crate) fn create(bytes: usize) -> io::Result<Self> {
        let (arena, reading) = Arena::create(bytes, KEPT)?;
        Ok(BlobMemory { arena, reading })
    }

    /// What a fork server maps for its workers.
    pub(crate) fn to_be_read(&self) -> io::Result<OwnedFd> {
        self.reading.try_clone()
    }

    pub(crate) fn in_use(&self) -> usize {
        self.arena.in_use()
    }
}

/// Room for so many bytes.
///
/// # Errors
///
/// That there is none.
pub(crate) fn allocation(memory: Option<&BlobMemory>, capacity: usize) -> Result<BlobMut, Failure> {
    BlobMut::within(memory.map(|memory| &memory.arena), capacity)
}

/// Encodes a message; what its large blobs became, in the order of their numbers.
pub(crate) fn encode(
    memory: Option<&BlobMemory>,
    out: &mut Vec<u8>,
    encode: impl FnMut(&mut Vec<u8>) -> Result<(), PayloadError>,
) -> Result<Vec<Blob>, PayloadError> {
    let within = |arena: &Arc<Arena>, blobs: Vec<Blob>| -> Option<Vec<Blob>> {
        blobs.into_iter().map(|blob| blob.within(arena)).collect()
    };
    blob::encode(out, memory.map(|memory| |blobs| within(&memory.arena, blobs)), encode)
}

/// Where these lie.
pub(crate) fn spans(blobs: &[Blob]) -> Vec<ArenaSpan> {
    // Those that are lent lie somewhere, all of them.
    blobs.iter().filter_map(Blob::span).collect()
}

/// A message that was encoded, and what its blobs became.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) blobs: Vec<Blob>,
}

/// By what is in the blobs, wherever they lie.
impl Hash for Encoded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
        self.blobs.iter().for_each(|blob| blob.bytes().hash(state));
    }
}

impl Encoded {
    /// Encodes a message that cannot be written yet.
    pub(crate) fn of(
        memory: Option<&BlobMemory>,
        message: impl FnMut(&mut Vec<u8>) -> Result<(), PayloadError>,
    ) -> Result<Self, PayloadError> {
        let mut bytes = Vec::new();
        let blobs = encode(memory, &mut bytes, message)?;
        Ok(Encoded { bytes, blobs })
    }

    /// Writes the message behind what is there.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
        blob::carry(&self.blobs);
    }
}

/// Blobs that one worker may still read, beyond the calls that they came with.
#[derive(Default)]
pub(crate) struct BorrowedBlobs(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// It says so.
    told: Vec<Blob>,
    /// It was given up in the middle of their calls.
    to_its_end: Vec<Blob>,
}

impl BorrowedBlobs {
    /// Keeps these until the worker has ended.
    pub(crate) fn keep_to_its_end(&self, blobs: Vec<Blob>) {
        if !blobs.is_empty() {
            self.0.lock().to_its_end.extend(blobs);
        }
    }

    /// The worker has ended.
    pub(crate) fn clear(&self) {
        let held = std::mem::take(&mut *self.0.lock());
        drop(held);
    }

    /// Takes in what the worker says of its blobs: those of its next reply, in the order of their numbers. `given` are
    /// those of the call that it replies to.
    ///
    /// # Errors
    ///
    /// What cannot be in what it says.
    pub(crate) fn take_in(
        &self,
        Lending { lent, held }: Lending,
        given: &[Blob],
        result_arena: Option<&ResultArena>,
    ) -> Result<Vec<Blob>, &'static str> {
        let mut known = self.0.lock();
        let find = |start: u64| {
            let mut all = given.iter().chain(&known.told);
            all.find(|blob| blob.span().is_some_and(|span| span.start == start)).cloned()
        };
        let lent = lent.iter().map(|lent| match lent {
            Lent::Own { slot, span } => {
                result_arena.and_then(|result_arena| Blob::lent_by(result_arena, *slot, span))
            }
            Lent::Given { start } => find(*start),
        });
        let lent: Option<Vec<Blob>> = lent.collect();
        let told = held.map(|held| held.into_iter().map(find).collect::<Option<Vec<Blob>>>());
        let before = match told {
            None => None,
            Some(None) => return Err("it holds a blob that it was not lent"),
            Some(Some(told)) => Some(std::mem::replace(&mut known.told, told)),
        };
        drop(known);
        drop(before);
        lent.ok_or("it lends a blob that it does not have")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::LENGTH_OF_TABLE;
    use crate::sys::arena::PAGE;
    use crate::sys::shared_memory::SharedMemory;
    use crate::testing::seeded_rng::{SeededRng, seeds};

    /// Whatever a worker says of its blobs.
    fn anything(chance: &mut SeededRng, given: &[Blob]) -> Lending {
        let number = |chance: &mut SeededRng| match chance.below(4) {
            0 => 0,
            1 => (chance.below(20) * PAGE) as u64,
            2 => chance.below(20 * PAGE) as u64,
            _ => chance.next() >> chance.below(64),
        };
        let start = |chance: &mut SeededRng| {
            let known = given[chance.below(given.len())].span().map_or(0, |span| span.start);
            if chance.happens(800) { known } else { number(chance) }
        };
        let lent = (0..chance.below(4)).map(|_| {
            if chance.happens(500) {
                return Lent::Given { start: start(chance) };
            }
            let slot = if chance.happens(800) { chance.below(1024) as u32 } else { chance.next() as u32 };
            Lent::Own { slot, span: ArenaSpan { start: number(chance), length: number(chance) } }
        });
        let lent = lent.collect();
        let held = chance.happens(300).then(|| (0..chance.below(4)).map(|_| start(chance)).collect());
        Lending { lent, held }
    }

    #[test]
    fn whatever_a_worker_says_of_its_blobs_there_is_nothing_beyond_its_memory() -> io::Result<()> {
        let length = 16 * PAGE;
        let (memory, _file) = SharedMemory::create(c"forkpool-test", PAGE + LENGTH_OF_TABLE + length)?;
        let result_arena = ResultArena::of(&Arc::new(memory), PAGE);
        let own = BlobMemory::create(64 * PAGE)?;
        let (mut taken, mut refused) = (0, 0);
        for seed in seeds(0..300) {
            let mut chance = SeededRng::new(seed);
            let borrowed = BorrowedBlobs::default();
            for _ in 0..20 {
                let given: Vec<Blob> = (0..3_u8)
                    .filter_map(|number| Blob::from(vec![number; 5000]).within(&own.arena))
                    .collect();
                let result_arena = result_arena.as_ref().filter(|_| chance.happens(900));
                match borrowed.take_in(anything(&mut chance, &given), &given, result_arena) {
                    Ok(lent) => {
                        taken += lent.len();
                        assert!(lent.iter().all(|blob| blob.to_vec().len() <= length), "seed {seed}");
                    }
                    Err(_) => refused += 1,
                }
            }
            borrowed.keep_to_its_end(vec![Blob::default()]);
            borrowed.clear();
            assert_eq!(own.in_use(), 0, "seed {seed}: nothing is held for a worker that has ended");
        }
        assert!(taken > 100 && refused > 100, "both were tried: {taken} and {refused}");
        Ok(())
    }
}
