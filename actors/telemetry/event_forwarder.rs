//! What a worker logged in the middle of a call, where whoever made the call reads it: in the log that its checkout is
//! attached to, or once more in the application's own `tracing`, under the span in which the call was made.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::dispatcher::{self, Dispatch};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::NoSubscriber;
use tracing::{Event, Span};

use crate::request_log::{CallTimer, RequestLog};
use crate::sys::clock;
use crate::wire::log_record::{Logged, MOST_RECORDS, Record, Values, level};

use super::callsite::DynamicCallsite;
use super::request_log_sink::RequestLogSink;

thread_local! {
    /// When what is being replayed happened, on the monotonic clock.
    static REPLAYED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Until it is dropped, also by a subscriber that panics.
struct Replaying;

impl Replaying {
    fn since(at: u64) -> Self {
        REPLAYED.set(Some(at));
        Replaying
    }
}

impl Drop for Replaying {
    fn drop(&mut self) {
        REPLAYED.set(None);
    }
}

/// When the record that is being handed to this thread's subscriber was made: in a worker, if it came from one, or now.
///
/// Records of workers are handed on as they arrive, a little after they were made. A subscriber that shows the time
/// asks this function in place of the clock:
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
    let ago = REPLAYED.get().map(|at| clock::monotonic_nanos().saturating_sub(at));
    let now = SystemTime::now();
    now.checked_sub(Duration::from_nanos(ago.unwrap_or(0))).unwrap_or(now)
}

/// Where what a call logs is to be heard.
#[derive(Clone, Debug)]
pub(crate) enum LogSink {
    /// The subscriber of whoever made the call, and the span in which it was made.
    Subscriber(Arc<(Dispatch, Span)>),
    /// The log that its checkout is attached to.
    Log(RequestLog),
}

impl LogSink {
    /// Whoever listens here; nobody does in a program without a subscriber.
    pub(crate) fn here() -> Option<Self> {
        if LevelFilter::current() == LevelFilter::OFF {
            return None;
        }
        // The level above is that of all threads, also after a subscriber has gone.
        let dispatch =
            dispatcher::get_default(|current| (!current.is::<NoSubscriber>()).then(|| current.clone()))?;
        Some(LogSink::Subscriber(Arc::new((dispatch, Span::current()))))
    }

    /// The highest level that is read here.
    pub(crate) fn verbosity(&self) -> u8 {
        match self {
            LogSink::Subscriber(_) => LevelFilter::current().into_level().map_or(0, level::number),
            // 0 would mean that nobody listens.
            LogSink::Log(log) => log.verbosity().0.max(1),
        }
    }

    /// Begins to time a call that goes by this name.
    pub(crate) fn timer(&self, call: &'static str) -> Option<CallTimer> {
        self.log().map(|log| CallTimer::new(log.clone(), call, Instant::now()))
    }

    /// The log, where that is what listens.
    pub(crate) fn log(&self) -> Option<&RequestLog> {
        match self {
            LogSink::Subscriber(_) => None,
            LogSink::Log(log) => Some(log),
        }
    }
}

/// The spans of one call that a worker has opened, and what is left of its patience with it.
#[derive(Default)]
pub(crate) struct EventForwarder {
    /// Outermost first.
    open: Vec<OpenSpan>,
    logged: RequestLogSink,
    heard: u32,
}

/// A span of a worker's.
struct OpenSpan {
    /// The worker's number for it.
    number: u64,
    span: Span,
    site: &'static DynamicCallsite,
}

impl EventForwarder {
    /// Hands one record on; `false` if there are more of them than a worker may say.
    pub(crate) fn take_in(&mut self, log_sink: Option<&LogSink>, logged: Logged) -> bool {
        self.heard += 1;
        // The number of those that were left out comes on top.
        if self.heard > MOST_RECORDS + 1 {
            return false;
        }
        match log_sink {
            None => {}
            Some(LogSink::Log(log)) => self.logged.take_in(log, logged),
            Some(LogSink::Subscriber(log_sink)) => {
                let (dispatch, caller) = &**log_sink;
                let _back = Replaying::since(logged.at);
                dispatcher::with_default(dispatch, || self.hand_on(caller, logged.record.cut()));
            }
        }
        true
    }

    /// The call is over, and so are its spans; `cut`: there was no reply.
    pub(crate) fn end(&mut self, cut: bool) {
        while let Some(open) = self.open.pop() {
            drop(open);
        }
        self.logged.end(cut);
        self.heard = 0;
    }

    fn hand_on(&mut self, caller: &Span, record: Record) {
        match record {
            Record::Event { parent, source, values } => {
                let parent = self.find(parent).map_or(caller, |open| &open.span).id();
                let (site, values) = DynamicCallsite::of_event(source, values);
                event(site, parent, &values);
            }
            Record::Opened { span, parent, source, values } => {
                let (site, values) = DynamicCallsite::of_span(source, values);
                if site.is_enabled() {
                    let parent = self.find(parent).map_or(caller, |open| &open.span).id();
                    let opened =
                        site.with_values(&values, |values| Span::child_of(parent, site.metadata(), values));
                    self.open.push(OpenSpan { number: span, span: opened, site });
                }
            }
            Record::Noted { span, values } => {
                if let Some(OpenSpan { span, site, .. }) =
                    self.find(Some(span)).filter(|open| !open.site.is_shared())
                {
                    site.with_values(&values, |values| {
                        span.record_all(values);
                    });
                }
            }
            // An event would be its place there, but it says nothing of what happened.
            Record::Data { .. } => {}
            Record::Closed { span } => self.open.retain(|open| open.number != span),
            Record::LeftOut(count) => {
                tracing::warn!(target: "forkpool::worker", parent: caller.id(), count,
                    "a worker logged too much in one call, and so many records were left out");
            }
        }
    }

    fn find(&self, number: Option<u64>) -> Option<&OpenSpan> {
        let number = number?;
        self.open.iter().rev().find(|open| open.number == number)
    }
}

fn event(site: &'static DynamicCallsite, parent: Option<tracing::Id>, values: &Values) {
    if site.is_enabled() {
        site.with_values(values, |values| Event::child_of(parent, site.metadata(), values));
    }
}
