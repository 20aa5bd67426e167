//! A log that nobody adds to any more.

use std::time::Duration;

use serde_json::{Map, Value};

use super::LogLevel;

/// A log as it is delivered: messages and timers in the order of time, and data.
///
/// It serializes in the shape of the messages of [Log::Defer](https://metacpan.org/pod/Log::Defer), and reads what
/// Log::Defer has written: `{"start": …, "end": …, "logs": [[time, level, item…]], "timers": [[name, start, end]],
/// "data": {…}}`, where `start` is in seconds since 1970 and all other times are in seconds since `start`, to the
/// microsecond. A timer that failed has a fourth item, `{"failed": "why"}`, which other readers pass over; what they know
/// no place for is not kept when their logs are read.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FinishedLog {
    /// When it began, since the beginning of 1970.
    pub start: Duration,
    /// When it ended, since its start.
    pub end: Option<Duration>,
    /// What was said.
    pub messages: Vec<LogMessage>,
    /// What was timed.
    pub timers: Vec<LogTiming>,
    /// Values by their names.
    pub data: Map<String, Value>,
}

/// One message of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogMessage {
    /// When, since the log's start.
    pub at: Duration,
    /// How severe.
    pub level: LogLevel,
    /// Its text, and behind that its fields in one object, if it has any; of others' logs, anything.
    pub items: Vec<Value>,
}

/// One timer of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTiming {
    /// What was timed.
    pub name: String,
    /// When it began, since the log's start.
    pub start: Duration,
    /// When it ended; `None` where it was still running at the end of the log.
    pub end: Option<Duration>,
    /// Why what was timed has failed, if it has.
    pub failure: Option<String>,
}

impl LogMessage {
    /// Its text: the first item, as it is if that is a text, or as JSON.
    pub fn text(&self) -> String {
        match self.items.first() {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }

    /// Its fields, where the second item is an object.
    pub fn fields(&self) -> Option<&Map<String, Value>> {
        self.items.get(1)?.as_object()
    }
}

impl LogTiming {
    /// How long it took, as a text.
    pub(super) fn took(&self) -> String {
        self.end.map_or_else(|| "runs".to_owned(), |end| format!("{:.1?}", end.saturating_sub(self.start)))
    }
}

impl FinishedLog {
    /// It in one line of JSON.
    pub fn to_json(&self) -> String {
        // Maps with texts as keys and numbers that are none of the infinite ones: there is nothing to go wrong.
        serde_json::to_string(self).unwrap_or_default()
    }
}
