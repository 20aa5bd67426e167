//! The two buffers of one end of a channel: bytes received but not consumed yet, and frames not sent yet.

use crate::wire::frame;
use crate::wire::frame::FrameError;

/// Bytes requested per read at most, unless a frame needs more.
const MAX_READ: usize = 32 << 10;

/// Bytes requested by the first reads: most messages are small, and each page that is written to costs memory.
const INITIAL_READ: usize = 2 << 10;

/// A buffer of up to this many bytes is never freed.
const ALWAYS_KEPT: usize = 256 << 10;

/// A buffer of more than this many bytes is freed as soon as it is empty.
const MAX_KEPT: usize = 8 << 20;

/// A buffer between the two sizes is freed after this many uses in a row that needed less than a quarter of it. Freeing
/// it at once would cost more than all the copying, because its pages have to be created anew for each large message.
const MAX_UNDERUSED: u32 = 16;

/// Kept bytes that are discarded at a time, unless they are all there are.
const MIN_DISCARDED: usize = 16 << 10;

/// How much of a buffer the last messages needed.
#[derive(Default)]
struct BufferUse {
    /// Uses in a row that needed less than a quarter of the buffer.
    underused: u32,
}

impl BufferUse {
    /// Frees the buffer if it is too large by now; `used` is the number of bytes that this use needed.
    fn shrink(&mut self, bytes: &mut Vec<u8>, used: usize) {
        let capacity = bytes.capacity();
        self.underused = if capacity > ALWAYS_KEPT && used < capacity / 4 { self.underused + 1 } else { 0 };
        if bytes.is_empty() && (capacity > MAX_KEPT || self.underused == MAX_UNDERUSED) {
            *bytes = Vec::new();
        }
    }
}

/// Received bytes; frames are taken from the front.
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    /// Bytes at the front that [`next_frame`](Self::next_frame) has returned.
    consumed: usize,
    /// Bytes requested per read; doubles each time a read fills the buffer.
    read_size: usize,
    buffer_use: BufferUse,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox { bytes: Vec::new(), consumed: 0, read_size: INITIAL_READ, buffer_use: BufferUse::default() }
    }
}

impl Inbox {
    /// Lets `read` append to the buffer, which has capacity for at least one more byte. Returns the result of `read`
    /// and whether the spare capacity was filled.
    pub(crate) fn fill<E>(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
    ) -> Result<(usize, bool), E> {
        self.reserve();
        let spare = self.bytes.capacity() - self.bytes.len();
        let count = read(&mut self.bytes)?;
        if count == spare {
            self.read_size = MAX_READ.min(2 * self.read_size);
        }
        Ok((count, count == spare))
    }

    /// Returns the body of the next complete frame, or `None` until more bytes have arrived.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] if the frame exceeds `limit`; the stream is unusable then.
    pub(crate) fn next_frame(&mut self, limit: usize) -> Result<Option<&[u8]>, FrameError> {
        let unread = &self.bytes[self.consumed..];
        let length = frame::length(unread, limit)?;
        let Some(length) = length.filter(|&length| length <= unread.len()) else {
            return Ok(None);
        };
        let start = self.consumed + frame::LENGTH;
        self.consumed += length;
        Ok(Some(&self.bytes[start..self.consumed]))
    }

    /// Whether a complete frame can be taken.
    ///
    /// # Errors
    ///
    /// Those of [`next_frame`](Self::next_frame).
    pub(crate) fn has_frame(&self, limit: usize) -> Result<bool, FrameError> {
        let unread = &self.bytes[self.consumed..];
        Ok(frame::length(unread, limit)?.is_some_and(|length| length <= unread.len()))
    }

    /// Whether all received bytes were consumed.
    pub(crate) fn is_empty(&self) -> bool {
        self.consumed == self.bytes.len()
    }

    /// The buffer's capacity, in bytes.
    #[cfg(all(any(test, fuzzing), feature = "actors"))]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Prepares for the next read: discards consumed bytes and grows the buffer if it is almost full.
    fn reserve(&mut self) {
        // `consumed` is 0 if nothing was received since the last time.
        if self.consumed > 0 && self.consumed == self.bytes.len() {
            self.bytes.clear();
            self.buffer_use.shrink(&mut self.bytes, self.consumed);
            self.consumed = 0;
        }
        // Doubling keeps the copying of a large body linear. Capacity for a body is never reserved before it arrives.
        if self.bytes.capacity() - self.bytes.len() < self.read_size / 2 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
            self.bytes.reserve(self.read_size.max(self.bytes.len()));
        }
    }
}

/// Frames to be sent.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// Whether sent bytes are kept, to be sent to another worker if this one dies.
    keep: bool,
    /// Bytes that were discarded so far: the place of the first byte in the stream of all bytes.
    base: u64,
    buffer_use: BufferUse,
}

impl Outbox {
    /// The buffer that frames are appended to.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The bytes that were not sent yet.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Whether all bytes were sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Records that the first `count` bytes of [`unsent`](Self::unsent) were sent.
    pub(crate) fn mark_sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.bytes.len() && !self.keep {
            self.discard_sent();
        }
    }

    fn discard_sent(&mut self) {
        self.bytes.drain(..self.sent);
        self.base += self.sent as u64;
        self.buffer_use.shrink(&mut self.bytes, self.sent);
        self.sent = 0;
    }
}

/// Sending the same frames once more, to another worker.
#[cfg_attr(not(feature = "actors"), expect(dead_code, reason = "only the host sends frames again"))]
impl Outbox {
    /// Keeps sent bytes until [`confirm`](Self::confirm).
    pub(crate) fn keep_sent(&mut self) {
        self.keep = true;
    }

    /// Discards the bytes sent so far, because the peer has received them.
    pub(crate) fn confirm(&mut self) {
        if self.keep {
            self.keep = false;
            self.discard_sent();
        }
    }

    /// Returns the place, in the stream of all bytes, of the byte that is appended next.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Returns these kept bytes, by their places in the stream of all bytes.
    pub(crate) fn kept(&self, places: std::ops::Range<u64>) -> &[u8] {
        // Places beyond the memory's range are none of this buffer.
        let at = |place: u64| usize::try_from(place.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.bytes.get(at(places.start)..at(places.end)).unwrap_or_default()
    }

    /// Discards the kept bytes ahead of this place that were sent. Few calls move the rest, so that many small frames cost
    /// no more than one large one.
    pub(crate) fn discard_before(&mut self, place: u64) {
        let count = usize::try_from(place.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.sent);
        if count == self.bytes.len() || count >= (self.bytes.len() / 2).max(MIN_DISCARDED) {
            self.bytes.drain(..count);
            self.buffer_use.shrink(&mut self.bytes, count);
            self.base += count as u64;
            self.sent -= count;
        }
    }

    /// Marks all kept bytes as unsent.
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
        assert_eq!(inbox.next_frame(100), Ok(Some(b"\x05first".as_slice())));
        assert_eq!(inbox.next_frame(100), Ok(None));
        push(&mut inbox, &bytes[bytes.len() - 1..]);
        assert_eq!(inbox.next_frame(100), Ok(Some(b"\x06second".as_slice())));
        assert_eq!(inbox.next_frame(100), Ok(None));
    }

    #[test]
    fn kept_bytes_are_found_by_their_places_until_they_are_discarded() {
        let mut outbox = Outbox::default();
        outbox.keep_sent();
        let mut places = Vec::new();
        for number in 0..10_000_u32 {
            let start = outbox.end();
            outbox.buffer().extend_from_slice(&number.to_le_bytes());
            places.push(start..outbox.end());
            outbox.mark_sent(4);
            if let Some(first) = number.checked_sub(100) {
                outbox.discard_before(places[first as usize].start);
                assert_eq!(outbox.kept(places[first as usize].clone()), first.to_le_bytes());
                assert!(outbox.bytes.len() <= 2 * MIN_DISCARDED);
            }
        }
        outbox.discard_before(outbox.end());
        assert!(outbox.bytes.is_empty() && outbox.kept(places[9999].clone()).is_empty());
    }

    /// The capacities of both buffers after messages of these sizes.
    fn kept(sizes: impl IntoIterator<Item = usize>) -> [usize; 2] {
        let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
        for size in sizes {
            let mut frame = Vec::new();
            frame::append(&mut frame, &vec![7_u8; size]);
            let filled: Result<_, ()> = inbox.fill(|buffer| {
                buffer.extend_from_slice(&frame);
                Ok(frame.len())
            });
            assert!(filled.is_ok() && inbox.next_frame(usize::MAX).is_ok_and(|body| body.is_some()));
            outbox.buffer().extend_from_slice(&frame);
            outbox.mark_sent(frame.len());
        }
        inbox.reserve();
        [inbox.bytes.capacity(), outbox.bytes.capacity()]
    }

    #[test]
    fn a_buffer_is_kept_as_large_as_it_is_needed() {
        let few = |size: usize| move |&kept: &usize| kept >= size && kept <= 3 * size;
        assert!(kept([100; 50]).iter().all(|&kept| kept <= ALWAYS_KEPT));
        assert!(kept([1 << 20; 50]).iter().all(few(1 << 20)), "each message needs it");
        let now_and_then = (0..200).map(|round| if round % 10 == 0 { 1 << 20 } else { 100 });
        assert!(kept(now_and_then).iter().all(few(1 << 20)), "every tenth message needs it");
        let once = std::iter::once(1 << 20).chain([100; 40]);
        assert!(kept(once).iter().all(|&kept| kept <= ALWAYS_KEPT), "no message needs it any more");
        assert!(kept([MAX_KEPT + 1]).iter().all(|&kept| kept <= ALWAYS_KEPT), "too large to be kept");
    }

    #[test]
    fn sent_bytes_can_be_sent_again_until_they_are_confirmed() {
        let mut outbox = Outbox::default();
        outbox.keep_sent();
        outbox.buffer().extend_from_slice(b"abc");
        outbox.mark_sent(3);
        assert!(outbox.is_empty());
        outbox.rewind();
        assert_eq!(outbox.unsent(), b"abc");
        outbox.mark_sent(3);
        outbox.confirm();
        outbox.rewind();
        assert!(outbox.unsent().is_empty());
    }
}
