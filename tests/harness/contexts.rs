//! Contexts that keep what their handlers are told, and what is logged where none is.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use forkpool::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::until;

/// What one handler was told.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<ContextFailure>>>);

impl Heard {
    /// A handler that ends every failure.
    pub fn ends(&self) -> impl Fn(ContextFailure) + Send + Sync + 'static {
        let heard = self.clone();
        move |failure| heard.note(failure)
    }

    /// A handler that hands every failure on as one of this text.
    pub fn hands_on(
        &self,
        text: &'static str,
    ) -> impl Fn(ContextFailure) -> Result<(), Failure> + Send + Sync + 'static {
        let heard = self.clone();
        move |failure| {
            heard.note(failure);
            Err(Failure::task(text))
        }
    }

    pub fn note(&self, failure: ContextFailure) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
    }

    /// What was heard so far.
    pub fn all(&self) -> Vec<ContextFailure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn kinds(&self) -> Vec<FailureKind> {
        self.all().iter().map(ContextFailure::kind).collect()
    }

    pub fn texts(&self) -> Vec<String> {
        self.all().iter().map(|heard| heard.failure().to_string()).collect()
    }

    /// Waits until something was heard, and returns the first.
    pub async fn first(&self) -> ContextFailure {
        until("a handler is told", || !self.all().is_empty()).await;
        self.all().swap_remove(0)
    }
}

/// A context that ends every failure, and what it hears.
#[track_caller]
pub fn listening(name: &str) -> (ErrorContext, Heard) {
    let heard = Heard::default();
    (ErrorContext::named(name).on_failure(heard.ends()), heard)
}

/// Keeps the errors that are logged from now on, by all threads; a line for each.
pub struct Log;

impl Log {
    pub fn start() -> Self {
        static INSTALLED: OnceLock<()> = OnceLock::new();
        INSTALLED.get_or_init(|| {
            tracing::subscriber::set_global_default(Recorder).expect("the only subscriber");
        });
        Log::lines().clear();
        Log
    }

    fn lines() -> std::sync::MutexGuard<'static, Vec<String>> {
        static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
        LINES.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The errors so far. They are logged soon after they happened and in their order, so this waits for one of its own.
    pub async fn all(&self) -> Vec<String> {
        let sentinel = "the last error so far";
        let pool = super::pool_of_one();
        let outside = ErrorContext::named("outside").detached();
        outside.run(|| pool.do_send(super::Fail(sentinel.to_owned())));
        let is_there = || Log::lines().iter().any(|line| line.contains(sentinel));
        super::until("the error is logged", is_there).await;
        Log::lines().retain(|line| !line.contains(sentinel));
        pool.stop(std::time::Duration::ZERO).await;
        Log::lines().clone()
    }
}

struct Recorder;

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "forkpool" && *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        Log::lines().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}
