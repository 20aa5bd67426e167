//! Large data of a preload.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Deref;
use std::path::Path;

use crate::sys::sealed_file::SealedFile;
use crate::sys::{Errno, limits, memory_file};

/// Bytes that a preload makes and that all workers read; their size does not slow down a fork.
///
/// A fork copies the page tables of ordinary memory: a few milliseconds for each gigabyte of a `Vec`, and every
/// worker has its own copy of the tables. These bytes are in a memory file (memfd) that is sealed against any change
/// and mapped read-only. A fork does not touch that mapping, and a worker maps a page when it first reads it.
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
/// Make it in `Worker::preload` and put it into `shared`, alone or as part of a larger value;
/// `WorkerContext::preloaded` returns it in a worker. No descriptor stays open for it.
#[derive(Debug)]
pub struct SharedBytes(Bytes);

#[derive(Debug)]
enum Bytes {
    Sealed(SealedFile),
    /// Where the system refuses memory files, or files of this length (`RLIMIT_FSIZE`). Each fork copies the page tables of
    /// these.
    Ordinary(Vec<u8>),
}

impl SharedBytes {
    /// Reads everything from a reader.
    ///
    /// # Errors
    ///
    /// The reader's error, or the system's: `ENOMEM` or `EMFILE`, for example. Nothing is kept then.
    pub fn from_reader(mut reader: impl Read) -> io::Result<Self> {
        let mut file = match memory_file::empty(c"forkpool-preload") {
            Ok(file) => File::from(file),
            Err(Errno::NOSYS | Errno::PERM) => {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes)?;
                return Ok(SharedBytes(Bytes::Ordinary(bytes)));
            }
            Err(error) => return Err(error.into()),
        };
        // A write beyond the limit would end this process by SIGXFSZ.
        let copied = io::copy(&mut reader.by_ref().take(limits::longest_file()), &mut file)?;
        let mut rest = Vec::new();
        if copied == limits::longest_file() && reader.read_to_end(&mut rest)? > 0 {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            bytes.append(&mut rest);
            return Ok(SharedBytes(Bytes::Ordinary(bytes)));
        }
        Ok(SharedBytes(Bytes::Sealed(SealedFile::new(file.into())?)))
    }

    /// Reads a file. Later changes of the file have no effect.
    ///
    /// # Errors
    ///
    /// Those of [`from_reader`](Self::from_reader), or the error of opening the file.
    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_reader(File::open(path)?)
    }

    /// Copies these bytes.
    ///
    /// # Errors
    ///
    /// The system's error: `ENOMEM` or `EMFILE`, for example. Nothing is kept then.
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        Self::from_reader(bytes)
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Sealed(file) => file.bytes(),
            Bytes::Ordinary(bytes) => bytes,
        }
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
    fn copied_and_read_bytes_are_equal_to_their_source() -> io::Result<()> {
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
    fn an_error_of_the_reader_is_returned() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        assert_eq!(SharedBytes::from_reader(Broken).map(|_| ()).unwrap_err().to_string(), "broken");
    }
}
