//! The log of one request: messages of the application and of the workers that ran its calls, and how long each call
//! took.
//!
//! This module writes nowhere. A log is passed to the closure it was created with, once, when its last handle is
//! dropped.

use std::borrow::Cow;
#[cfg(feature = "actors")]
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value};

#[cfg(feature = "actors")]
use crate::clock::Instant;
use crate::sys::clock;
use crate::user_code;

mod finished;
pub(crate) mod json;
mod svg;
#[cfg(test)]
mod tests;
mod text;

pub use finished::{FinishedLog, LogMessage, LogTiming};

/// The largest number of messages of one log, and of timers, and of values. Those beyond are dropped; a message at the
/// end of the log has their number.
const MAX_ENTRIES: usize = 100_000;

/// The largest size of the messages, timers and values of one log together, in bytes (64 MiB), approximately.
const MAX_BYTES: usize = 64 << 20;

/// The severity of a message: a larger number is less severe.
///
/// The five named levels are ten apart; any number between them, below or above is a level too. `Display` prints the
/// name of a named level in capitals, and any other as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogLevel(
    /// The number: 10 for an error, 50 for a trace.
    pub u8,
);

impl LogLevel {
    /// An error: 10.
    pub const ERROR: LogLevel = LogLevel(10);
    /// A warning: 20.
    pub const WARN: LogLevel = LogLevel(20);
    /// Information: 30. The default verbosity of a [`RequestLog`].
    pub const INFO: LogLevel = LogLevel(30);
    /// For debugging: 40.
    pub const DEBUG: LogLevel = LogLevel(40);
    /// A trace: 50.
    pub const TRACE: LogLevel = LogLevel(50);
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match *self {
            LogLevel::ERROR => "ERROR",
            LogLevel::WARN => "WARN",
            LogLevel::INFO => "INFO",
            LogLevel::DEBUG => "DEBUG",
            LogLevel::TRACE => "TRACE",
            LogLevel(number) => return f.pad(&number.to_string()),
        })
    }
}

/// A handle of the log of one request: messages, timers and values on one time line.
///
/// Clones are handles of the same log. The log is delivered, once, when its last handle is dropped; a running
/// [`LogTimer`] and a checkout that the log is attached to hold a handle too.
///
/// A log attached to a checkout (`CheckoutBuilder::log`) gets a timer for each call, and what the workers log during
/// these calls.
///
/// A log takes at most 100,000 messages, 100,000 timers, 100,000 values, and 64 MiB of all together. What is beyond is
/// dropped, and a warning at the end of the log has its number.
///
/// ```
/// # use forkpool::{LogLevel, RequestLog};
/// # let (sender, delivered) = std::sync::mpsc::channel();
/// let log = RequestLog::new(move |log| sender.send(log.to_json()).unwrap());
/// log.info("signing up");
/// log.record(LogLevel::WARN, "a slow query", [("rows", 7)]);
/// let timer = log.timer("render");
/// log.data("user", 17);
/// drop(timer);
/// drop(log);
/// assert!(delivered.recv().unwrap().contains("a slow query"));
/// ```
#[derive(Clone)]
pub struct RequestLog(Arc<LogState>);

type Deliver = Box<dyn FnOnce(FinishedLog) + Send>;

/// What all handles of a log share.
struct LogState {
    /// The start of the log on the monotonic clock, in nanoseconds.
    began: u64,
    /// The same time on the wall clock, since the beginning of 1970.
    start: Duration,
    /// The number of the least severe level that is recorded.
    verbosity: AtomicU8,
    entries: Mutex<Entries>,
    /// Taken when the log is delivered.
    deliver: Mutex<Option<Deliver>>,
}

/// A timer that has ended; its times are since the log's start.
struct FinishedTimer {
    name: Cow<'static, str>,
    start: Duration,
    end: Duration,
    failure: Option<String>,
}

/// What was added so far.
#[derive(Default)]
struct Entries {
    messages: Vec<LogMessage>,
    timers: Vec<FinishedTimer>,
    data: Map<String, Value>,
    /// The approximate size of all of these, in bytes.
    bytes: usize,
    /// The number of messages, timers and values that were dropped because of a limit.
    left_out: u64,
}

impl RequestLog {
    /// Creates a log that begins now and records messages at least as severe as [`LogLevel::INFO`].
    ///
    /// `deliver` is called once with the complete log, on the thread that drops the last handle. It should be quick:
    /// pass the log on to a channel or an actor. A panic in it is caught; the log is lost then.
    pub fn new(deliver: impl FnOnce(FinishedLog) + Send + 'static) -> Self {
        RequestLog(Arc::new(LogState {
            began: clock::monotonic_nanos(),
            start: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            verbosity: AtomicU8::new(LogLevel::INFO.0),
            entries: Mutex::default(),
            deliver: Mutex::new(Some(Box::new(deliver))),
        }))
    }

    /// Sets the least severe level that is recorded from now on, in this process and in the workers that run calls for
    /// this log. Default: [`LogLevel::INFO`].
    ///
    /// It applies to all handles of the log. A worker uses the level that was set when the call was sent to it.
    #[must_use]
    pub fn with_verbosity(self, least_severe: LogLevel) -> Self {
        self.0.verbosity.store(least_severe.0, Ordering::Relaxed);
        self
    }

    /// Returns the least severe level that is recorded.
    pub fn verbosity(&self) -> LogLevel {
        LogLevel(self.0.verbosity.load(Ordering::Relaxed))
    }

    /// Returns whether messages of this level are recorded.
    pub fn is_enabled(&self, level: LogLevel) -> bool {
        level <= self.verbosity()
    }

    /// Adds a message of level [`LogLevel::ERROR`], if that is recorded.
    pub fn error(&self, text: impl Into<String>) {
        self.lazy(LogLevel::ERROR, || text);
    }

    /// Adds a message of level [`LogLevel::WARN`], if that is recorded.
    pub fn warn(&self, text: impl Into<String>) {
        self.lazy(LogLevel::WARN, || text);
    }

    /// Adds a message of level [`LogLevel::INFO`], if that is recorded.
    pub fn info(&self, text: impl Into<String>) {
        self.lazy(LogLevel::INFO, || text);
    }

    /// Adds a message of level [`LogLevel::DEBUG`], if that is recorded.
    pub fn debug(&self, text: impl Into<String>) {
        self.lazy(LogLevel::DEBUG, || text);
    }

    /// Adds a message of this level, if the level is recorded; `text` is called only then.
    pub fn lazy<T: Into<String>>(&self, level: LogLevel, text: impl FnOnce() -> T) {
        if self.is_enabled(level) {
            self.add_message(clock::monotonic_nanos(), level, text().into(), Map::new());
        }
    }

    /// Adds a message with fields, if the level is recorded.
    ///
    /// `fields` is a list of pairs of a name and a value, a map or a struct. Any other value becomes one field, called
    /// `fields`. Fields that cannot be converted to JSON are replaced by a text with the reason. Values that are nested
    /// more than 100 levels deep are cut there.
    pub fn record(&self, level: LogLevel, text: impl Into<String>, fields: impl Serialize) {
        if self.is_enabled(level) {
            let fields = json::fields(fields);
            self.add_message(clock::monotonic_nanos(), level, text.into(), fields);
        }
    }

    /// Starts a timer with this name; it ends when the returned guard is dropped.
    pub fn timer(&self, name: impl Into<String>) -> LogTimer {
        let began = clock::monotonic_nanos();
        LogTimer { log: self.clone(), name: name.into(), began, failure: Mutex::default() }
    }

    /// Sets a named value of the log, in place of an earlier value of the same name.
    ///
    /// A value that cannot be converted to JSON is replaced by a text with the reason. One that is nested more than 100
    /// levels deep is cut there.
    pub fn data(&self, name: impl Into<String>, value: impl Serialize) {
        // Before the lock is taken, because serializing runs user code, which may log itself.
        let (name, value) = (name.into(), json::value(value));
        self.entries().add_data(name, value);
    }

    /// Adds the messages, timers and values of another log.
    ///
    /// Messages and timers are sorted by time together with those of this log; times before the start of this log
    /// become its start. Values replace values of the same name. A timer without an end ends with the other log, or at
    /// its own start if that log has no end. Messages are added whatever their level.
    pub fn merge(&self, other: FinishedLog) {
        let shift = |at: Duration| other.start.saturating_add(at).saturating_sub(self.0.start);
        let mut entries = self.entries();
        for message in other.messages {
            entries.add(LogMessage { at: shift(message.at), ..message });
        }
        for timer in other.timers {
            let (start, end) = (shift(timer.start), shift(timer.end.or(other.end).unwrap_or(timer.start)));
            entries.add_timer(FinishedTimer { name: timer.name.into(), start, end, failure: timer.failure });
        }
        other.data.into_iter().for_each(|(name, value)| entries.add_data(name, value));
    }

    /// Adds a message with a time on the monotonic clock, in nanoseconds; a time before the log's start becomes its
    /// start.
    pub(crate) fn add_message(&self, at: u64, level: LogLevel, text: String, fields: Map<String, Value>) {
        let fields = (!fields.is_empty()).then_some(Value::Object(fields));
        let items = std::iter::once(Value::String(text)).chain(fields).collect();
        let at = self.since_start(at);
        self.entries().add(LogMessage { at, level, items });
    }

    /// Adds a timer with times on the monotonic clock, in nanoseconds.
    pub(crate) fn add_timer(&self, name: String, began: u64, ended: u64, failure: Option<String>) {
        let (start, end) = (self.since_start(began), self.since_start(ended.max(began)));
        self.entries().add_timer(FinishedTimer { name: name.into(), start, end, failure });
    }

    fn since_start(&self, at: u64) -> Duration {
        Duration::from_nanos(at.saturating_sub(self.0.began))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RequestLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestLog").field("verbosity", &self.verbosity()).finish_non_exhaustive()
    }
}

impl Entries {
    fn add(&mut self, mut message: LogMessage) {
        let bytes = message.items.iter_mut().map(json::limit_and_measure).sum();
        if self.reserve(self.messages.len(), bytes) {
            self.messages.push(message);
        }
    }

    fn add_timer(&mut self, timer: FinishedTimer) {
        let failure = timer.failure.as_ref().map_or(0, String::len);
        if self.reserve(self.timers.len(), timer.name.len() + failure) {
            self.timers.push(timer);
        }
    }

    fn add_data(&mut self, name: String, mut value: Value) {
        let bytes = name.len() + json::limit_and_measure(&mut value);
        // The value that is replaced, if there is one, is not counted any more.
        let known = self.data.get_mut(&name).map(|known| name.len() + json::limit_and_measure(known));
        let count = self.data.len() - usize::from(known.is_some());
        self.bytes -= known.unwrap_or(0);
        if self.reserve(count, bytes) {
            self.data.insert(name, value);
        } else {
            self.bytes += known.unwrap_or(0);
        }
    }

    /// Counts one more entry of this size, beside `count` of the same sort. Returns `false` if that would exceed a
    /// limit; then the entry is counted as left out.
    fn reserve(&mut self, count: usize, bytes: usize) -> bool {
        let fits = count < MAX_ENTRIES && self.bytes.saturating_add(bytes) <= MAX_BYTES;
        if fits {
            self.bytes += bytes;
        } else {
            self.left_out += 1;
        }
        fits
    }

    fn finish(mut self, start: Duration, end: Duration) -> FinishedLog {
        if self.left_out > 0 {
            let text = format!("{} messages, timers and data were left out", self.left_out);
            let items = vec![Value::String(text)];
            self.messages.push(LogMessage { at: end, level: LogLevel::WARN, items });
        }
        // The sort is stable: entries of the same time keep the order in which they were added.
        self.messages.sort_by_key(|message| message.at);
        self.timers.sort_by_key(|timer| timer.start);
        let timing = |FinishedTimer { name, start, end, failure }| LogTiming {
            name: Cow::into_owned(name),
            start,
            end: Some(end),
            failure,
        };
        let timers = self.timers.into_iter().map(timing).collect();
        FinishedLog { start, end: Some(end), messages: self.messages, timers, data: self.data }
    }
}

impl Drop for LogState {
    fn drop(&mut self) {
        let entries = std::mem::take(self.entries.get_mut().unwrap_or_else(PoisonError::into_inner));
        let end = Duration::from_nanos(clock::monotonic_nanos().saturating_sub(self.began));
        let log = entries.finish(self.start, end);
        let deliver = self.deliver.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(deliver) = deliver {
            // A panic that leaves a drop during another panic aborts the process.
            user_code::caught(|| deliver(log));
        }
    }
}

/// The timer of one call. Its times are passed in, because the session has read the clock already.
#[cfg(feature = "actors")]
pub(crate) struct CallTimer {
    log: RequestLog,
    call: &'static str,
    began: Instant,
    ended: Cell<Option<Instant>>,
    failure: RefCell<Option<String>>,
}

#[cfg(feature = "actors")]
impl CallTimer {
    pub(crate) fn new(log: RequestLog, call: &'static str, began: Instant) -> Self {
        CallTimer { log, call, began, ended: Cell::new(None), failure: RefCell::new(None) }
    }

    /// Sets the end of the call; without it the timer ends when it is dropped.
    pub(crate) fn mark_ended(&self, now: Instant) {
        self.ended.set(Some(now));
    }

    /// Marks the call as failed, with the failure's text.
    pub(crate) fn fail(&self, why: &impl fmt::Display) {
        *self.failure.borrow_mut() = Some(why.to_string());
    }
}

#[cfg(feature = "actors")]
impl Drop for CallTimer {
    fn drop(&mut self) {
        let since = |at: Instant| self.log.since_start(at.nanos());
        let (start, end) = (since(self.began), self.ended.get().unwrap_or_else(Instant::now));
        let timing = FinishedTimer {
            name: Cow::Borrowed(self.call),
            start,
            end: since(end).max(start),
            failure: self.failure.get_mut().take(),
        };
        self.log.entries().add_timer(timing);
    }
}

/// A running timer of a [`RequestLog`]; it ends when it is dropped.
///
/// The log is not delivered while the timer exists.
#[must_use = "a timer ends when it is dropped"]
pub struct LogTimer {
    log: RequestLog,
    name: String,
    began: u64,
    failure: Mutex<Option<String>>,
}

impl LogTimer {
    /// Marks what is timed as failed, with the reason as text. The timer goes on until it is dropped; a later call
    /// replaces the reason.
    pub fn fail(&self, why: impl fmt::Display) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_string());
    }
}

impl Drop for LogTimer {
    fn drop(&mut self) {
        let failure = self.failure.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.log.add_timer(std::mem::take(&mut self.name), self.began, clock::monotonic_nanos(), failure);
    }
}

impl fmt::Debug for LogTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogTimer").field("name", &self.name).finish_non_exhaustive()
    }
}
