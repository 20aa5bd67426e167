//! `ctx.log()`: what a handler adds to the log of the request that it works for.

use serde::Serialize;
use serde_json::Value as Json;

use super::log_sender;
use super::log_sender::CallSerial;
use super::subscriber;
use crate::request_log::{LogLevel, json};
use crate::wire::log_record::{
    CallsiteInfo, LOG_TARGET, MAX_FIELDS, MAX_RECORD_TEXT, Record, RecordBudget, Value, Values, level,
};

/// A handler's access to the log of its request: the `RequestLog` that the checkout is attached to.
///
/// Without a `RequestLog`, messages and timers become events and spans of the application's subscriber, with the
/// target `forkpool::log`. Their `tracing` level is the nearest one at or above the number: 15 becomes a warning, 31
/// a debug message.
///
/// Nothing is recorded outside of calls: in the set-up or between calls. The caller's verbosity decides which levels
/// are recorded. One record holds at most 16 KiB of text, and a name at most 256 bytes; the rest is cut. One call
/// records at most 10,000 records; the number of those beyond is reported.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLog(());

impl WorkerLog {
    #[cfg(feature = "actors")]
    pub(crate) fn new() -> Self {
        WorkerLog(())
    }

    /// Returns whether a message of this level is recorded now.
    pub fn is_enabled(self, level: LogLevel) -> bool {
        // Level 0 must not count as enabled where nothing is recorded.
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

    /// Adds a message whose text is made only if the level is recorded.
    pub fn lazy<T: Into<String>>(self, level: LogLevel, text: impl FnOnce() -> T) {
        if self.is_enabled(level) {
            record_event(level, text().into(), Vec::new());
        }
    }

    /// Adds a message with fields. `fields` is an array of pairs, a map or a struct: names and values. The first 31
    /// are kept.
    ///
    /// Fields that cannot be serialized to JSON are replaced by the reason.
    pub fn record(self, level: LogLevel, text: impl Into<String>, fields: impl Serialize) {
        if self.is_enabled(level) {
            record_event(level, text.into(), json::fields(fields).into_iter().take(MAX_FIELDS - 1).collect());
        }
    }

    /// Starts a timer. It ends when the returned guard is dropped, or else with the call.
    pub fn timer(self, name: impl Into<String>) -> WorkerTimer {
        if log_sender::verbosity() == 0 {
            return WorkerTimer { begun: None };
        }
        let span = subscriber::next_span();
        let source = callsite(level::INFO, name.into(), Vec::new());
        let opened = Record::Opened { span, parent: subscriber::innermost(), source, values: Vec::new() };
        WorkerTimer { begun: log_sender::open(opened).map(|call_serial| (span, call_serial)) }
    }

    /// Sets a value in the data of the request's log, replacing a value with the same name. Without a `RequestLog` it
    /// has no effect.
    ///
    /// A value that cannot be serialized to JSON is replaced by the reason. A value of more than 16 KiB of JSON is
    /// left out.
    pub fn data(self, name: impl Into<String>, value: impl Serialize) {
        if log_sender::verbosity() > 0 {
            let value = json::value(value).to_string();
            if value.len() <= MAX_RECORD_TEXT {
                log_sender::record(Record::Data { name: name.into(), value });
            }
        }
    }
}

fn record_event(level: LogLevel, text: String, fields: Vec<(String, Json)>) {
    let (names, values): (Vec<String>, Vec<Json>) = fields.into_iter().unzip();
    let mut budget = RecordBudget::default();
    let text = Value::Shown(budget.fit(text));
    let values = values.into_iter().map(|value| as_value(value, &mut budget));
    let values: Values = (0..).zip(std::iter::once(text).chain(values)).collect();
    let names = std::iter::once("message".to_owned()).chain(names).collect();
    let source = callsite(level.0, "message".to_owned(), names);
    log_sender::record(Record::Event { parent: subscriber::innermost(), source, values });
}

fn callsite(level: u8, name: String, fields: Vec<String>) -> CallsiteInfo {
    CallsiteInfo { level, name, target: LOG_TARGET.to_owned(), file: None, line: None, fields }
}

fn as_value(value: Json, budget: &mut RecordBudget) -> Value {
    match value {
        Json::Bool(value) => Value::Bool(value),
        Json::String(text) => Value::Text(budget.fit(text)),
        Json::Number(number) => number
            .as_u64()
            .map(Value::Unsigned)
            .or_else(|| number.as_i64().map(Value::Signed))
            .unwrap_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN).to_bits())),
        other => Value::Json(budget.fit(other.to_string())),
    }
}

/// A running timer; dropping it ends the timer.
#[derive(Debug)]
#[must_use = "a timer ends when it is dropped"]
pub struct WorkerTimer {
    begun: Option<(u64, CallSerial)>,
}

impl Drop for WorkerTimer {
    fn drop(&mut self) {
        if let Some((span, call_serial)) = self.begun {
            log_sender::close(span, call_serial);
        }
    }
}
