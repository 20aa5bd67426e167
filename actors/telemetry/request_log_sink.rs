//! Writes what a worker logs during a call into a request log: events become messages, spans become timers.

use serde_json::{Map, Value as Json};

use crate::request_log::{LogLevel, RequestLog};
use crate::sys::clock;
use crate::wire::log_record::LOG_TARGET;
use crate::wire::log_record::{CallsiteInfo, Logged, Record, Value, Values};

/// Records one call at a time; it keeps the spans of the call that are open.
#[derive(Default)]
pub(crate) struct RequestLogSink {
    open: Vec<OpenTimer>,
}

/// A span that the worker has opened and not closed.
struct OpenTimer {
    span: u64,
    log: RequestLog,
    source: CallsiteInfo,
    fields: Map<String, Json>,
    began: u64,
}

impl OpenTimer {
    /// Adds the timer to the log, named after the span and its fields.
    fn close(self, ended: u64, failure: Option<String>) {
        let mut name = self.source.name;
        if !self.fields.is_empty() {
            name += &format!(" {}", Json::Object(self.fields));
        }
        self.log.add_timer(name, self.began, ended, failure);
    }
}

impl RequestLogSink {
    /// Adds one record of a worker to the log.
    pub(crate) fn record(&mut self, log: &RequestLog, Logged { at, record, .. }: Logged) {
        // A worker may send any time; a record cannot have been made later than now.
        let at = at.min(clock::monotonic_nanos());
        match record.cut() {
            Record::Event { source, values, .. } => {
                let level = LogLevel(source.level);
                // The worker filters by level too, but the host does not rely on it.
                if log.is_enabled(level) {
                    let (text, mut fields) = split_message(&source, values);
                    if source.target != LOG_TARGET {
                        fields.entry("target").or_insert(Json::String(source.target));
                    }
                    log.add_message(at, level, text, fields);
                }
            }
            Record::Opened { span, source, values, .. } => {
                let fields = named_fields(&source, values);
                self.open.push(OpenTimer { span, log: log.clone(), source, fields, began: at });
            }
            Record::Noted { span, values } => {
                if let Some(open) = self.open.iter_mut().rfind(|open| open.span == span) {
                    open.fields.extend(named_fields(&open.source, values));
                }
            }
            Record::Closed { span } => {
                if let Some(index) = self.open.iter().rposition(|open| open.span == span) {
                    self.open.remove(index).close(at, None);
                }
            }
            Record::Data { name, value } => log.data(name, parse_json(value)),
            Record::LeftOut(count) => {
                let text = format!("the worker logged too much in one call: {count} records were left out");
                log.add_message(at, LogLevel::WARN, text, Map::new());
            }
        }
    }

    /// Ends all open timers at the end of the call. `cut_short` means that there was no reply; the timers have failed
    /// then.
    pub(crate) fn end_call(&mut self, cut_short: bool) {
        let now = clock::monotonic_nanos();
        while let Some(open) = self.open.pop() {
            open.close(now, cut_short.then(|| "its call was cut short".to_owned()));
        }
    }
}

/// Splits an event into its text and its other fields. The text of an event without a message is its name.
pub(crate) fn split_message(source: &CallsiteInfo, mut values: Values) -> (String, Map<String, Json>) {
    // The first field of that name, which is the message; a handler may name a field of its own so.
    let message = source.fields.iter().position(|name| name == "message");
    let found = values.iter().position(|(index, _)| Some(usize::from(*index)) == message);
    let text = found.map(|at| to_json(values.remove(at).1));
    let text = match text {
        Some(Json::String(text)) => text,
        Some(other) => other.to_string(),
        None => source.name.clone(),
    };
    (text, named_fields(source, values))
}

/// Returns values by the names of their fields. Values without a field are left out.
pub(crate) fn named_fields(source: &CallsiteInfo, values: Values) -> Map<String, Json> {
    let field = |(index, value): (u8, Value)| {
        let name = source.fields.get(usize::from(index))?.clone();
        Some((name, to_json(value)))
    };
    values.into_iter().filter_map(field).collect()
}

/// Parses JSON that a worker sent; text that is not JSON becomes a string.
fn parse_json(text: String) -> Json {
    serde_json::from_str(&text).unwrap_or(Json::String(text))
}

fn to_json(value: Value) -> Json {
    match value {
        Value::Bool(value) => value.into(),
        Value::Signed(value) => value.into(),
        Value::Unsigned(value) => value.into(),
        // Infinities and NaN become null, because JSON has no numbers for them.
        Value::Float(bits) => f64::from_bits(bits).into(),
        Value::Text(text) | Value::Shown(text) => text.into(),
        Value::Json(text) => parse_json(text),
    }
}
