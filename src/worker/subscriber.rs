//! Keeps what user code logs: the last of it where it outlives the worker, for the report on its end, and what belongs
//! to a call for whoever made that call.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record as LaterValues};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::span::Current;

use super::log_sender;
use super::log_sender::Turn;
use crate::channel::StatusPage;
use crate::wire::frame;
use crate::wire::log_record::{
    CallsiteInfo, LONGEST_RECORD, MOST_FIELDS, Record, RecordBudget, Value, Values, level,
};

/// The least severe level that is kept for a report.
const KEPT: u8 = level::INFO;

/// The least severe level that was of use so far: what is below it costs a worker nothing.
static CEILING: AtomicU8 = AtomicU8::new(KEPT);

/// Whether the `log` crate's macros log to us, and not to a logger of the user's.
static BRIDGED: AtomicBool = AtomicBool::new(false);

/// The number of the last span.
static SPANS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Spans that this thread is in, innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// A subscriber that keeps records.
pub(super) struct WorkerSubscriber {
    kept: LogState,
    spans: Mutex<HashMap<u64, Span>>,
}

/// The last that was logged, for the report on this worker's end.
#[derive(Clone)]
pub(super) struct LogState(Arc<Mutex<StatusPage>>);

impl LogState {
    pub(super) fn new(status_page: StatusPage) -> Self {
        LogState(Arc::new(Mutex::new(status_page)))
    }

    fn add(&self, line: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).log(line);
    }
}

/// A span that somebody has.
struct Span {
    metadata: &'static Metadata<'static>,
    handles: usize,
    /// When its begin was said, if it was.
    told: Option<Turn>,
}

/// From now on records up to this level are of use.
pub(super) fn raise_ceiling(verbosity: u8) {
    if CEILING.fetch_max(verbosity, Ordering::Relaxed) < verbosity {
        tracing::callsite::rebuild_interest_cache();
        if BRIDGED.load(Ordering::Relaxed) {
            log::set_max_level(log_level(verbosity));
        }
    }
}

impl WorkerSubscriber {
    pub(super) fn new(kept: LogState) -> Self {
        WorkerSubscriber { kept, spans: Mutex::default() }
    }

    fn spans(&self) -> MutexGuard<'_, HashMap<u64, Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for WorkerSubscriber {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // It depends on the call.
        Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(level::named(CEILING.load(Ordering::Relaxed))))
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let number = level::number(*metadata.level());
        number <= log_sender::verbosity() || metadata.is_event() && number <= KEPT
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let span = next_span();
        let metadata = attributes.metadata();
        let parent = match attributes.parent() {
            Some(parent) => Some(parent.into_u64()),
            None if attributes.is_contextual() => innermost(),
            None => None,
        };
        let mut values = Gathered::default();
        attributes.record(&mut values);
        let opened = Record::Opened { span, parent, source: source_of(metadata), values: values.list };
        self.spans().insert(span, Span { metadata, handles: 1, told: log_sender::open(opened) });
        Id::from_u64(span)
    }

    fn record(&self, span: &Id, later: &LaterValues<'_>) {
        if log_sender::verbosity() == 0 {
            return;
        }
        let mut values = Gathered::default();
        later.record(&mut values);
        log_sender::record(Record::Noted { span: span.into_u64(), values: values.list });
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let number = level::number(*metadata.level());
        if number <= KEPT {
            let mut line = Line::default();
            event.record(&mut line);
            let target = metadata.target();
            self.kept.add(&format!("{} {target}: {}{}", metadata.level(), line.message, line.fields));
        }
        if number <= log_sender::verbosity() {
            let parent = match event.parent() {
                Some(parent) => Some(parent.into_u64()),
                None if event.is_contextual() => innermost(),
                None => None,
            };
            let mut values = Gathered::default();
            event.record(&mut values);
            log_sender::record(Record::Event { parent, source: source_of(metadata), values: values.list });
        }
    }

    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| {
            if let Some(at) = entered.iter().rposition(|&entered| entered == span.into_u64()) {
                entered.remove(at);
            }
        });
    }

    fn clone_span(&self, span: &Id) -> Id {
        if let Some(known) = self.spans().get_mut(&span.into_u64()) {
            known.handles += 1;
        }
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let number = span.into_u64();
        let mut spans = self.spans();
        let Some(known) = spans.get_mut(&number) else { return false };
        known.handles -= 1;
        if known.handles > 0 {
            return false;
        }
        let told = known.told;
        spans.remove(&number);
        drop(spans);
        if let Some(told) = told {
            log_sender::close(number, told);
        }
        true
    }

    fn current_span(&self) -> Current {
        let Some(number) = innermost() else { return Current::none() };
        match self.spans().get(&number) {
            Some(known) => Current::new(Id::from_u64(number), known.metadata),
            None => Current::none(),
        }
    }
}

/// The number of a new span.
pub(super) fn next_span() -> u64 {
    SPANS.fetch_add(1, Ordering::Relaxed) + 1
}

/// The span that this thread is in.
pub(super) fn innermost() -> Option<u64> {
    ENTERED.with_borrow(|entered| entered.last().copied())
}

fn source_of(metadata: &Metadata<'_>) -> CallsiteInfo {
    CallsiteInfo {
        level: level::number(*metadata.level()),
        name: metadata.name().to_owned(),
        target: metadata.target().to_owned(),
        file: metadata.file().map(str::to_owned),
        line: metadata.line(),
        fields: metadata.fields().iter().take(MOST_FIELDS).map(|field| field.name().to_owned()).collect(),
    }
}

/// An event's message, and its other fields behind it, as a report shows them.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// The values of a record, as they travel.
#[derive(Default)]
struct Gathered {
    list: Values,
    room: RecordBudget,
}

impl Gathered {
    fn add(&mut self, field: &Field, value: Value) {
        if let Ok(place) = u8::try_from(field.index())
            && field.index() < MOST_FIELDS
        {
            self.list.push((place, value));
        }
    }
}

impl Visit for Gathered {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::Float(value.to_bits()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = self.room.fit(value.to_owned());
        self.add(field, Value::Text(text));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let text = self.room.fit(value.to_string());
        self.add(field, Value::Shown(text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = self.room.fit(format!("{value:?}"));
        self.add(field, Value::Shown(text));
    }
}

/// What the `log` crate's macros log to.
struct LogBridge(LogState);

/// Takes in what the `log` crate's macros log, unless user code has named a logger of its own.
pub(super) fn bridge_log(kept: LogState) {
    // That there is one already is the user's choice.
    if log::set_boxed_logger(Box::new(LogBridge(kept))).is_ok() {
        BRIDGED.store(true, Ordering::Relaxed);
        log::set_max_level(log_level(KEPT));
    }
}

impl log::Log for LogBridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let number = number_of_log(metadata.level());
        number <= log_sender::verbosity() || number <= KEPT
    }

    fn log(&self, record: &log::Record<'_>) {
        // The macros themselves do not ask.
        if !self.enabled(record.metadata()) {
            return;
        }
        let number = number_of_log(record.level());
        let message = record.args().to_string();
        if number <= KEPT {
            self.0.add(&format!("{} {}: {message}", record.level(), record.target()));
        }
        if number <= log_sender::verbosity() {
            let source = CallsiteInfo {
                level: number,
                name: "log event".to_owned(),
                target: record.target().to_owned(),
                file: record.file().map(str::to_owned),
                line: record.line(),
                fields: vec!["message".to_owned()],
            };
            let values = vec![(0, Value::Shown(frame::cut(message, LONGEST_RECORD)))];
            log_sender::record(Record::Event { parent: innermost(), source, values });
        }
    }

    fn flush(&self) {}
}

/// The levels of the `log` crate, which are the same.
const LOG_LEVELS: [(log::Level, Level); 5] = [
    (log::Level::Error, Level::ERROR),
    (log::Level::Warn, Level::WARN),
    (log::Level::Info, Level::INFO),
    (log::Level::Debug, Level::DEBUG),
    (log::Level::Trace, Level::TRACE),
];

fn log_level(number: u8) -> log::LevelFilter {
    let level = level::named(number);
    let found = LOG_LEVELS.iter().find(|(_, same)| *same == level);
    found.map_or(log::LevelFilter::Trace, |(level, _)| level.to_level_filter())
}

fn number_of_log(of: log::Level) -> u8 {
    let found = LOG_LEVELS.iter().find(|(level, _)| *level == of);
    found.map_or(KEPT, |(_, level)| level::number(*level))
}
