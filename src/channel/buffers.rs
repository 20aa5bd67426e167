//! The two buffers of an end: what was read and not yet taken, and what was said and not yet written.

use crate::wire::frame;
use crate::wire::frame::FrameError;

/// Most bytes asked for at once, unless more are needed.
const READ: usize = 32 << 10;

/// Bytes asked for at first: most messages are small, and every page that is written to costs.
const FIRST_READ: usize = 2 << 10;

/// A buffer up to this size is kept for ever, in bytes.
const KEPT: usize = 256 << 10;

/// A buffer larger than this is given back to the allocator as soon as it is empty, in bytes.
const MOST_KEPT: usize = 8 << 20;

/// Between the two it is given back once so many uses in a row have needed less than a quarter of it. To give it back at
/// once costs more than all the copying: its pages have to be made again for every large message.
const LEAN: u32 = 16;

/// How large a buffer has had to be lately.
#[derive(Default)]
struct BufferUse {
    lean: u32,
}

impl BufferUse {
    /// Gives the memory of a buffer back that is too large by now; `used` bytes of it were needed this time.
    fn shrink(&mut self, bytes: &mut Vec<u8>, used: usize) {
        let capacity = bytes.capacity();
        self.lean = if capacity > KEPT && used < capacity / 4 { self.lean + 1 } else { 0 };
        if bytes.is_empty() && (capacity > MOST_KEPT || self.lean == LEAN) {
            *bytes = Vec::new();
        }
    }
}

/// Bytes that arrived; frames are taken off its front.
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
    /// Bytes asked for at once: twice as many with each time that they were all there.
    piece: usize,
    habit: BufferUse,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox { bytes: Vec::new(), taken: 0, piece: FIRST_READ, habit: BufferUse::default() }
    }
}

impl Inbox {
    /// Lets `read` append to the buffer, with room for at least one more byte; returns what it returned and
    /// whether it filled all the room it had.
    pub(crate) fn fill<E>(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
    ) -> Result<(usize, bool), E> {
        self.make_room();
        let room = self.bytes.capacity() - self.bytes.len();
        let count = read(&mut self.bytes)?;
        if count == room {
            self.piece = READ.min(2 * self.piece);
        }
        Ok((count, count == room))
    }

    /// The next whole body, or `None` until more has arrived.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`]; the stream is of no use any more.
    pub(crate) fn next(&mut self, limit: usize) -> Result<Option<&[u8]>, FrameError> {
        let unread = &self.bytes[self.taken..];
        let length = frame::length(unread, limit)?;
        let Some(length) = length.filter(|&length| length <= unread.len()) else {
            return Ok(None);
        };
        let start = self.taken + frame::LENGTH;
        self.taken += length;
        Ok(Some(&self.bytes[start..self.taken]))
    }

    /// Whether a whole frame is there to be taken.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub(crate) fn holds_frame(&self, limit: usize) -> Result<bool, FrameError> {
        let unread = &self.bytes[self.taken..];
        Ok(frame::length(unread, limit)?.is_some_and(|length| length <= unread.len()))
    }

    /// Whether all that arrived was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Bytes that are kept room for.
    #[cfg(all(any(test, fuzzing), feature = "actors"))]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn make_room(&mut self) {
        // Nothing was taken where nothing has come since.
        if self.taken > 0 && self.taken == self.bytes.len() {
            self.bytes.clear();
            self.habit.shrink(&mut self.bytes, self.taken);
            self.taken = 0;
        }
        // Doubling keeps the copying of a large body linear; a body is never reserved for before it arrives.
        if self.bytes.capacity() - self.bytes.len() < self.piece / 2 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
            self.bytes.reserve(self.piece.max(self.bytes.len()));
        }
    }
}

/// Bytes to be written.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// Whether written bytes are kept, to be said again to another worker.
    keep: bool,
    habit: BufferUse,
}

impl Outbox {
    /// Where frames are appended.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What is still to be written.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Notes that the first `count` bytes of [`unsent`](Self::unsent) were written.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.bytes.len() && !self.keep {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.bytes.drain(..self.sent);
        self.habit.shrink(&mut self.bytes, self.sent);
        self.sent = 0;
    }
}

/// Saying the same again, to another peer.
#[cfg_attr(not(feature = "actors"), expect(dead_code, reason = "only the host repeats itself"))]
impl Outbox {
    /// Keeps what is written until [`confirm`](Self::confirm).
    pub(crate) fn keep_sent(&mut self) {
        self.keep = true;
    }

    /// Gives up what was written so far: the peer has it.
    pub(crate) fn confirm(&mut self) {
        if self.keep {
            self.keep = false;
            self.forget();
        }
    }

    /// Starts again with the first byte that was kept.
    pub(crate) fn rewind(&mut self) {
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(inbox: &mut Inbox, bytes: &[u8]) {
        for piece in bytes.chunks(3) {
            let filled: Result<_, ()> = inbox.fill(|buffer| {
                buffer.extend_from_slice(piece);
                Ok(piece.len())
            });
            assert!(filled.is_ok());
        }
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, &"first");
        frame::append(&mut bytes, &"second");
        let mut inbox = Inbox::default();
        push(&mut inbox, &bytes[..bytes.len() - 1]);
        assert_eq!(inbox.next(100), Ok(Some(b"\x05first".as_slice())));
        assert_eq!(inbox.next(100), Ok(None));
        push(&mut inbox, &bytes[bytes.len() - 1..]);
        assert_eq!(inbox.next(100), Ok(Some(b"\x06second".as_slice())));
        assert_eq!(inbox.next(100), Ok(None));
    }

    /// What a buffer has kept after messages of these sizes.
    fn kept(sizes: impl IntoIterator<Item = usize>) -> [usize; 2] {
        let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
        for size in sizes {
            let mut frame = Vec::new();
            frame::append(&mut frame, &vec![7_u8; size]);
            let filled: Result<_, ()> = inbox.fill(|buffer| {
                buffer.extend_from_slice(&frame);
                Ok(frame.len())
            });
            assert!(filled.is_ok() && inbox.next(usize::MAX).is_ok_and(|body| body.is_some()));
            outbox.buffer().extend_from_slice(&frame);
            outbox.wrote(frame.len());
        }
        inbox.make_room();
        [inbox.bytes.capacity(), outbox.bytes.capacity()]
    }

    #[test]
    fn a_buffer_is_kept_as_large_as_it_is_needed() {
        let few = |size: usize| move |&kept: &usize| kept >= size && kept <= 3 * size;
        assert!(kept([100; 50]).iter().all(|&kept| kept <= KEPT));
        assert!(kept([1 << 20; 50]).iter().all(few(1 << 20)), "it is used all the time");
        let now_and_then = (0..200).map(|round| if round % 10 == 0 { 1 << 20 } else { 100 });
        assert!(kept(now_and_then).iter().all(few(1 << 20)), "and now and then");
        let once = std::iter::once(1 << 20).chain([100; 40]);
        assert!(kept(once).iter().all(|&kept| kept <= KEPT), "and not any more");
        assert!(kept([MOST_KEPT + 1]).iter().all(|&kept| kept <= KEPT), "this is too much to keep");
    }

    #[test]
    fn what_was_written_can_be_said_again_until_it_is_confirmed() {
        let mut outbox = Outbox::default();
        outbox.keep_sent();
        outbox.buffer().extend_from_slice(b"abc");
        outbox.wrote(3);
        assert!(outbox.is_empty());
        outbox.rewind();
        assert_eq!(outbox.unsent(), b"abc");
        outbox.wrote(3);
        outbox.confirm();
        outbox.rewind();
        assert!(outbox.unsent().is_empty());
    }
}
