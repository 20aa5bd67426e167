//! What a worker leaves on its status page about its own end, in case it cannot send it: the texts of panics, and that
//! its stack has overflowed.

use std::sync::atomic::Ordering;

use super::status_page::{CACHE_LINE, StatusPage};
use crate::failure::{LastWords, PanicReport};
use crate::sys::stack_overflow;

/// Offset: 1 once the stack of the worker's thread has overflowed.
const OVERFLOWED: usize = 9 * CACHE_LINE;

/// Offset: bytes of the texts of panics.
const TEXT_LENGTH: usize = OVERFLOWED + 4;

/// Offset: bytes of the location of the first panic.
const LOCATION_LENGTH: usize = OVERFLOWED + 8;

/// Offset of the location.
const LOCATION: usize = 10 * CACHE_LINE;

/// Longest location, in bytes; a longer one is left out.
const MAX_LOCATION: usize = 4 * CACHE_LINE;

/// Offset of the texts.
const TEXT: usize = LOCATION + MAX_LOCATION;

/// Longest texts, in bytes; what is longer is cut.
const MAX_TEXT: usize = 16 * CACHE_LINE;

impl StatusPage {
    /// Adds the text of a panic to those of the running call. It allocates nothing. Only one thread at a time may call
    /// this.
    pub(crate) fn add_panic(&self, message: &str, location: &str) {
        let length = self.word(TEXT_LENGTH) as usize % (MAX_TEXT + 1);
        if length == 0 && location.len() <= MAX_LOCATION {
            self.0.write(LOCATION, location.as_bytes());
            self.set_word(LOCATION_LENGTH, location.len());
        }
        let parts = if length == 0 { ["", message] } else { ["\n", message] };
        let mut end = length;
        for part in parts {
            let kept = crate::wire::frame::beginning(part, MAX_TEXT - end);
            self.0.write(TEXT + end, kept.as_bytes());
            end += kept.len();
        }
        self.set_word(TEXT_LENGTH, end);
    }

    /// Removes the texts of panics: user code has caught them, and another call begins.
    pub(crate) fn clear_panic(&self) {
        self.set_word(TEXT_LENGTH, 0);
        self.set_word(LOCATION_LENGTH, 0);
    }

    /// Has the fault handler of this process report here that the stack has overflowed.
    pub(crate) fn record_overflow(&self) {
        stack_overflow::record_in(self.0.clone(), OVERFLOWED);
    }

    /// Returns what the worker has left. The worker may write at the same time, and what it writes may be anything.
    pub(crate) fn last_words(&self) -> LastWords {
        let text = self.text(TEXT, self.word(TEXT_LENGTH), MAX_TEXT);
        let location = self.text(LOCATION, self.word(LOCATION_LENGTH), MAX_LOCATION);
        LastWords {
            panic: text.map(|text| PanicReport::new(text, location)),
            stack_overflow: self.word(OVERFLOWED) == 1,
        }
    }

    /// Reads a text; `None` if it is empty.
    fn text(&self, at: usize, length: u32, max: usize) -> Option<String> {
        let mut bytes = Vec::new();
        self.0.read(at, (length as usize).min(max), &mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Some(text).filter(|text| !text.is_empty())
    }

    fn word(&self, at: usize) -> u32 {
        self.0.atomic_u32(at).load(Ordering::Acquire)
    }

    fn set_word(&self, at: usize, value: usize) {
        // All values are lengths within the page, so the cast loses nothing.
        self.0.atomic_u32(at).store(value as u32, Ordering::Release);
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use super::*;

    fn status_page() -> StatusPage {
        StatusPage::create().expect("memory").0
    }

    fn panic_of(status_page: &StatusPage) -> Option<(String, Option<String>)> {
        status_page.last_words().panic.map(|report| (report.message, report.location))
    }

    /// G9
    #[test]
    fn the_texts_of_panics_are_kept_with_the_location_of_the_first() {
        let status_page = status_page();
        assert_eq!(status_page.last_words(), LastWords::default());
        status_page.add_panic("first", "a.rs:1:2");
        status_page.add_panic("second", "b.rs:3:4");
        let kept = ("first\nsecond".to_owned(), Some("a.rs:1:2".to_owned()));
        assert_eq!(panic_of(&status_page), Some(kept));
        status_page.clear_panic();
        assert_eq!(panic_of(&status_page), None);
        status_page.add_panic(&"ä".repeat(MAX_TEXT), &"x".repeat(MAX_LOCATION + 1));
        status_page.add_panic("more", "");
        assert_eq!(panic_of(&status_page), Some(("ä".repeat(MAX_TEXT / 2), None)));
        assert!(status_page.records().is_empty(), "the log lies behind");
    }

    /// G8
    #[test]
    fn lengths_that_cannot_be_are_read_as_the_longest() {
        let status_page = status_page();
        for length in [1, MAX_TEXT, MAX_TEXT + 1, u32::MAX as usize] {
            status_page.set_word(TEXT_LENGTH, length);
            status_page.set_word(LOCATION_LENGTH, length);
            status_page.set_word(OVERFLOWED, length);
            let last_words = status_page.last_words();
            assert_eq!(last_words.panic.map(|report| report.message.len()), Some(length.min(MAX_TEXT)));
            assert_eq!(last_words.stack_overflow, length == 1);
            status_page.add_panic("x", "");
        }
    }
}
