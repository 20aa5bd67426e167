//! What user code logged in the middle of a call, as it travels.

use serde::{Deserialize, Serialize};

use super::frame;

/// How severe records are, as numbers: the larger, the less.
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

    /// The number of a level.
    pub(crate) fn number(of: Level) -> u8 {
        NUMBERS.iter().find(|(level, _)| *level == of).map_or(INFO, |(_, number)| *number)
    }

    /// The level of a number, or the next beyond it.
    pub(crate) fn named(number: u8) -> Level {
        NUMBERS.iter().find(|(_, known)| number <= *known).map_or(Level::TRACE, |(level, _)| *level)
    }
}

/// Most records of one call; of those beyond, the number is told.
pub(crate) const MOST_RECORDS: u32 = 10_000;

/// Most fields of one record; those beyond are left out.
pub(crate) const MOST_FIELDS: usize = 32;

/// The target of what a handler says by its context, which comes from no place in the program.
pub(crate) const OWN_TARGET: &str = "forkpool::log";

/// Bytes of all texts of one record; what is longer is cut.
pub(crate) const LONGEST_RECORD: usize = 16 << 10;

/// Bytes of the longest name, of a field, a target or a file.
const LONGEST_NAME: usize = 256;

/// What room a record's texts have left.
#[derive(Debug)]
pub(crate) struct RecordBudget(usize);

impl Default for RecordBudget {
    fn default() -> Self {
        RecordBudget(LONGEST_RECORD)
    }
}

impl RecordBudget {
    /// Cuts a text to the room that is left, and takes that.
    pub(crate) fn fit(&mut self, text: String) -> String {
        let text = frame::cut(text, self.0);
        self.0 -= text.len();
        text
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logged {
    /// The call in the middle of which it was logged.
    pub(crate) call: u64,
    /// When, in nanoseconds of the monotonic clock.
    pub(crate) at: u64,
    pub(crate) record: Record,
}

/// What there is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    Event {
        parent: Option<u64>,
        source: CallsiteInfo,
        values: Values,
    },
    /// A span begins. Its number is not used again by this worker.
    Opened {
        span: u64,
        parent: Option<u64>,
        source: CallsiteInfo,
        values: Values,
    },
    /// An open span has more to tell.
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
    /// So many records were left out.
    LeftOut(u64),
}

impl Record {
    /// The same with no name longer than it may be.
    pub(crate) fn cut(self) -> Self {
        match self {
            Record::Event { parent, source, values } => {
                Record::Event { parent, source: source.cut(), values }
            }
            Record::Opened { span, parent, source, values } => {
                Record::Opened { span, parent, source: source.cut(), values }
            }
            Record::Data { name, value } => Record::Data { name: frame::cut(name, LONGEST_NAME), value },
            other => other,
        }
    }
}

/// Where in the program a record is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct CallsiteInfo {
    /// See [`level`].
    pub(crate) level: u8,
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    /// The names of all its fields, also of those that have no value.
    pub(crate) fields: Vec<String>,
}

impl CallsiteInfo {
    fn cut(mut self) -> Self {
        let short = |name: &mut String| *name = frame::cut(std::mem::take(name), LONGEST_NAME);
        self.fields.truncate(MOST_FIELDS);
        let names = [&mut self.name, &mut self.target].into_iter().chain(self.file.as_mut());
        names.chain(&mut self.fields).for_each(short);
        self
    }
}

/// Values of fields, by their places among the fields of the source.
pub(crate) type Values = Vec<(u8, Value)>;

/// The value of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Value {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    /// The bits of a number with a point.
    Float(u64),
    Text(String),
    /// A text that something was made into to be shown.
    Shown(String),
    /// What a handler said as JSON.
    Json(String),
}
