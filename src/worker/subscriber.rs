//! The worker's `tracing` and `log` subscriber. It writes the latest records to the status page, where they outlive
//! the worker, and sends the records of a call to the caller.

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
use super::log_sender::CallSerial;
use crate::channel::StatusPage;
use crate::sys::original;
use crate::user_code;
use crate::wire::frame;
use crate::wire::log_record::{
    CallsiteInfo, MAX_FIELDS, MAX_RECORD_TEXT, Record, RecordBudget, Value, Values, level,
};

/// The least severe level that is written to the status page.
const KEPT_LEVEL: u8 = level::INFO;

/// The least severe level that was recorded so far. Callsites below it are disabled and cost almost nothing.
static MAX_VERBOSITY: AtomicU8 = AtomicU8::new(KEPT_LEVEL);

/// Whether the `log` crate uses our logger, and not one that the user has installed.
static LOG_BRIDGED: AtomicBool = AtomicBool::new(false);

/// The number of the latest span.
static LAST_SPAN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The spans that this thread is in, innermost last.
    static ENTERED_SPANS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The subscriber of a worker.
pub(super) struct WorkerSubscriber {
    recent_records: RecentRecords,
    spans: Mutex<HashMap<u64, OpenSpan>>,
}

/// Writes the latest records to the status page.
#[derive(Clone)]
pub(super) struct RecentRecords(Arc<Mutex<StatusPage>>);

impl RecentRecords {
    pub(super) fn new(status_page: StatusPage) -> Self {
        RecentRecords(Arc::new(Mutex::new(status_page)))
    }

    fn add(&self, line: &str) {
        // The page is the original's.
        if original::is_copy() {
            return;
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).log(line);
    }
}

/// A span that user code holds.
struct OpenSpan {
    metadata: &'static Metadata<'static>,
    handles: usize,
    /// The call in which the span's start was recorded, if it was.
    begun: Option<CallSerial>,
}

/// Enables callsites up to this level, for the rest of the process.
pub(super) fn raise_max_verbosity(verbosity: u8) {
    if MAX_VERBOSITY.fetch_max(verbosity, Ordering::Relaxed) < verbosity {
        // This asks every subscriber of the process, the user's included.
        user_code::caught(tracing::callsite::rebuild_interest_cache);
        if LOG_BRIDGED.load(Ordering::Relaxed) {
            log::set_max_level(log_level(verbosity));
        }
    }
}

impl WorkerSubscriber {
    pub(super) fn new(recent_records: RecentRecords) -> Self {
        WorkerSubscriber { recent_records, spans: Mutex::default() }
    }

    fn spans(&self) -> MutexGuard<'_, HashMap<u64, OpenSpan>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for WorkerSubscriber {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // Whether a record is of use depends on the running call.
        Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(level::named(MAX_VERBOSITY.load(Ordering::Relaxed))))
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let number = level::number(*metadata.level());
        number <= log_sender::verbosity() || metadata.is_event() && number <= KEPT_LEVEL
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let span = next_span();
        let metadata = attributes.metadata();
        let parent = match attributes.parent() {
            Some(parent) => Some(parent.into_u64()),
            None if attributes.is_contextual() => innermost(),
            None => None,
        };
        let mut values = FieldValues::default();
        attributes.record(&mut values);
        let opened = Record::Opened { span, parent, source: callsite_of(metadata), values: values.list };
        self.spans().insert(span, OpenSpan { metadata, handles: 1, begun: log_sender::open(opened) });
        Id::from_u64(span)
    }

    fn record(&self, span: &Id, later: &LaterValues<'_>) {
        if log_sender::verbosity() == 0 {
            return;
        }
        let mut values = FieldValues::default();
        later.record(&mut values);
        log_sender::record(Record::Noted { span: span.into_u64(), values: values.list });
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let number = level::number(*metadata.level());
        if number <= KEPT_LEVEL {
            let mut line = EventText::default();
            event.record(&mut line);
            let target = metadata.target();
            self.recent_records.add(&format!(
                "{} {target}: {}{}",
                metadata.level(),
                line.message,
                line.fields
            ));
        }
        if number <= log_sender::verbosity() {
            let parent = match event.parent() {
                Some(parent) => Some(parent.into_u64()),
                None if event.is_contextual() => innermost(),
                None => None,
            };
            let mut values = FieldValues::default();
            event.record(&mut values);
            log_sender::record(Record::Event { parent, source: callsite_of(metadata), values: values.list });
        }
    }

    fn enter(&self, span: &Id) {
        ENTERED_SPANS.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        ENTERED_SPANS.with_borrow_mut(|entered| {
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
        let begun = known.begun;
        spans.remove(&number);
        drop(spans);
        if let Some(begun) = begun {
            log_sender::close(number, begun);
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

/// Returns the number of a new span.
pub(super) fn next_span() -> u64 {
    LAST_SPAN.fetch_add(1, Ordering::Relaxed) + 1
}

/// Returns the innermost span that this thread is in.
pub(super) fn innermost() -> Option<u64> {
    ENTERED_SPANS.with_borrow(|entered| entered.last().copied())
}

fn callsite_of(metadata: &Metadata<'_>) -> CallsiteInfo {
    CallsiteInfo {
        level: level::number(*metadata.level()),
        name: metadata.name().to_owned(),
        target: metadata.target().to_owned(),
        file: metadata.file().map(str::to_owned),
        line: metadata.line(),
        fields: metadata.fields().iter().take(MAX_FIELDS).map(|field| field.name().to_owned()).collect(),
    }
}

/// An event's message and its other fields, as text for the status page.
#[derive(Default)]
struct EventText {
    message: String,
    fields: String,
}

impl Visit for EventText {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// The field values of a record, as they are sent.
#[derive(Default)]
struct FieldValues {
    list: Values,
    budget: RecordBudget,
}

impl FieldValues {
    fn add(&mut self, field: &Field, value: Value) {
        if let Ok(position) = u8::try_from(field.index())
            && field.index() < MAX_FIELDS
        {
            self.list.push((position, value));
        }
    }
}

impl Visit for FieldValues {
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
        let text = self.budget.fit(value.to_owned());
        self.add(field, Value::Text(text));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let text = self.budget.fit(value.to_string());
        self.add(field, Value::Shown(text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = self.budget.fit(format!("{value:?}"));
        self.add(field, Value::Shown(text));
    }
}

/// The logger behind the macros of the `log` crate.
struct LogBridge(RecentRecords);

/// Installs the logger for the `log` crate, unless user code has installed one.
pub(super) fn install_log_bridge(recent_records: RecentRecords) {
    // Fails if the user has installed a logger, which then stays.
    if log::set_boxed_logger(Box::new(LogBridge(recent_records))).is_ok() {
        LOG_BRIDGED.store(true, Ordering::Relaxed);
        log::set_max_level(log_level(KEPT_LEVEL));
    }
}

impl log::Log for LogBridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let number = number_of_log(metadata.level());
        number <= log_sender::verbosity() || number <= KEPT_LEVEL
    }

    fn log(&self, record: &log::Record<'_>) {
        // The macros of `log` do not call `enabled` themselves.
        if !self.enabled(record.metadata()) {
            return;
        }
        let number = number_of_log(record.level());
        let message = record.args().to_string();
        if number <= KEPT_LEVEL {
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
            let values = vec![(0, Value::Shown(frame::cut(message, MAX_RECORD_TEXT)))];
            log_sender::record(Record::Event { parent: innermost(), source, values });
        }
    }

    fn flush(&self) {}
}

/// The levels of the `log` crate and their `tracing` counterparts.
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
    found.map_or(KEPT_LEVEL, |(_, level)| level::number(*level))
}
