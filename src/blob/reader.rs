//! Reading the bytes of a blob where they are.

use std::io::{self, BufRead, Read};

use super::Blob;

/// Bytes that are copied out at once where they could be changed: few enough for the processor to copy the next while it
/// works with these.
const PIECE: usize = 4 << 10;

/// Reads a [`Blob`] from the first byte to the last, made by [`Blob::reader`].
///
/// What `fill_buf` lends is all that is left, where nobody can change it, and else a copy of the next 4 KiB; so reading
/// never needs memory for all of them.
pub struct BlobReader<'a> {
    blob: &'a Blob,
    at: usize,
    piece: Vec<u8>,
    /// Bytes of the piece that were taken.
    taken: usize,
}

impl<'a> BlobReader<'a> {
    pub(super) fn new(blob: &'a Blob) -> Self {
        BlobReader { blob, at: 0, piece: Vec::new(), taken: 0 }
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.blob.len() - self.at
    }

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

    fn lend(&mut self) -> &[u8] {
        let blob = self.blob;
        if let Ok(bytes) = blob.stable() {
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
        let count = match self.taken < self.piece.len() {
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

impl std::fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobReader({} of {} bytes left)", self.remaining(), self.blob.len())
    }
}
