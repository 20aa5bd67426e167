//! Splits a byte stream, which arrives in pieces of any size, into lines.

/// The longest line that is emitted, in bytes (8 KiB); the rest of a longer one is left out.
const MAX_LINE: usize = 8 << 10;

/// The number of last lines that are shown.
const LAST_LINES: usize = 20;

/// The number of last bytes that are kept for them, in bytes (16 KiB).
const TAIL_BYTES: usize = 16 << 10;

/// The longest of the last lines, in bytes (1 KiB); the rest of a longer one is left out.
const MAX_TAIL_LINE: usize = 1024;

/// Splits a stream into lines.
#[derive(Default)]
pub(crate) struct LineBuffer {
    /// The beginning of a line whose end has not arrived.
    partial: Vec<u8>,
}

impl LineBuffer {
    /// Adds bytes and emits every line that ends in them.
    pub(crate) fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(&str)) {
        let mut pieces = bytes.split(|&byte| byte == b'\n');
        // The bytes behind the last line break begin a new line.
        let rest = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.add(piece);
            self.emit_line(emit);
        }
        self.add(rest);
    }

    /// Adds bytes and returns how many lines end in them, without emitting any.
    pub(crate) fn skip(&mut self, bytes: &[u8]) -> u64 {
        let ends = bytes.iter().filter(|&&byte| byte == b'\n').count();
        if let Some(last) = bytes.iter().rposition(|&byte| byte == b'\n') {
            self.partial.clear();
            self.add(&bytes[last + 1..]);
        } else {
            self.add(bytes);
        }
        ends as u64
    }

    /// Emits the bytes behind the last line break as a line, if there are any.
    pub(crate) fn finish(&mut self, emit: &mut dyn FnMut(&str)) {
        if !self.partial.is_empty() {
            self.emit_line(emit);
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let free = MAX_LINE.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(free)]);
    }

    fn emit_line(&mut self, emit: &mut dyn FnMut(&str)) {
        emit(String::from_utf8_lossy(&self.partial).trim_end_matches('\r'));
        self.partial.clear();
    }
}

/// The last bytes of a stream.
#[derive(Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    /// Whether bytes before these were dropped, so that the first line may lack its beginning.
    cut: bool,
}

impl Tail {
    /// Adds bytes, and drops the oldest from time to time.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 4 * TAIL_BYTES {
            self.bytes.drain(..self.bytes.len() - TAIL_BYTES);
            self.cut = true;
        }
    }

    /// Returns whether any of these texts occurs in the kept bytes.
    pub(crate) fn contains_any(&self, words: &[&str]) -> bool {
        let text = String::from_utf8_lossy(&self.bytes);
        words.iter().any(|word| text.contains(word))
    }

    /// Returns the last lines, at most 20, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let whole = if self.cut { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &*text };
        let lines: Vec<&str> = whole.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        last.iter().map(|line| crate::wire::frame::cut((*line).to_owned(), MAX_TAIL_LINE)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_are_split() {
        let text = b"first\n\nthird \xff\r\n\xc3\xa4 fourth\nunended";
        let expected = ["first", "", "third \u{fffd}", "ä fourth", "unended"];
        for size in 1..text.len() {
            let (mut lines, mut emitted) = (LineBuffer::default(), Vec::new());
            let mut emit = |line: &str| emitted.push(line.to_owned());
            text.chunks(size).for_each(|piece| lines.push(piece, &mut emit));
            lines.finish(&mut emit);
            lines.finish(&mut emit);
            assert_eq!(emitted, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_endless_line_is_cut_and_the_next_line_is_whole() {
        let (mut lines, mut emitted) = (LineBuffer::default(), Vec::new());
        for _ in 0..1000 {
            lines.push(&[b'x'; 1000], &mut |line| emitted.push(line.len()));
        }
        lines.push(b"\nnext\n", &mut |line| emitted.push(line.len()));
        assert_eq!(emitted, [MAX_LINE, 4]);
    }

    #[test]
    fn skipped_lines_are_counted_and_the_next_line_is_whole() {
        let (mut lines, mut emitted) = (LineBuffer::default(), Vec::new());
        lines.push(b"one\ntw", &mut |line| emitted.push(line.to_owned()));
        assert_eq!(lines.skip(b"o\nthree\nfo"), 2);
        assert_eq!(lines.skip(b"u"), 0);
        lines.push(b"r\n", &mut |line| emitted.push(line.to_owned()));
        assert_eq!(emitted, ["one", "four"]);
    }

    #[test]
    fn the_tail_returns_the_last_lines_of_a_long_stream() {
        let mut tail = Tail::default();
        for number in 0..100_000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        let expected: Vec<String> = (99_980..100_000).map(|number| format!("line {number}")).collect();
        assert_eq!(tail.lines(), expected);
        assert!(tail.bytes.len() <= 4 * TAIL_BYTES);
    }
}
