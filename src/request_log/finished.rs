//! A request log that is complete.

use std::time::Duration;

use serde_json::{Map, Value};

use super::LogLevel;

/// A complete request log, as it is delivered: messages and timers, each sorted by time, and data.
///
/// It serializes in the shape of a message of [Log::Defer](https://metacpan.org/pod/Log::Defer), and deserializes what
/// Log::Defer has written: `{"start": …, "end": …, "logs": [[time, level, item…]], "timers": [[name, start, end]],
/// "data": {…}}`. `start` is in seconds since the beginning of 1970; all other times are in seconds since `start`. All
/// have a precision of microseconds, and empty parts are left out. A failed timer has a fourth item,
/// `{"failed": "why"}`, which other readers of the format ignore. Members and items that have no field here are dropped
/// when a log is read.
///
/// `Display` prints what [`to_text`](Self::to_text) returns for 100 columns without colours.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FinishedLog {
    /// The time at which the log began, since the beginning of 1970 (UTC).
    pub start: Duration,
    /// The time at which the log ended, since its start. A delivered log always has one; the log of another program
    /// may lack it.
    pub end: Option<Duration>,
    /// The messages, earliest first.
    pub messages: Vec<LogMessage>,
    /// The timers, in the order in which they began.
    pub timers: Vec<LogTiming>,
    /// The values that were added with [`RequestLog::data`](super::RequestLog::data), by name.
    pub data: Map<String, Value>,
}

/// One message of a [`FinishedLog`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LogMessage {
    /// The time of the message, since the log's start.
    pub at: Duration,
    /// The severity of the message.
    pub level: LogLevel,
    /// The text, followed by an object with the fields, if there are any. Logs of other programs may have any items.
    pub items: Vec<Value>,
}

/// One timer of a [`FinishedLog`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogTiming {
    /// What was timed. The timer of a call has the name of its message.
    pub name: String,
    /// The time at which the timer began, since the log's start.
    pub start: Duration,
    /// The time at which the timer ended, since the log's start. A delivered log always has one; in the log of another
    /// program `None` means that the timer was still running at the end.
    pub end: Option<Duration>,
    /// The text of the failure, if what was timed has failed.
    pub failure: Option<String>,
}

impl LogMessage {
    /// Returns the text of the message: the first item, as it is if it is a string, or else as JSON. Without items the
    /// text is empty.
    pub fn text(&self) -> String {
        match self.items.first() {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }

    /// Returns the fields of the message, if the second item is an object.
    pub fn fields(&self) -> Option<&Map<String, Value>> {
        self.items.get(1)?.as_object()
    }
}

impl LogTiming {
    /// Returns how long the timer ran, as text; `runs` for one without an end.
    pub(super) fn duration_text(&self) -> String {
        self.end.map_or_else(|| "runs".to_owned(), |end| format!("{:.1?}", end.saturating_sub(self.start)))
    }
}

impl FinishedLog {
    /// Returns the log as one line of JSON.
    pub fn to_json(&self) -> String {
        // Serialization cannot fail: all keys are strings, and JSON values hold finite numbers only.
        serde_json::to_string(self).unwrap_or_default()
    }
}
