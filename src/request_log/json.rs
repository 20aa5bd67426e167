//! The JSON of a log, in the shape of the messages of Log::Defer, so that the viewers written for it can read them.
//!
//! # References
//!
//! - [Log::Defer](https://metacpan.org/pod/Log::Defer), "LOG MESSAGES"

use std::time::Duration;

use serde::de::Error;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{FinishedLog, LogLevel, LogMessage, LogTiming};

/// Converts a value to JSON; a value that cannot be converted is replaced by a string with the reason.
pub(crate) fn value(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| Value::String(format!("not JSON: {error}")))
}

/// Converts fields to a JSON object. A list of pairs becomes an object too, and any other value becomes one field,
/// called `fields`.
pub(crate) fn fields(fields: impl Serialize) -> Map<String, Value> {
    let fields = value(fields);
    let pairs = || fields.as_array()?.iter().map(pair).collect();
    match pairs() {
        Some(pairs) => pairs,
        None => match fields {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            other => Map::from_iter([("fields".to_owned(), other)]),
        },
    }
}

/// The deepest nesting of a value. `serde_json` reads 127 levels, so a whole log around such a value can be read back.
const MAX_DEPTH: usize = 100;

/// Replaces what is nested too deeply in a value by a string, and returns the approximate size of the value in bytes.
pub(super) fn limit_and_measure(value: &mut Value) -> usize {
    limit_and_measure_at(value, 0)
}

fn limit_and_measure_at(value: &mut Value, depth: usize) -> usize {
    let own = size_of::<Value>();
    match value {
        Value::Array(_) | Value::Object(_) if depth >= MAX_DEPTH => {
            *value = Value::String("not JSON: nested too deeply".to_owned());
            own
        }
        Value::Array(items) => {
            own + items.iter_mut().map(|item| limit_and_measure_at(item, depth + 1)).sum::<usize>()
        }
        Value::Object(map) => {
            own + map
                .iter_mut()
                .map(|(name, item)| own + name.len() + limit_and_measure_at(item, depth + 1))
                .sum::<usize>()
        }
        Value::String(text) => own + text.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => own,
    }
}

fn pair(pair: &Value) -> Option<(String, Value)> {
    match pair.as_array()?.as_slice() {
        [Value::String(name), value] => Some((name.clone(), value.clone())),
        _ => None,
    }
}

/// Converts a time to seconds, rounded down to microseconds.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

/// Converts seconds to a time, rounded to microseconds; `None` if the value is not a number.
fn duration(seconds: &Value) -> Option<Duration> {
    // Logs of programs whose clock was set back may have times before the start; those become the start.
    let micros = (seconds.as_f64()? * 1e6).round().max(0.0);
    // The cast saturates: a larger number becomes the latest time there is.
    Some(Duration::from_micros(micros as u64))
}

impl Serialize for FinishedLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("start", &seconds(self.start))?;
        if let Some(end) = self.end {
            map.serialize_entry("end", &seconds(end))?;
        }
        if !self.messages.is_empty() {
            let logs: Vec<Value> = self.messages.iter().map(message_to_json).collect();
            map.serialize_entry("logs", &logs)?;
        }
        if !self.timers.is_empty() {
            let timers: Vec<Value> = self.timers.iter().map(timer_to_json).collect();
            map.serialize_entry("timers", &timers)?;
        }
        if !self.data.is_empty() {
            map.serialize_entry("data", &self.data)?;
        }
        map.end()
    }
}

fn message_to_json(message: &LogMessage) -> Value {
    let head = [json!(seconds(message.at)), json!(message.level.0)];
    Value::Array(head.into_iter().chain(message.items.iter().cloned()).collect())
}

fn timer_to_json(timer: &LogTiming) -> Value {
    let mut array = vec![json!(timer.name), json!(seconds(timer.start))];
    match (timer.end, &timer.failure) {
        (None, None) => {}
        (end, None) => array.push(json!(end.map(seconds))),
        // Other readers of the format take the first three items only.
        (end, Some(failure)) => array.extend([json!(end.map(seconds)), json!({ "failed": failure })]),
    }
    Value::Array(array)
}

impl<'de> Deserialize<'de> for FinishedLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(deserializer)?;
        let start = map.get("start").and_then(duration);
        let start = start.ok_or_else(|| D::Error::custom("a log needs a number `start`"))?;
        let list =
            |name: &str| map.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let messages = list("logs").iter().map(message_of_json).collect::<Option<_>>();
        let timers = list("timers").iter().map(timer_of_json).collect::<Option<_>>();
        Ok(FinishedLog {
            start,
            end: map.get("end").and_then(duration),
            messages: messages
                .ok_or_else(|| D::Error::custom("a message has to begin with its time and its level"))?,
            timers: timers
                .ok_or_else(|| D::Error::custom("a timer has to begin with its name and its start"))?,
            data: map.get("data").and_then(Value::as_object).cloned().unwrap_or_default(),
        })
    }
}

fn message_of_json(message: &Value) -> Option<LogMessage> {
    let [at, level, items @ ..] = message.as_array()?.as_slice() else { return None };
    let level = u8::try_from(level.as_u64()?.min(u64::from(u8::MAX))).ok()?;
    Some(LogMessage { at: duration(at)?, level: LogLevel(level), items: items.to_vec() })
}

fn timer_of_json(timer: &Value) -> Option<LogTiming> {
    let [name, start, rest @ ..] = timer.as_array()?.as_slice() else { return None };
    let failure = rest.get(1).and_then(|more| more.get("failed")?.as_str().map(str::to_owned));
    let end = rest.first().and_then(duration);
    Some(LogTiming { name: name.as_str()?.to_owned(), start: duration(start)?, end, failure })
}
