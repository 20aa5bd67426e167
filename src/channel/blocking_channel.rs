//! The worker's end: it waits for the next frame, and it waits until its answer is written.

use std::io;

use super::buffers::{Inbox, Outbox};
use super::status_page::Doing;
use crate::sys::Errno;
use crate::wire::frame;

/// What a blocking end reads from and writes to: a ring, or a script in a test.
pub(crate) trait WorkerIo {
    /// Appends what has arrived, waiting for at least one byte; 0 is the end.
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize>;
    /// Writes some of the bytes, waiting for room. `more`: there is something to do already, so more will be said soon.
    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize>;
    /// Notes where others find it, also after this process's death, what it does.
    fn note(&self, doing: Doing);
}

/// One frame's body, and what answering it takes.
pub(crate) struct Received<'a, L> {
    pub(crate) body: &'a [u8],
    /// Where the answer is appended.
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) io: &'a L,
}

/// One end of a pipe whose owner has nothing else to do.
pub(crate) struct BlockingChannel<L> {
    io: L,
    inbox: Inbox,
    outbox: Outbox,
    limit: usize,
}

impl<L: WorkerIo> BlockingChannel<L> {
    pub(crate) fn new(io: L, limit: usize) -> Self {
        BlockingChannel { io, inbox: Inbox::default(), outbox: Outbox::default(), limit }
    }

    /// Waits for the next whole frame; `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// What the link said, or `InvalidData` for bytes that are no frame. The end is of no use then.
    pub(crate) fn next(&mut self) -> io::Result<Option<Received<'_, L>>> {
        // Two steps, since a borrow that is returned from a loop would last through all of it.
        while !self.inbox.holds_frame(self.limit).map_err(invalid)? {
            let (read, _) = self.inbox.fill(|buffer| self.io.receive(buffer))?;
            if read == 0 {
                return Ok(None);
            }
        }
        let body = self.inbox.next(self.limit).map_err(invalid)?;
        Ok(body.map(|body| Received { body, out: self.outbox.buffer(), io: &self.io }))
    }

    /// What is read from and written to.
    #[cfg(test)]
    pub(crate) fn io(&self) -> &L {
        &self.io
    }

    /// Notes what this process does.
    pub(crate) fn note(&self, doing: Doing) {
        self.io.note(doing);
    }

    /// Where the next frame to be said is appended.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        self.outbox.buffer()
    }

    /// Writes all that was said.
    ///
    /// # Errors
    ///
    /// What the link said; the end is of no use then.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let more = self.inbox.holds_frame(self.limit).unwrap_or(false);
        while !self.outbox.is_empty() {
            match self.io.send(self.outbox.unsent(), more) {
                Ok(0) => return Err(Errno::PIPE.into()),
                Ok(count) => self.outbox.wrote(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn invalid(error: frame::FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
