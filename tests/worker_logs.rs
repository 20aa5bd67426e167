//! What a worker logs in the middle of a call, in the application's own subscriber.
mod harness;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use forkpool::prelude::*;
use harness::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Instrument, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// One thing that a subscriber was told.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    what: &'static str,
    level: Level,
    target: String,
    /// Of a span its name, of an event its message.
    name: String,
    fields: Vec<(String, String)>,
    /// The span that it is in.
    parent: Option<String>,
    place: Option<(String, u32)>,
    at: SystemTime,
}

impl Told {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

static TOLD: Mutex<Vec<Told>> = Mutex::new(Vec::new());

fn told() -> MutexGuard<'static, Vec<Told>> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps what it is told that comes from a worker.
struct Keeper;

fn listen() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let level = tracing_subscriber::filter::LevelFilter::INFO;
        let subscriber = tracing_subscriber::registry().with(level).with(Keeper);
        tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
    });
    told().clear();
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keeper {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let parent = context.span(id).and_then(|span| span.parent().map(|parent| parent.name().to_owned()));
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        keep("opened", attributes.metadata(), attributes.metadata().name().to_owned(), fields, parent);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        let metadata = context.metadata(id).expect("it is open");
        keep("noted", metadata, metadata.name().to_owned(), fields, None);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let parent = context.event_span(event).map(|span| span.name().to_owned());
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.iter().position(|(name, _)| name == "message");
        let message = message.map(|at| fields.0.remove(at).1).unwrap_or_default();
        keep("event", event.metadata(), message, fields, parent);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let metadata = context.metadata(&id).expect("it was open");
        keep("closed", metadata, metadata.name().to_owned(), Fields::default(), None);
    }
}

fn keep(
    what: &'static str,
    metadata: &tracing::Metadata<'_>,
    name: String,
    fields: Fields,
    parent: Option<String>,
) {
    if metadata.target() == "forkpool::worker::output" {
        return;
    }
    told().push(Told {
        what,
        level: *metadata.level(),
        target: metadata.target().to_owned(),
        name,
        fields: fields.0,
        parent,
        place: metadata.file().map(str::to_owned).zip(metadata.line()),
        at: forkpool::time_of_record(),
    });
}

#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push((field.name().to_owned(), format!("{value:?}")));
    }
}

/// What was told, as `what name < parent`.
fn lines() -> Vec<String> {
    let line = |told: &Told| match &told.parent {
        Some(parent) => format!("{} {} < {parent}", told.what, told.name),
        None => format!("{} {}", told.what, told.name),
    };
    told().iter().map(line).collect()
}

/// L9
#[test]
fn events_of_a_worker_appear_under_the_span_of_the_call_with_all_that_they_are() {
    run(async {
        listen();
        let pool = scribes();
        let span = tracing::info_span!("request");
        let before = SystemTime::now();
        answer(pool.send(Write::EveryKind)).instrument(span.clone()).await.expect("it is written");
        // The call is made when it is sent.
        assert!(told().iter().all(|told| told.parent.is_none()), "{:?}", lines());
        told().clear();
        let call = span.in_scope(|| pool.send(Write::EveryKind));
        answer(call).await.expect("it is written");
        assert_eq!(
            lines(),
            ["event an error < request", "event a warning < request", "event an info < request"]
        );
        let all = told().clone();
        let levels: Vec<Level> = all.iter().map(|told| told.level).collect();
        assert_eq!(levels, [Level::ERROR, Level::WARN, Level::INFO]);
        assert_eq!(
            (all[0].target.as_str(), all[1].target.as_str()),
            ("worker_logs::harness::scribe", "elsewhere")
        );
        let names = ["count", "minus", "half", "yes"].map(|name| all[1].field(name));
        assert_eq!(names, [Some("3"), Some("-3"), Some("0.5"), Some("true")]);
        let texts = ["text", "shown", "debugged"].map(|name| all[2].field(name));
        assert_eq!(texts, [Some("\"t\\\"x\""), Some("s"), Some("Some(1)")]);
        assert!(
            all.iter()
                .all(|told| told.place.as_ref().is_some_and(|place| place.0 == "tests/harness/scribe.rs"))
        );
        let now = SystemTime::now();
        assert!(all.iter().all(|told| before <= told.at && told.at <= now));
        assert!(all.is_sorted_by_key(|told| told.at));
    });
}

/// L9
#[test]
fn spans_of_a_worker_nest_as_they_did_there() {
    run(async {
        listen();
        let pool = scribes();
        let checkout = pool.checkout().start();
        let call = tracing::info_span!("request").in_scope(|| checkout.send(Write::Spans));
        answer(call).await.expect("it is written");
        let expected = [
            "opened request",
            "opened outer < request",
            "event in outer < outer",
            "noted outer",
            "opened inner < outer",
            "event in inner < inner",
            "closed inner",
            "event without a parent < request",
            "closed outer",
            "event behind both < request",
            "closed request",
        ];
        until("the request's span is closed", || lines().len() >= expected.len()).await;
        assert_eq!(lines(), expected);
        let all = told().clone();
        assert_eq!((all[1].field("page"), all[1].field("later")), (Some("1"), None));
        assert_eq!(all[3].field("later"), Some("\"now\""));
    });
}

/// L9
#[test]
fn what_was_logged_before_a_worker_went_down_is_told() {
    run(async {
        for (end, kind) in [
            (End::Aborts, FailureKind::Died),
            (End::Panics, FailureKind::Panic),
            (End::Hangs, FailureKind::Timeout),
        ] {
            listen();
            let pool = scribes();
            pool.ready().await.expect("a worker");
            let call = tracing::info_span!("request")
                .in_scope(|| pool.send_within(Duration::from_millis(300), Write::Then(end)));
            assert_eq!(failure(call).await.kind(), kind);
            let expected =
                ["opened to the end < request", "event before the end < to the end", "closed to the end"];
            until("its span is closed", || lines().len() >= 2 + expected.len()).await;
            let of_the_worker: Vec<String> =
                lines().into_iter().filter(|line| !line.ends_with("d request")).collect();
            assert_eq!(of_the_worker, expected, "{end:?}");
        }
    });
}

/// L9
#[test]
fn what_nobody_reads_is_not_computed() {
    run(async {
        listen();
        assert_eq!(answer(scribes().send(Write::Computed)).await, Ok(0));
        assert!(lines().is_empty(), "{:?}", lines());
    });
}

/// L9
#[test]
fn a_call_that_logs_without_end_is_cut_and_the_rest_is_counted() {
    run(async {
        listen();
        let pool = scribes();
        for (count, left_out) in [(100_000, "90000"), (10_001, "1")] {
            told().clear();
            answer(pool.send(Write::Many(count))).await.expect("it is written");
            let all = told().clone();
            assert_eq!(all.len(), 10_001);
            assert!(all[..10_000].iter().all(|told| told.name == "one of many"));
            let last = &all[10_000];
            assert_eq!((last.level, last.field("count")), (Level::WARN, Some(left_out)), "{last:?}");
        }
    });
}

/// L9
#[test]
fn what_a_handler_says_by_its_context_appears_too() {
    run(async {
        listen();
        answer(scribes().send(Write::ByTheContext)).await.expect("it is written");
        // A timer is no place to be in.
        let expected = ["opened a timer", "event an info", "event between levels", "closed a timer"];
        assert_eq!(lines(), expected);
        let between = told()[2].clone();
        assert_eq!((between.level, between.field("list")), (Level::WARN, Some("[1,2]")));
    });
}

/// L9
#[test]
fn what_is_too_long_is_cut_and_breaks_nothing() {
    run(async {
        listen();
        let pool = builder::<Scribe>(()).workers(1..=1).max_payload(100).start().expect("the pool starts");
        assert_eq!(answer(pool.send(Write::Huge)).await, Ok(0));
        let told = told().clone();
        assert_eq!(told.len(), 6, "four events, and a timer's begin and end");
        let longest = told
            .iter()
            .map(|told| told.name.len() + told.fields.iter().map(|(_, text)| text.len()).sum::<usize>());
        assert!(longest.max().is_some_and(|longest| longest < 64 << 10));
    });
}

/// L9
#[test]
fn other_threads_and_the_log_crate_are_heard_too() {
    run(async {
        listen();
        let pool = scribes();
        answer(pool.send(Write::FromAThread)).await.expect("it is written");
        answer(pool.addr().send(Write::ByTheLogCrate)).await.expect("it is written");
        let told = told().clone();
        let seen: Vec<_> =
            told.iter().map(|told| (told.name.as_str(), told.target.as_str(), told.level)).collect();
        assert_eq!(
            seen,
            [
                ("from a thread", "worker_logs::harness::scribe", Level::INFO),
                ("by log", "logger", Level::WARN)
            ]
        );
    });
}

/// L9
#[test]
fn a_span_that_is_kept_across_calls_is_open_in_the_first_alone() {
    run(async {
        listen();
        let pool = scribes();
        for _ in 0..3 {
            // Each of these has a checkout of its own, and the span is noted in `checkout_done` as well.
            answer(pool.send(Write::Keep)).await.expect("it is written");
        }
        let expected = [
            "opened kept",
            "noted kept",
            "event in kept < kept",
            "closed kept",
            "event in kept",
            "event in kept",
        ];
        assert_eq!(lines(), expected);
        assert_eq!(pool.stats().forked, 1);
    });
}

/// The events of workers, each with the span that it is in at last: that of its call, or one of the worker's in that.
fn events_under(calls: &[&str]) -> Vec<String> {
    let is_event = |line: &String| line.starts_with("event ");
    let of_calls = |line: &String| calls.iter().any(|call| line.ends_with(&format!("< {call}")));
    lines().into_iter().filter(is_event).filter(of_calls).collect()
}

/// L9: each has its own span, although all are written to one worker one behind the other.
#[test]
fn calls_that_stand_behind_others_log_under_spans_of_their_own() {
    run(async {
        listen();
        let pool = scribes();
        answer(pool.send(Write::Computed)).await.expect("it is written");
        settled(&pool, 1).await;
        told().clear();
        let calls = [
            tracing::info_span!("first").in_scope(|| pool.send(Write::EveryKind)),
            tracing::info_span!("second").in_scope(|| pool.send(Write::Spans)),
            tracing::info_span!("third").in_scope(|| pool.send(Write::EveryKind)),
        ];
        for call in calls {
            answer(call).await.expect("it is written");
        }
        let expected = [
            "event an error < first",
            "event a warning < first",
            "event an info < first",
            "event without a parent < second",
            "event behind both < second",
            "event an error < third",
            "event a warning < third",
            "event an info < third",
        ];
        assert_eq!(events_under(&["first", "second", "third"]), expected);
        assert_eq!(pool.stats().forked, 1);
    });
}

/// L9, P11: a call that runs elsewhere because of the one before it is logged once.
#[test]
fn calls_behind_one_that_ends_the_worker_log_under_their_own_spans_elsewhere() {
    run(async {
        for (end, kind) in [(End::Aborts, FailureKind::Died), (End::Panics, FailureKind::Panic)] {
            listen();
            let pool = scribes();
            answer(pool.send(Write::Computed)).await.expect("it is written");
            settled(&pool, 1).await;
            told().clear();
            let before = tracing::info_span!("before").in_scope(|| pool.send(Write::Many(2)));
            let ends = tracing::info_span!("ends").in_scope(|| pool.send(Write::Then(end)));
            let behind = tracing::info_span!("behind").in_scope(|| pool.send(Write::EveryKind));
            answer(before).await.expect("it is written");
            assert_eq!(failure(ends).await.kind(), kind);
            answer(behind).await.expect("it is written elsewhere");
            let expected = [
                "event one of many < before",
                "event one of many < before",
                "event before the end < to the end",
                "event an error < behind",
                "event a warning < behind",
                "event an info < behind",
            ];
            assert_eq!(events_under(&["before", "to the end", "behind"]), expected, "{end:?}");
            assert!(lines().contains(&"opened to the end < ends".to_owned()), "{end:?} {:?}", lines());
            assert_eq!(pool.stats().forked, 2);
        }
    });
}
