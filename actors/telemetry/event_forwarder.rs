//! Forwards what a worker logs during a call: into the request log that is attached to the checkout, or else as events
//! and spans of the application's `tracing`, below the span in which the call was made.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tracing::dispatcher::{self, Dispatch};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::NoSubscriber;
use tracing::{Event, Span};

use crate::actors::threads;
use crate::clock::Instant;
use crate::request_log::{CallTimer, RequestLog};
use crate::sys::clock;
use crate::wire::log_record::{Logged, MAX_RECORDS, Record, Values, level};

use super::callsite::DynamicCallsite;
use super::request_log_sink::RequestLogSink;
use super::teller;
use crate::user_code::{caught, drop_caught};

thread_local! {
    /// The time of the worker's record that is being forwarded on this thread, on the monotonic clock, in nanoseconds.
    static RECORD_TIME: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Resets [`RECORD_TIME`] when it is dropped, also if a subscriber panics.
struct RecordTimeGuard;

impl RecordTimeGuard {
    fn set(at: u64) -> Self {
        RECORD_TIME.set(Some(at));
        RecordTimeGuard
    }
}

impl Drop for RecordTimeGuard {
    fn drop(&mut self) {
        RECORD_TIME.set(None);
    }
}

/// Returns the time of the record that this thread's subscriber is processing: when the worker made it, if it comes
/// from a worker, or else now.
///
/// Records of workers are forwarded when they arrive, a little after they were made. A subscriber that shows times
/// calls this function instead of reading the clock:
///
/// ```
/// use std::fmt;
/// use tracing_subscriber::fmt::{format::Writer, time::FormatTime};
///
/// struct RecordTime;
///
/// impl FormatTime for RecordTime {
///     fn format_time(&self, to: &mut Writer<'_>) -> fmt::Result {
///         let since_1970 = forkpool::time_of_record().duration_since(std::time::UNIX_EPOCH);
///         write!(to, "{:.6}", since_1970.unwrap_or_default().as_secs_f64())
///     }
/// }
///
/// let subscriber = tracing_subscriber::fmt().with_timer(RecordTime).finish();
/// # drop(subscriber);
/// ```
pub fn time_of_record() -> SystemTime {
    let ago = RECORD_TIME.get().map(|at| clock::monotonic_nanos().saturating_sub(at));
    let now = SystemTime::now();
    now.checked_sub(Duration::from_nanos(ago.unwrap_or(0))).unwrap_or(now)
}

/// The receiver of what a call logs.
#[derive(Clone, Debug)]
pub(crate) enum LogSink {
    /// The subscriber of the thread that made the call, and the span in which it was made.
    Subscriber(Arc<CallerSpan>),
    /// The request log that is attached to the checkout.
    Log(RequestLog),
}

/// The subscriber of a caller, and the span in which it made its call; `None` only while it is dropped.
#[derive(Debug)]
pub(crate) struct CallerSpan(Option<(Dispatch, Span)>);

/// The caller may have closed the span and dropped the subscriber meanwhile.
impl Drop for CallerSpan {
    fn drop(&mut self) {
        drop_caught(self.0.take());
    }
}

impl LogSink {
    /// Returns this thread's subscriber and current span; `None` in a program without a subscriber.
    pub(crate) fn here() -> Option<Self> {
        if LevelFilter::current() == LevelFilter::OFF {
            return None;
        }
        // The level above is one for all threads and may be out of date, so this thread's subscriber is checked too.
        let dispatch =
            dispatcher::get_default(|current| (!current.is::<NoSubscriber>()).then(|| current.clone()))?;
        let span = caught(Span::current)?;
        Some(LogSink::Subscriber(Arc::new(CallerSpan(Some((dispatch, span))))))
    }

    /// Returns the number of the most verbose level that this sink takes; 0 for none.
    pub(crate) fn verbosity(&self) -> u8 {
        match self {
            LogSink::Subscriber(_) => LevelFilter::current().into_level().map_or(0, level::number),
            // At least 1, because 0 would mean that there is no receiver.
            LogSink::Log(log) => log.verbosity().0.max(1),
        }
    }

    /// Starts a timer for a call with this name, if the sink is a request log.
    pub(crate) fn timer(&self, call: &'static str) -> Option<CallTimer> {
        self.log().map(|log| CallTimer::new(log.clone(), call, Instant::now()))
    }

    /// Returns the request log, if the sink is one.
    pub(crate) fn log(&self) -> Option<&RequestLog> {
        match self {
            LogSink::Subscriber(_) => None,
            LogSink::Log(log) => Some(log),
        }
    }
}

/// Forwards the records of one call at a time. It keeps the spans that are open and counts the records received.
#[derive(Default)]
pub(crate) struct EventForwarder {
    /// The open spans of the call, once a subscriber gets its records.
    spans: Option<Arc<Mutex<CallSpans>>>,
    /// The open spans of the call, if a request log gets them.
    request_log: RequestLogSink,
    /// Records of the call so far.
    received: u32,
}

/// A span that the worker has opened and not closed.
struct OpenSpan {
    span: Span,
    callsite: &'static DynamicCallsite,
}

/// The spans of one call that are open, by their numbers, which rise.
#[derive(Default)]
struct CallSpans(BTreeMap<u64, OpenSpan>);

impl Drop for CallSpans {
    fn drop(&mut self) {
        while let Some((_, open)) = self.0.pop_last() {
            drop_caught(open);
        }
    }
}

impl EventForwarder {
    /// Forwards one record; returns `false` if the worker has sent more records than a call may have, which breaks the
    /// protocol.
    pub(crate) fn forward(&mut self, log_sink: Option<&LogSink>, logged: Logged) -> bool {
        self.received += 1;
        // One more than the limit: a worker that leaves records out sends their number in a record of its own.
        if self.received > MAX_RECORDS + 1 {
            return false;
        }
        match log_sink {
            None => {}
            Some(LogSink::Log(log)) => self.request_log.record(log, logged),
            Some(LogSink::Subscriber(caller)) => {
                let (caller, spans) = (caller.clone(), self.spans.get_or_insert_default().clone());
                // Before it may wait in a queue.
                let logged = Logged { record: logged.record.cut(), ..logged };
                let emit = move || spans.lock().emit_to(&caller, logged);
                if threads::is_own() {
                    // Calls of other threads run here, which must not wait for this subscriber.
                    teller::tell(emit);
                } else {
                    // A subscriber that panics loses its record.
                    caught(emit);
                }
            }
        }
        true
    }

    /// Closes all spans at the end of the call. `cut_short` means that there was no reply.
    pub(crate) fn end_call(&mut self, cut_short: bool) {
        if let Some(spans) = self.spans.take() {
            if threads::is_own() {
                teller::tell(move || drop(spans));
            } else {
                drop(spans);
            }
        }
        self.request_log.end_call(cut_short);
        self.received = 0;
    }
}

impl CallSpans {
    fn emit_to(&mut self, caller: &CallerSpan, logged: Logged) {
        let Some((dispatch, caller)) = &caller.0 else { return };
        let _record_time = RecordTimeGuard::set(logged.at);
        dispatcher::with_default(dispatch, || self.emit(caller, logged.record));
    }

    fn emit(&mut self, caller: &Span, record: Record) {
        match record {
            Record::Event { parent, source, values } => {
                let parent = self.find(parent).map_or(caller, |open| &open.span).id();
                let (callsite, values) = DynamicCallsite::for_event(source, values);
                emit_event(callsite, parent, &values);
            }
            Record::Opened { span, parent, source, values } => {
                let (callsite, values) = DynamicCallsite::for_span(source, values);
                if callsite.is_enabled() {
                    let parent = self.find(parent).map_or(caller, |open| &open.span).id();
                    let opened = callsite
                        .with_values(&values, |values| Span::child_of(parent, callsite.metadata(), values));
                    self.0.insert(span, OpenSpan { span: opened, callsite });
                }
            }
            Record::Noted { span, values } => {
                if let Some(OpenSpan { span, callsite, .. }) =
                    self.find(Some(span)).filter(|open| !open.callsite.is_shared())
                {
                    callsite.with_values(&values, |values| {
                        span.record_all(values);
                    });
                }
            }
            // A value for the request log; it reports no event that a subscriber could get.
            Record::Data { .. } => {}
            Record::Closed { span } => drop(self.0.remove(&span)),
            Record::LeftOut(count) => {
                tracing::warn!(target: "forkpool::worker", parent: caller.id(), count,
                    "a worker logged too much in one call: the records beyond the limit were left out");
            }
        }
    }

    fn find(&self, number: Option<u64>) -> Option<&OpenSpan> {
        self.0.get(&number?)
    }
}

fn emit_event(callsite: &'static DynamicCallsite, parent: Option<tracing::Id>, values: &Values) {
    if callsite.is_enabled() {
        callsite.with_values(values, |values| Event::child_of(parent, callsite.metadata(), values));
    }
}
