//! What a handler says in the log of the request that it works for.

use serde::Serialize;
use serde_json::Value as Json;

use super::log_sender;
use super::log_sender::Turn;
use super::subscriber;
use crate::request_log::{LogLevel, json};
use crate::wire::log_record::{
    CallsiteInfo, LONGEST_RECORD, MOST_FIELDS, OWN_TARGET, Record, RecordBudget, Value, Values, level,
};

/// The log of the request whose call is being handled: the `RequestLog` that its checkout is attached to.
///
/// Without one, messages and timers are events and spans in the application's subscriber, with the target
/// `forkpool::log` and the level of `tracing` whose number is the next from there: 15 is a warning, 31 a debug message.
/// Outside of a call, in a set-up or between calls, nothing is recorded. Levels and verbosity are those of the requester.
/// Texts of more than 16 KiB in one record, and names of more than 256 bytes, are cut.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLog(());

impl WorkerLog {
    #[cfg(feature = "actors")]
    pub(crate) fn new() -> Self {
        WorkerLog(())
    }

    /// Whether a message of this level is recorded.
    pub fn is_enabled(self, level: LogLevel) -> bool {
        // There is no call where nothing at all is recorded.
        level.0.max(1) <= log_sender::verbosity()
    }

    /// Adds a message of level 10.
    pub fn error(self, text: impl Into<String>) {
        self.lazy(LogLevel::ERROR, || text);
    }

    /// Adds a message of level 20.
    pub fn warn(self, text: impl Into<String>) {
        self.lazy(LogLevel::WARN, || text);
    }

    /// Adds a message of level 30.
    pub fn info(self, text: impl Into<String>) {
        self.lazy(LogLevel::INFO, || text);
    }

    /// Adds a message of level 40.
    pub fn debug(self, text: impl Into<String>) {
        self.lazy(LogLevel::DEBUG, || text);
    }

    /// Adds a message whose text is made only if it is recorded.
    pub fn lazy<T: Into<String>>(self, level: LogLevel, text: impl FnOnce() -> T) {
        if self.is_enabled(level) {
            say(level, text().into(), Vec::new());
        }
    }

    /// Adds a message with fields: names and values, in an array of pairs, a map or a struct. At most 31 are kept.
    ///
    /// Fields that cannot be made into JSON are replaced by the reason.
    pub fn record(self, level: LogLevel, text: impl Into<String>, fields: impl Serialize) {
        if self.is_enabled(level) {
            say(level, text.into(), json::fields(fields).into_iter().take(MOST_FIELDS - 1).collect());
        }
    }

    /// Begins a timer; it ends when its guard is dropped, or with the call.
    pub fn timer(self, name: impl Into<String>) -> WorkerTimer {
        if log_sender::verbosity() == 0 {
            return WorkerTimer { begun: None };
        }
        let span = subscriber::next_span();
        let source = source(level::INFO, name.into(), Vec::new());
        let opened = Record::Opened { span, parent: subscriber::innermost(), source, values: Vec::new() };
        WorkerTimer { begun: log_sender::open(opened).map(|turn| (span, turn)) }
    }

    /// Adds a value under a name to the log's data, in place of one that is there already. An application's subscriber
    /// does not hear of it.
    ///
    /// A value that cannot be made into JSON is replaced by the reason; one of more than 16 KiB is left out.
    pub fn data(self, name: impl Into<String>, value: impl Serialize) {
        if log_sender::verbosity() > 0 {
            let value = json::value(value).to_string();
            if value.len() <= LONGEST_RECORD {
                log_sender::record(Record::Data { name: name.into(), value });
            }
        }
    }
}

fn say(level: LogLevel, text: String, fields: Vec<(String, Json)>) {
    let (names, values): (Vec<String>, Vec<Json>) = fields.into_iter().unzip();
    let mut room = RecordBudget::default();
    let text = Value::Shown(room.fit(text));
    let values = values.into_iter().map(|value| as_value(value, &mut room));
    let values: Values = (0..).zip(std::iter::once(text).chain(values)).collect();
    let names = std::iter::once("message".to_owned()).chain(names).collect();
    let source = source(level.0, "message".to_owned(), names);
    log_sender::record(Record::Event { parent: subscriber::innermost(), source, values });
}

fn source(level: u8, name: String, fields: Vec<String>) -> CallsiteInfo {
    CallsiteInfo { level, name, target: OWN_TARGET.to_owned(), file: None, line: None, fields }
}

fn as_value(value: Json, room: &mut RecordBudget) -> Value {
    match value {
        Json::Bool(value) => Value::Bool(value),
        Json::String(text) => Value::Text(room.fit(text)),
        Json::Number(number) => number
            .as_u64()
            .map(Value::Unsigned)
            .or_else(|| number.as_i64().map(Value::Signed))
            .unwrap_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN).to_bits())),
        other => Value::Json(room.fit(other.to_string())),
    }
}

/// A timer that a handler has begun, until it is dropped.
#[derive(Debug)]
pub struct WorkerTimer {
    begun: Option<(u64, Turn)>,
}

impl Drop for WorkerTimer {
    fn drop(&mut self) {
        if let Some((span, turn)) = self.begun {
            log_sender::close(span, turn);
        }
    }
}
