//! The shape in which logs travel: that of the messages of Log::Defer, so that its users' viewers read them.
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

/// Any value as JSON, or why it is none.
pub(crate) fn value(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| Value::String(format!("no JSON: {error}")))
}

/// Fields as a JSON object, also where they come as a list of pairs; what is neither is one called `fields`.
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

/// Deepest nesting of a value; a whole log, which lies around it, can then be read back: `serde_json` reads 127 levels.
const DEEPEST: usize = 100;

/// Makes a text of what lies too deep in a value, and tells how many bytes it takes, roughly.
pub(super) fn weigh(value: &mut Value) -> usize {
    weigh_at(value, 0)
}

fn weigh_at(value: &mut Value, depth: usize) -> usize {
    let own = size_of::<Value>();
    match value {
        Value::Array(_) | Value::Object(_) if depth >= DEEPEST => {
            *value = Value::String("no JSON: too deep".to_owned());
            own
        }
        Value::Array(items) => own + items.iter_mut().map(|item| weigh_at(item, depth + 1)).sum::<usize>(),
        Value::Object(map) => {
            own + map
                .iter_mut()
                .map(|(name, item)| own + name.len() + weigh_at(item, depth + 1))
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

/// Seconds, with microseconds.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

fn duration(seconds: &Value) -> Option<Duration> {
    // A clock that was set back makes times that lie before the start.
    let micros = (seconds.as_f64()? * 1e6).round().max(0.0);
    // And what lies beyond all times is the last of them.
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
        // Other readers of this shape look at the first three.
        (end, Some(failure)) => array.extend([json!(end.map(seconds)), json!({ "failed": failure })]),
    }
    Value::Array(array)
}

impl<'de> Deserialize<'de> for FinishedLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(deserializer)?;
        let start = map.get("start").and_then(duration);
        let start = start.ok_or_else(|| D::Error::custom("a log has a number called start"))?;
        let list =
            |name: &str| map.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let messages = list("logs").iter().map(message_of_json).collect::<Option<_>>();
        let timers = list("timers").iter().map(timer_of_json).collect::<Option<_>>();
        Ok(FinishedLog {
            start,
            end: map.get("end").and_then(duration),
            messages: messages
                .ok_or_else(|| D::Error::custom("a message begins with its time and its level"))?,
            timers: timers.ok_or_else(|| D::Error::custom("a timer begins with its name and its start"))?,
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
