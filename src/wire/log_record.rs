//! Log records of user code, as they are sent in the middle of a call.

use serde::{Deserialize, Serialize};

use super::frame;

/// The numbers of log levels; a larger number is less severe.
pub(crate) mod level {
    use tracing::Level;

    use crate::request_log::LogLevel;

    pub(crate) const INFO: u8 = LogLevel::INFO.0;

    const NUMBERS: [(Level, u8); 5] = [
        (Level::ERROR, LogLevel::ERROR.0),
        (Level::WARN, LogLevel::WARN.0),
        (Level::INFO, INFO),
        (Level::DEBUG, LogLevel::DEBUG.0),
        (Level::TRACE, LogLevel::TRACE.0),
    ];

    /// Returns the number of a level.
    pub(crate) fn number(of: Level) -> u8 {
        NUMBERS.iter().find(|(level, _)| *level == of).map_or(INFO, |(_, number)| *number)
    }

    /// Returns the level with this number, or else the next less severe one.
    pub(crate) fn named(number: u8) -> Level {
        NUMBERS.iter().find(|(_, known)| number <= *known).map_or(Level::TRACE, |(level, _)| *level)
    }
}

/// Most records that one call sends; the number of those beyond is sent at its end.
pub(crate) const MAX_RECORDS: u32 = 10_000;

/// Most fields of one record; those beyond are left out.
pub(crate) const MAX_FIELDS: usize = 32;

/// The target of records that a handler makes with `ctx.log()`, which have no callsite.
pub(crate) const LOG_TARGET: &str = "forkpool::log";

/// Most bytes that all texts of one record have together; the rest is cut.
pub(crate) const MAX_RECORD_TEXT: usize = 16 << 10;

/// Longest name of a record, field, target or file, in bytes.
const MAX_NAME: usize = 256;

/// How many more bytes of text a record may have.
#[derive(Debug)]
pub(crate) struct RecordBudget(usize);

impl Default for RecordBudget {
    fn default() -> Self {
        RecordBudget(MAX_RECORD_TEXT)
    }
}

impl RecordBudget {
    /// Cuts a text to the budget that is left, and takes its length from the budget.
    pub(crate) fn fit(&mut self, text: String) -> String {
        let text = frame::cut(text, self.0);
        self.0 -= text.len();
        text
    }
}

/// One log record of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logged {
    /// The id of the running call.
    pub(crate) call: u64,
    /// The time in nanoseconds of the monotonic clock.
    pub(crate) at: u64,
    pub(crate) record: Record,
}

/// The content of a log record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    Event {
        parent: Option<u64>,
        source: CallsiteInfo,
        values: Values,
    },
    /// A span begins. A worker uses each span number once.
    Opened {
        span: u64,
        parent: Option<u64>,
        source: CallsiteInfo,
        values: Values,
    },
    /// More values of an open span.
    Noted {
        span: u64,
        values: Values,
    },
    Closed {
        span: u64,
    },
    /// A value for the data of a request's log, in JSON.
    Data {
        name: String,
        value: String,
    },
    /// The number of records that were not recorded.
    LeftOut(u64),
}

impl Record {
    /// Cuts all names, texts and lists to their limits. The worker does so before it sends a record, and the host
    /// once more, because it does not rely on that.
    pub(crate) fn cut(self) -> Self {
        match self {
            Record::Event { parent, source, values } => {
                Record::Event { parent, source: source.cut(), values: cut_values(values) }
            }
            Record::Opened { span, parent, source, values } => {
                Record::Opened { span, parent, source: source.cut(), values: cut_values(values) }
            }
            Record::Noted { span, values } => Record::Noted { span, values: cut_values(values) },
            Record::Data { name, value } => {
                Record::Data { name: frame::cut(name, MAX_NAME), value: RecordBudget::default().fit(value) }
            }
            Record::Closed { .. } | Record::LeftOut(_) => self,
        }
    }
}

/// The place in the program that makes a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct CallsiteInfo {
    /// See [`level`].
    pub(crate) level: u8,
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    /// The names of all its fields, including those without a value.
    pub(crate) fields: Vec<String>,
}

impl CallsiteInfo {
    fn cut(mut self) -> Self {
        let short = |name: &mut String| *name = frame::cut(std::mem::take(name), MAX_NAME);
        self.fields.truncate(MAX_FIELDS);
        let names = [&mut self.name, &mut self.target].into_iter().chain(self.file.as_mut());
        names.chain(&mut self.fields).for_each(short);
        self
    }
}

/// Values of fields, by their positions among the fields of the callsite.
pub(crate) type Values = Vec<(u8, Value)>;

/// Cuts the texts of a record to the budget that they have together.
fn cut_values(mut values: Values) -> Values {
    values.truncate(MAX_FIELDS);
    let mut budget = RecordBudget::default();
    for (_, value) in &mut values {
        if let Value::Text(text) | Value::Shown(text) | Value::Json(text) = value {
            *text = budget.fit(std::mem::take(text));
        }
    }
    values
}

/// Returns the length of all texts of these values, in bytes.
#[cfg(feature = "actors")]
pub(crate) fn text_length(values: &Values) -> usize {
    let text = |value: &Value| match value {
        Value::Text(text) | Value::Shown(text) | Value::Json(text) => text.len(),
        Value::Bool(_) | Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) => 0,
    };
    values.iter().map(|(_, value)| text(value)).sum()
}

/// The value of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Value {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    /// The bits of an `f64`.
    Float(u64),
    Text(String),
    /// The formatted text of another type.
    Shown(String),
    /// A JSON value of `ctx.log()`.
    Json(String),
}
