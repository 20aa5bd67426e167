//! Writes what a worker logs during a call into a request log: events become messages, spans become timers.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use crate::request_log::{LogLevel, RequestLog};
use crate::sys::clock;
use crate::wire::log_record::{CallsiteInfo, LOG_TARGET, Logged, Record, Value, Values, text_length};

/// Most bytes (4 MiB) of the texts of a call's open spans. The fields beyond are left out; those of closed spans are
/// limited by the log.
const MAX_OPEN_TEXT: usize = 4 << 20;

/// Records one call at a time; it keeps the spans of the call that are open.
#[derive(Default)]
pub(crate) struct RequestLogSink {
    /// The open spans by their numbers, which rise.
    open: BTreeMap<u64, OpenTimer>,
    /// Bytes of the texts of all open spans.
    open_text: usize,
}

/// A span that the worker has opened and not closed.
struct OpenTimer {
    log: RequestLog,
    source: CallsiteInfo,
    fields: Map<String, Json>,
    /// Bytes of the texts that these fields were made of.
    text: usize,
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
                let open = OpenTimer { log: log.clone(), source, fields: Map::new(), text: 0, began: at };
                let before = self.open.insert(span, open);
                self.forget(before.as_ref());
                self.add_fields(span, values);
            }
            Record::Noted { span, values } => {
                self.add_fields(span, values);
            }
            Record::Closed { span } => {
                if let Some(open) = self.open.remove(&span) {
                    self.forget(Some(&open));
                    open.close(at, None);
                }
            }
            Record::Data { name, value } => log.data(name, parse_json(value)),
            Record::LeftOut(count) => {
                let text = format!("the worker logged too much in one call: {count} records were left out");
                log.add_message(at, LogLevel::WARN, text, Map::new());
            }
        }
    }

    /// Adds values to an open span, unless the open spans have too much text.
    fn add_fields(&mut self, span: u64, values: Values) {
        let text = text_length(&values);
        if let Some(open) = self.open.get_mut(&span)
            && self.open_text + text <= MAX_OPEN_TEXT
        {
            self.open_text += text;
            open.text += text;
            open.fields.extend(named_fields(&open.source, values));
        }
    }

    /// Takes a span that is not open any more out of the count.
    fn forget(&mut self, open: Option<&OpenTimer>) {
        self.open_text -= open.map_or(0, |open| open.text);
    }

    /// Ends all open timers at the end of the call. `cut_short` means that there was no reply; the timers have failed
    /// then.
    pub(crate) fn end_call(&mut self, cut_short: bool) {
        self.open_text = 0;
        if self.open.is_empty() {
            return;
        }
        let now = clock::monotonic_nanos();
        while let Some((_, open)) = self.open.pop_last() {
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
