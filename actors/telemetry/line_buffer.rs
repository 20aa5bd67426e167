//! From bytes in pieces of any size to lines.

/// Longest line that is told, in bytes; the rest of it is left out.
const LONGEST_LINE: usize = 8 << 10;

/// Lines at the end that are kept.
const LAST_LINES: usize = 20;

/// Bytes at the end in which they are looked for.
const TAIL: usize = 16 << 10;

/// Cuts a stream into lines.
#[derive(Default)]
pub(crate) struct LineBuffer {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl LineBuffer {
    /// Tells every line that ends in these bytes.
    pub(crate) fn push(&mut self, bytes: &[u8], tell: &mut dyn FnMut(&str)) {
        let mut pieces = bytes.split(|&byte| byte == b'\n');
        // What stands behind the last end of a line is the beginning of another.
        let rest = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.add(piece);
            self.tell(tell);
        }
        self.add(rest);
    }

    /// Counts the lines that end in these bytes, and tells none.
    pub(crate) fn skip(&mut self, bytes: &[u8]) -> u64 {
        let ends = bytes.iter().filter(|&&byte| byte == b'\n').count();
        if let Some(last) = bytes.iter().rposition(|&byte| byte == b'\n') {
            self.begun.clear();
            self.add(&bytes[last + 1..]);
        } else {
            self.add(bytes);
        }
        ends as u64
    }

    /// Tells what stands behind the last end of a line.
    pub(crate) fn end(&mut self, tell: &mut dyn FnMut(&str)) {
        if !self.begun.is_empty() {
            self.tell(tell);
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn tell(&mut self, tell: &mut dyn FnMut(&str)) {
        tell(String::from_utf8_lossy(&self.begun).trim_end_matches('\r'));
        self.begun.clear();
    }
}

/// The end of a stream.
#[derive(Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    /// Whether something was cut off ahead of the bytes.
    cut: bool,
}

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 4 * TAIL {
            self.bytes.drain(..self.bytes.len() - TAIL);
            self.cut = true;
        }
    }

    /// Whether any of these words are in it.
    pub(crate) fn holds(&self, words: &[&str]) -> bool {
        let text = String::from_utf8_lossy(&self.bytes);
        words.iter().any(|word| text.contains(word))
    }

    /// The last lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let whole = if self.cut { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &*text };
        let lines: Vec<&str> = whole.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        last.iter().map(|line| crate::wire::frame::cut((*line).to_owned(), 1024)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_in_whatever_pieces_they_come() {
        let text = b"first\n\nthird \xff\r\n\xc3\xa4 fourth\nunended";
        let expected = ["first", "", "third \u{fffd}", "ä fourth", "unended"];
        for size in 1..text.len() {
            let (mut lines, mut told) = (LineBuffer::default(), Vec::new());
            let mut tell = |line: &str| told.push(line.to_owned());
            text.chunks(size).for_each(|piece| lines.push(piece, &mut tell));
            lines.end(&mut tell);
            lines.end(&mut tell);
            assert_eq!(told, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_keeps_nothing() {
        let (mut lines, mut told) = (LineBuffer::default(), Vec::new());
        for _ in 0..1000 {
            lines.push(&[b'x'; 1000], &mut |line| told.push(line.len()));
        }
        lines.push(b"\nnext\n", &mut |line| told.push(line.len()));
        assert_eq!(told, [LONGEST_LINE, 4]);
    }

    #[test]
    fn lines_that_are_left_out_are_counted_and_the_next_is_whole() {
        let (mut lines, mut told) = (LineBuffer::default(), Vec::new());
        lines.push(b"one\ntw", &mut |line| told.push(line.to_owned()));
        assert_eq!(lines.skip(b"o\nthree\nfo"), 2);
        assert_eq!(lines.skip(b"u"), 0);
        lines.push(b"r\n", &mut |line| told.push(line.to_owned()));
        assert_eq!(told, ["one", "four"]);
    }

    #[test]
    fn the_tail_is_the_last_lines_however_much_came_before() {
        let mut tail = Tail::default();
        for number in 0..100_000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        let expected: Vec<String> = (99_980..100_000).map(|number| format!("line {number}")).collect();
        assert_eq!(tail.lines(), expected);
        assert!(tail.bytes.len() <= 4 * TAIL);
    }
}
