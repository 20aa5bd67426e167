//! Keeps the last that this worker logged where it outlives the worker, for the report on its end.

use std::fmt::{self, Write};
use std::sync::Mutex;
use std::sync::PoisonError;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::channel::Notes;

/// The least severe level that is kept; what is below it costs a worker nothing.
const LEVEL: LevelFilter = LevelFilter::INFO;

/// A subscriber that keeps records of events and knows no spans.
pub(super) struct Recorder(Mutex<Notes>);

impl Recorder {
    pub(super) fn new(notes: Notes) -> Self {
        Recorder(Mutex::new(notes))
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= LEVEL
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LEVEL)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // Spans are told apart by nobody here.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        let record = format!("{} {}: {}{}", metadata.level(), metadata.target(), line.message, line.fields);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).log(&record);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event's message, and its other fields behind it.
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
