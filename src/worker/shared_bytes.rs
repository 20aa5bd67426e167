//! Large data of a preload.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::path::Path;

use crate::sys::sealed_file::{SealedFile, memory_file};

/// Bytes that a preload makes and all workers read, however many: a fork takes no longer for them.
///
/// A fork copies the page tables of ordinary memory, a few milliseconds for each gigabyte of a `Vec`, and every worker has
/// a copy of the tables. These bytes lie in a memory file that is sealed against any change and mapped to be read: a
/// fork does not touch the mapping, and workers find pages where they first read.
///
/// ```
/// use forkpool::SharedBytes;
///
/// # fn main() -> std::io::Result<()> {
/// let table = SharedBytes::copy_of(&[1, 2, 3])?;
/// assert_eq!(table.iter().sum::<u8>(), 6);
/// # Ok(())
/// # }
/// ```
///
/// In `Worker::preload` it is put into `shared`, by itself or as a part of something larger, and found again with
/// `WorkerContext::preloaded`. No descriptor stays open for it.
#[derive(Debug)]
pub struct SharedBytes(SealedFile);

impl SharedBytes {
    /// All that comes from a reader.
    ///
    /// # Errors
    ///
    /// What the reader said, or the system: `ENOMEM`, `EMFILE`.
    pub fn from_reader(mut reader: impl Read) -> io::Result<Self> {
        let mut file = File::from(memory_file()?);
        io::copy(&mut reader, &mut file)?;
        Ok(SharedBytes(SealedFile::new(file.into())?))
    }

    /// The contents of a file, as they are now.
    ///
    /// # Errors
    ///
    /// As [`from_reader`](Self::from_reader), and where there is no such file.
    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_reader(File::open(path)?)
    }

    /// A copy of these bytes.
    ///
    /// # Errors
    ///
    /// What the system said: `ENOMEM`, `EMFILE`.
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        let mut file = File::from(memory_file()?);
        file.write_all(bytes)?;
        Ok(SharedBytes(SealedFile::new(file.into())?))
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_there() -> io::Result<()> {
        for length in [0, 1, 4095, 4096, 100_000] {
            let bytes: Vec<u8> = (0..length).map(|number: usize| (number * 31) as u8).collect();
            assert_eq!(*SharedBytes::copy_of(&bytes)?, *bytes, "{length}");
            assert_eq!(*SharedBytes::from_reader(bytes.as_slice())?, *bytes, "{length}");
        }
        let this = std::env::current_exe()?;
        assert_eq!(*SharedBytes::read(&this)?, *std::fs::read(&this)?);
        assert_eq!(
            SharedBytes::read("/no/such/file").map(|_| ()).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        Ok(())
    }

    #[test]
    fn what_a_reader_says_is_told() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        assert_eq!(SharedBytes::from_reader(Broken).map(|_| ()).unwrap_err().to_string(), "broken");
    }
}
