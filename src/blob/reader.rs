//! Reads the bytes of a blob in place.

use std::io::{self, BufRead, Read};

use super::Blob;

/// Bytes (32 KiB) copied at once from memory that another process could change: enough that the system call costs
/// little, few enough for the processor's cache.
const PIECE: usize = 32 << 10;

/// Reads a [`Blob`] from the first byte to the last; returned by [`Blob::reader`].
///
/// [`fill_buf`](BufRead::fill_buf) lends all remaining bytes if nothing can change them, and otherwise a copy of the
/// next 32 KiB. So reading never needs memory for the whole blob. It never fails and never blocks.
pub struct BlobReader<'a> {
    blob: &'a Blob,
    /// Bytes consumed so far.
    at: usize,
    /// The copy that `fill_buf` lends.
    piece: Vec<u8>,
    /// Bytes of the piece that were consumed.
    taken: usize,
}

impl<'a> BlobReader<'a> {
    pub(super) fn new(blob: &'a Blob) -> Self {
        BlobReader { blob, at: 0, piece: Vec::new(), taken: 0 }
    }

    /// Returns how many bytes were not read yet.
    pub fn remaining(&self) -> usize {
        self.blob.len() - self.at
    }

    /// Whether the remaining bytes of both are the same.
    pub(super) fn equals(mut self, mut other: BlobReader<'_>) -> bool {
        while self.remaining() > 0 && other.remaining() > 0 {
            let (one, two) = (self.lend(), other.lend());
            let count = one.len().min(two.len());
            if one[..count] != two[..count] {
                return false;
            }
            self.consume(count);
            other.consume(count);
        }
        self.remaining() == other.remaining()
    }

    /// Returns some of the remaining bytes, and none only at the end.
    fn lend(&mut self) -> &[u8] {
        let blob = self.blob;
        if let Ok(bytes) = blob.stable_slice() {
            return &bytes[self.at..];
        }
        if self.taken == self.piece.len() {
            self.piece.resize(PIECE.min(self.remaining()), 0);
            self.taken = 0;
            blob.read_at(self.at, &mut self.piece);
        }
        &self.piece[self.taken..]
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // Many small reads are served from one copy.
        let count = match self.taken < self.piece.len() || into.len() < PIECE {
            true => self.lend().read(into)?,
            false => self.blob.read_at(self.at, into),
        };
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for BlobReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.lend())
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.remaining());
        self.at += count;
        self.taken = self.piece.len().min(self.taken + count);
    }
}

/// Shows how many bytes remain, not the bytes.
impl std::fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobReader({} of {} bytes left)", self.remaining(), self.blob.len())
    }
}
