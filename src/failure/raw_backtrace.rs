//! The stack of a panic as its worker captured it: places in programs and libraries, without names.
//!
//! Capturing addresses costs microseconds, and finding the names of functions costs a hundred milliseconds and the
//! memory of all debug information. So a worker sends the addresses, and its application finds the names.

#[cfg(any(test, feature = "actors"))]
use std::ffi::OsStr;
#[cfg(any(test, feature = "actors"))]
use std::fmt::Write;

use serde::{Deserialize, Serialize};

#[cfg(any(test, feature = "actors"))]
use crate::escape;

/// Most frames that a worker captures, counted from the innermost.
pub(crate) const MAX_FRAMES: usize = 256;

/// Longest path of an object, in bytes.
pub(crate) const MAX_OBJECT_PATH: usize = 512;

/// Longest text of a backtrace, in bytes. The innermost frames come first, so the end is cut.
#[cfg(any(test, feature = "actors"))]
pub(crate) const LONGEST_BACKTRACE: usize = 32 << 10;

/// Whether panics have a backtrace, and how much it shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BacktraceStyle {
    #[default]
    Off,
    /// The frames of the user's code.
    Short,
    /// All frames, with the hashes in the names of functions.
    Full,
}

#[cfg(any(test, feature = "actors"))]
impl BacktraceStyle {
    /// The variable that decides about the backtraces of panics. `RUST_LIB_BACKTRACE` concerns errors alone.
    #[cfg(feature = "actors")]
    const VARIABLE: &str = "RUST_BACKTRACE";

    /// Returns what the environment of this process says.
    #[cfg(feature = "actors")]
    pub(crate) fn here() -> Self {
        BacktraceStyle::of(std::env::var_os(BacktraceStyle::VARIABLE).as_deref())
    }

    /// Reads the value of that variable as the standard library does.
    fn of(value: Option<&OsStr>) -> Self {
        match value {
            None => BacktraceStyle::Off,
            Some(value) if value == "0" => BacktraceStyle::Off,
            Some(value) if value == "full" => BacktraceStyle::Full,
            Some(_) => BacktraceStyle::Short,
        }
    }
}

/// The stack of a panic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RawBacktrace {
    pub(crate) style: BacktraceStyle,
    pub(crate) objects: Vec<RawObject>,
    /// Innermost first; at most [`MAX_FRAMES`].
    pub(crate) frames: Vec<RawFrame>,
}

/// A program or a library that was loaded in the worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RawObject {
    pub(crate) path: String,
    /// Identifies the file; empty if its linker wrote none.
    pub(crate) build_id: Vec<u8>,
    /// A hash of the program headers.
    pub(crate) layout: u64,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RawFrame {
    /// The position of the object among [`RawBacktrace::objects`]; `None` if the code is in no object.
    pub(crate) object: Option<u32>,
    /// The address within the object, or in memory without an object, of the last byte of the call.
    pub(crate) offset: u64,
}

impl RawBacktrace {
    /// Returns the stack as text, as it takes the place of a backtrace in the report of a worker.
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(any(test, feature = "actors"))]
impl RawBacktrace {
    /// Reads what [`encode`](Self::encode) has made.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Returns the object and the offset of a frame; `None` if the code is in no object.
    pub(crate) fn place(&self, frame: RawFrame) -> Option<(&RawObject, u64)> {
        let object = self.objects.get(usize::try_from(frame.object?).ok()?)?;
        Some((object, frame.offset))
    }

    /// Writes a frame whose function is not known.
    pub(crate) fn write_unresolved(&self, frame: RawFrame, number: usize, out: &mut String) {
        // Writing to a string does not fail.
        let _ = match self.place(frame) {
            Some((object, offset)) => {
                writeln!(out, "{number:4}: {}+{offset:#x}", escape::one_line(&object.path))
            }
            None => writeln!(out, "{number:4}: {:#x}", frame.offset),
        };
    }

    /// Returns the frames as places in objects, a line each.
    pub(crate) fn unresolved(&self) -> String {
        let mut text = String::new();
        for (number, &frame) in self.frames.iter().take(MAX_FRAMES).enumerate() {
            self.write_unresolved(frame, number, &mut text);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G9
    #[test]
    fn the_variable_is_read_as_the_standard_library_reads_it() {
        let table = [
            (None, BacktraceStyle::Off),
            (Some("0"), BacktraceStyle::Off),
            (Some("1"), BacktraceStyle::Short),
            (Some(""), BacktraceStyle::Short),
            (Some("yes"), BacktraceStyle::Short),
            (Some("full"), BacktraceStyle::Full),
        ];
        for (value, style) in table {
            assert_eq!(BacktraceStyle::of(value.map(OsStr::new)), style, "{value:?}");
        }
    }

    /// G9
    #[test]
    fn a_stack_travels_as_text_that_fits_into_a_header() {
        let object =
            RawObject { path: "/".repeat(MAX_OBJECT_PATH), build_id: vec![0xff; 20], layout: u64::MAX };
        let frame = RawFrame { object: Some(11), offset: 0x7fff_ffff_ffff };
        let raw = RawBacktrace {
            style: BacktraceStyle::Full,
            objects: vec![object; 12],
            frames: vec![frame; MAX_FRAMES],
        };
        let text = raw.encode();
        assert!(text.len() < LONGEST_BACKTRACE, "{} bytes", text.len());
        assert_eq!(RawBacktrace::decode(&text), Some(raw));
        assert_eq!(RawBacktrace::decode("0: main"), None);
    }

    /// G9
    #[test]
    fn a_frame_whose_object_is_not_listed_is_an_address() {
        let object = RawObject { path: "/bin/\napp".to_owned(), ..RawObject::default() };
        let frames = [Some(0), Some(7), None].map(|object| RawFrame { object, offset: 0x20 }).to_vec();
        let raw = RawBacktrace { style: BacktraceStyle::Short, objects: vec![object], frames };
        let lines: Vec<String> = raw.unresolved().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].ends_with("app+0x20") && lines[0].contains("/bin/"), "{lines:?}");
        assert_eq!(lines[1..], ["   1: 0x20", "   2: 0x20"]);
    }
}
