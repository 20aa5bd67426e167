//! One log for one request: what the application says of it, what workers say of its calls, and how long each took.
//!
//! Nothing here writes anywhere: a log is handed to whoever it was made for, once, when nobody adds to it any more.

use std::borrow::Cow;
#[cfg(feature = "actors")]
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(feature = "actors")]
use std::time::Instant;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::sys::clock;

mod finished;
pub(crate) mod json;
mod svg;
#[cfg(test)]
mod tests;
mod text;

pub use finished::{FinishedLog, LogMessage, LogTiming};

/// Most messages, most timers and most data of one log; of those beyond, the number is told by a message at its end.
const MOST_ENTRIES: usize = 100_000;

/// Bytes of all messages, timers and data of one log, roughly.
const MOST_BYTES: usize = 64 << 20;

/// How severe a message is: the larger, the less. Any number is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogLevel(
    /// 10 is an error, 50 a trace.
    pub u8,
);

impl LogLevel {
    /// 10.
    pub const ERROR: LogLevel = LogLevel(10);
    /// 20.
    pub const WARN: LogLevel = LogLevel(20);
    /// 30.
    pub const INFO: LogLevel = LogLevel(30);
    /// 40.
    pub const DEBUG: LogLevel = LogLevel(40);
    /// 50.
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

/// A handle of the log of one request: messages, timers and data, in one time line.
///
/// Handles are cloned to wherever something is to be added. When the last one goes, and with it the last timer and the
/// last checkout that the log is attached to, the log is delivered. It takes 100,000 messages, as many timers, and 64 MiB
/// of all; of what is beyond, the number is told by a message.
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
pub struct RequestLog(Arc<Shared>);

type Deliver = Box<dyn FnOnce(FinishedLog) + Send>;

struct Shared {
    /// On the monotonic clock, in nanoseconds.
    began: u64,
    /// The same by the calendar.
    start: Duration,
    verbosity: AtomicU8,
    entries: Mutex<Entries>,
    deliver: Mutex<Option<Deliver>>,
}

/// What was timed so far.
struct Timed {
    name: Cow<'static, str>,
    start: Duration,
    end: Duration,
    failure: Option<String>,
}

/// What was added so far.
#[derive(Default)]
struct Entries {
    messages: Vec<LogMessage>,
    timers: Vec<Timed>,
    data: Map<String, Value>,
    bytes: usize,
    /// What there was no room for.
    left_out: u64,
}

impl RequestLog {
    /// A log that begins now and records what is at least as severe as [`LogLevel::INFO`].
    ///
    /// `deliver` gets it once, on the thread that drops the last handle. It should be quick: hand it on to a channel, or
    /// to an actor. If it panics, the log is lost and the panic goes no further.
    pub fn new(deliver: impl FnOnce(FinishedLog) + Send + 'static) -> Self {
        RequestLog(Arc::new(Shared {
            began: clock::monotonic_nanos(),
            start: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            verbosity: AtomicU8::new(LogLevel::INFO.0),
            entries: Mutex::default(),
            deliver: Mutex::new(Some(Box::new(deliver))),
        }))
    }

    /// The same, which from now on records what is at least as severe as this, here and in workers. It holds for all
    /// handles of this log.
    #[must_use]
    pub fn with_verbosity(self, least_severe: LogLevel) -> Self {
        self.0.verbosity.store(least_severe.0, Ordering::Relaxed);
        self
    }

    /// The least severe level that is recorded.
    pub fn verbosity(&self) -> LogLevel {
        LogLevel(self.0.verbosity.load(Ordering::Relaxed))
    }

    /// Whether a message of this level is recorded.
    pub fn is_enabled(&self, level: LogLevel) -> bool {
        level <= self.verbosity()
    }

    /// Adds a message of level 10.
    pub fn error(&self, text: impl Into<String>) {
        self.lazy(LogLevel::ERROR, || text);
    }

    /// Adds a message of level 20.
    pub fn warn(&self, text: impl Into<String>) {
        self.lazy(LogLevel::WARN, || text);
    }

    /// Adds a message of level 30.
    pub fn info(&self, text: impl Into<String>) {
        self.lazy(LogLevel::INFO, || text);
    }

    /// Adds a message of level 40.
    pub fn debug(&self, text: impl Into<String>) {
        self.lazy(LogLevel::DEBUG, || text);
    }

    /// Adds a message whose text is made only if it is recorded.
    pub fn lazy<T: Into<String>>(&self, level: LogLevel, text: impl FnOnce() -> T) {
        if self.is_enabled(level) {
            self.add_message(clock::monotonic_nanos(), level, text().into(), Map::new());
        }
    }

    /// Adds a message with fields: names and values, in an array of pairs, a map or a struct; anything else becomes one
    /// field, called `fields`.
    ///
    /// Fields that cannot be made into JSON are replaced by the reason.
    pub fn record(&self, level: LogLevel, text: impl Into<String>, fields: impl Serialize) {
        if self.is_enabled(level) {
            let fields = json::fields(fields);
            self.add_message(clock::monotonic_nanos(), level, text.into(), fields);
        }
    }

    /// Begins a timer; it ends when its guard is dropped.
    pub fn timer(&self, name: impl Into<String>) -> LogTimer {
        let began = clock::monotonic_nanos();
        LogTimer { log: self.clone(), name: name.into(), began, failure: Mutex::default() }
    }

    /// Adds a value under a name; one that is there already is replaced.
    ///
    /// A value that cannot be made into JSON is replaced by the reason.
    pub fn data(&self, name: impl Into<String>, value: impl Serialize) {
        // User code, which may log itself, runs before the lock is taken.
        let (name, value) = (name.into(), json::value(value));
        self.entries().add_data(name, value);
    }

    /// Takes in another log: in the order of time, and its data in place of ours of the same name.
    pub fn merge(&self, other: FinishedLog) {
        let shift = |at: Duration| other.start.saturating_add(at).saturating_sub(self.0.start);
        let mut entries = self.entries();
        for message in other.messages {
            entries.add(LogMessage { at: shift(message.at), ..message });
        }
        for timer in other.timers {
            let (start, end) = (shift(timer.start), shift(timer.end.or(other.end).unwrap_or(timer.start)));
            entries.add_timer(Timed { name: timer.name.into(), start, end, failure: timer.failure });
        }
        other.data.into_iter().for_each(|(name, value)| entries.add_data(name, value));
    }

    /// Adds a message of this time on the monotonic clock; one that lies before the log's begin is moved there.
    pub(crate) fn add_message(&self, at: u64, level: LogLevel, text: String, fields: Map<String, Value>) {
        let fields = (!fields.is_empty()).then_some(Value::Object(fields));
        let items = std::iter::once(Value::String(text)).chain(fields).collect();
        let at = self.since_start(at);
        self.entries().add(LogMessage { at, level, items });
    }

    /// Adds a timer of these times on the monotonic clock.
    pub(crate) fn add_timer(&self, name: String, began: u64, ended: u64, failure: Option<String>) {
        let (start, end) = (self.since_start(began), self.since_start(ended.max(began)));
        self.entries().add_timer(Timed { name: name.into(), start, end, failure });
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
        let bytes = message.items.iter_mut().map(json::weigh).sum();
        if self.has_room(self.messages.len(), bytes) {
            self.messages.push(message);
        }
    }

    fn add_timer(&mut self, timer: Timed) {
        let failure = timer.failure.as_ref().map_or(0, String::len);
        if self.has_room(self.timers.len(), timer.name.len() + failure) {
            self.timers.push(timer);
        }
    }

    fn add_data(&mut self, name: String, mut value: Value) {
        let bytes = name.len() + json::weigh(&mut value);
        // What is replaced makes room.
        let known = self.data.get_mut(&name).map(|known| name.len() + json::weigh(known));
        let count = self.data.len() - usize::from(known.is_some());
        self.bytes -= known.unwrap_or(0);
        if self.has_room(count, bytes) {
            self.data.insert(name, value);
        } else {
            self.bytes += known.unwrap_or(0);
        }
    }

    /// Takes room for one more of so many; `false` and a note where there is none.
    fn has_room(&mut self, count: usize, bytes: usize) -> bool {
        let has_room = count < MOST_ENTRIES && self.bytes.saturating_add(bytes) <= MOST_BYTES;
        if has_room {
            self.bytes += bytes;
        } else {
            self.left_out += 1;
        }
        has_room
    }

    fn finish(mut self, start: Duration, end: Duration) -> FinishedLog {
        if self.left_out > 0 {
            let text = format!("{} messages, timers and data were left out", self.left_out);
            let items = vec![Value::String(text)];
            self.messages.push(LogMessage { at: end, level: LogLevel::WARN, items });
        }
        // Stable: what came in at the same time stays in its order.
        self.messages.sort_by_key(|message| message.at);
        self.timers.sort_by_key(|timer| timer.start);
        let timing = |Timed { name, start, end, failure }| LogTiming {
            name: Cow::into_owned(name),
            start,
            end: Some(end),
            failure,
        };
        let timers = self.timers.into_iter().map(timing).collect();
        FinishedLog { start, end: Some(end), messages: self.messages, timers, data: self.data }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let entries = std::mem::take(self.entries.get_mut().unwrap_or_else(PoisonError::into_inner));
        let end = Duration::from_nanos(clock::monotonic_nanos().saturating_sub(self.began));
        let log = entries.finish(self.start, end);
        let deliver = self.deliver.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(deliver) = deliver {
            // A panic in the middle of dropping would abort; the panic hook has told of it.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| deliver(log)));
        }
    }
}

/// The timer of one call, by clocks that were read already.
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

    /// It is over; without this, when it is dropped.
    pub(crate) fn ends(&self, now: Instant) {
        self.ended.set(Some(now));
    }

    pub(crate) fn fail(&self, why: &impl fmt::Display) {
        *self.failure.borrow_mut() = Some(why.to_string());
    }
}

#[cfg(feature = "actors")]
impl Drop for CallTimer {
    fn drop(&mut self) {
        let since = |at: Instant| self.log.since_start(clock::nanos_of(at));
        let (start, end) = (since(self.began), self.ended.get().unwrap_or_else(Instant::now));
        let timing = Timed {
            name: Cow::Borrowed(self.call),
            start,
            end: since(end).max(start),
            failure: self.failure.get_mut().take(),
        };
        self.log.entries().add_timer(timing);
    }
}

/// A timer of a [`RequestLog`], from when it was made until it is dropped. It keeps the log from being delivered.
pub struct LogTimer {
    log: RequestLog,
    name: String,
    began: u64,
    failure: Mutex<Option<String>>,
}

impl LogTimer {
    /// Says that what is timed has failed, and why.
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
