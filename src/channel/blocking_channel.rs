//! The worker's end of a channel: it blocks until the next frame has arrived and until its reply is written.

use std::io;

use super::buffers::{Inbox, Outbox};
use super::status_page::Activity;
use crate::sys::Errno;
use crate::wire::frame;

/// The I/O of a blocking channel: rings, a socket, or a script in a test.
pub(crate) trait WorkerIo {
    /// Appends received bytes and returns how many, blocking until there is at least one; 0 is the end of the stream.
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize>;
    /// Writes some of the bytes and returns how many, blocking until there is space. `more` promises that further bytes
    /// follow soon, because the next frame has arrived already.
    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize>;
    /// Publishes what this process is doing, readable by other processes even after its death.
    fn set_activity(&self, activity: Activity);
    /// Begins a call that was written in this epoch of the [gate](super::gate); returns `false` if the host has taken it
    /// back.
    fn begin(&self, epoch: u16) -> bool;
}

/// The body of one frame, and what is needed to answer it.
pub(crate) struct Received<'a, L> {
    pub(crate) body: &'a [u8],
    /// The buffer that the reply is appended to.
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) io: &'a L,
}

/// One end of a channel whose owner does nothing else while it waits.
pub(crate) struct BlockingChannel<L> {
    io: L,
    inbox: Inbox,
    outbox: Outbox,
    limit: usize,
}

impl<L: WorkerIo> BlockingChannel<L> {
    /// Creates a channel that accepts frames with bodies of up to `limit` bytes.
    pub(crate) fn new(io: L, limit: usize) -> Self {
        BlockingChannel { io, inbox: Inbox::default(), outbox: Outbox::default(), limit }
    }

    /// Waits for the next complete frame; returns `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// The error of the I/O, or `InvalidData` if the bytes are not a frame. The channel is unusable then.
    pub(crate) fn next_frame(&mut self) -> io::Result<Option<Received<'_, L>>> {
        // Two steps, because a borrow that is returned from a loop would last for all of its iterations.
        while !self.inbox.has_frame(self.limit).map_err(invalid)? {
            let (read, _) = self.inbox.fill(|buffer| self.io.receive(buffer))?;
            if read == 0 {
                return Ok(None);
            }
        }
        let body = self.inbox.next_frame(self.limit).map_err(invalid)?;
        Ok(body.map(|body| Received { body, out: self.outbox.buffer(), io: &self.io }))
    }

    /// Returns whether another frame has arrived and can be taken without waiting.
    pub(crate) fn has_frame(&self) -> bool {
        // The next read reports an error.
        self.inbox.has_frame(self.limit).unwrap_or(true)
    }

    /// The I/O of this channel.
    #[cfg(test)]
    pub(crate) fn io(&self) -> &L {
        &self.io
    }

    /// Publishes what this process is doing.
    pub(crate) fn set_activity(&self, activity: Activity) {
        self.io.set_activity(activity);
    }

    /// The buffer that the next frame to be sent is appended to.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        self.outbox.buffer()
    }

    /// Writes all frames in the buffer.
    ///
    /// # Errors
    ///
    /// The error of the I/O, or `BrokenPipe` if the host is gone. The channel is unusable then.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let more = self.inbox.has_frame(self.limit).unwrap_or(false);
        while !self.outbox.is_empty() {
            match self.io.send(self.outbox.unsent(), more) {
                Ok(0) => return Err(Errno::PIPE.into()),
                Ok(count) => self.outbox.mark_sent(count),
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
