//! What a worker logged in the middle of a call, in a request's log: events are messages, and spans are timers.

use serde_json::{Map, Value as Json};

use crate::request_log::{LogLevel, RequestLog};
use crate::sys::clock;
use crate::wire::log_record::OWN_TARGET;
use crate::wire::log_record::{CallsiteInfo, Logged, Record, Value, Values};

/// The spans of one call that are open.
#[derive(Default)]
pub(crate) struct RequestLogSink {
    open: Vec<OpenTimer>,
}

struct OpenTimer {
    span: u64,
    log: RequestLog,
    source: CallsiteInfo,
    fields: Map<String, Json>,
    began: u64,
}

impl OpenTimer {
    fn close(self, ended: u64, failure: Option<String>) {
        let mut name = self.source.name;
        if !self.fields.is_empty() {
            name += &format!(" {}", Json::Object(self.fields));
        }
        self.log.add_timer(name, self.began, ended, failure);
    }
}

impl RequestLogSink {
    pub(crate) fn take_in(&mut self, log: &RequestLog, Logged { at, record, .. }: Logged) {
        // What was logged has been logged, whatever the worker says of the time.
        let at = at.min(clock::monotonic_nanos());
        match record.cut() {
            Record::Event { source, values, .. } => {
                let level = LogLevel(source.level);
                // Asked once more: no worker is taken at its word.
                if log.is_enabled(level) {
                    let (text, mut fields) = message(&source, values);
                    if source.target != OWN_TARGET {
                        fields.entry("target").or_insert(Json::String(source.target));
                    }
                    log.add_message(at, level, text, fields);
                }
            }
            Record::Opened { span, source, values, .. } => {
                let fields = named(&source, values);
                self.open.push(OpenTimer { span, log: log.clone(), source, fields, began: at });
            }
            Record::Noted { span, values } => {
                if let Some(open) = self.open.iter_mut().rfind(|open| open.span == span) {
                    open.fields.extend(named(&open.source, values));
                }
            }
            Record::Closed { span } => {
                if let Some(place) = self.open.iter().rposition(|open| open.span == span) {
                    self.open.remove(place).close(at, None);
                }
            }
            Record::Data { name, value } => log.data(name, parsed(value)),
            Record::LeftOut(count) => {
                let text =
                    format!("the worker logged too much in one call, and {count} records were left out");
                log.add_message(at, LogLevel::WARN, text, Map::new());
            }
        }
    }

    /// Ends what is open, `cut` meaning that the call had no reply.
    pub(crate) fn end(&mut self, cut: bool) {
        let now = clock::monotonic_nanos();
        while let Some(open) = self.open.pop() {
            open.close(now, cut.then(|| "its call was cut short".to_owned()));
        }
    }
}

/// An event's text, and its other fields.
pub(crate) fn message(source: &CallsiteInfo, mut values: Values) -> (String, Map<String, Json>) {
    // The first of that name; a handler may have a field that is called so too.
    let place = source.fields.iter().position(|name| name == "message");
    let text = values.iter().position(|(of, _)| Some(usize::from(*of)) == place);
    let text = text.map(|at| json(values.remove(at).1));
    let text = match text {
        Some(Json::String(text)) => text,
        Some(other) => other.to_string(),
        None => source.name.clone(),
    };
    (text, named(source, values))
}

pub(crate) fn named(source: &CallsiteInfo, values: Values) -> Map<String, Json> {
    let field = |(place, value): (u8, Value)| {
        let name = source.fields.get(usize::from(place))?.clone();
        Some((name, json(value)))
    };
    values.into_iter().filter_map(field).collect()
}

/// JSON as the worker wrote it; as a text where it is none.
fn parsed(text: String) -> Json {
    serde_json::from_str(&text).unwrap_or(Json::String(text))
}

fn json(value: Value) -> Json {
    match value {
        Value::Bool(value) => value.into(),
        Value::Signed(value) => value.into(),
        Value::Unsigned(value) => value.into(),
        // What is no number is null.
        Value::Float(bits) => f64::from_bits(bits).into(),
        Value::Text(text) | Value::Shown(text) => text.into(),
        Value::Json(text) => parsed(text),
    }
}
