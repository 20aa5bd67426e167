//! What a worker logs in the middle of a call, in the subscribers that people use.
#[path = "../harness/mod.rs"]
mod harness;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use harness::*;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing_subscriber::layer::SubscriberExt;

fn listen() {
    let level = tracing_subscriber::filter::LevelFilter::INFO;
    let tracer = SdkTracerProvider::builder().with_simple_exporter(exporter().clone()).build().tracer("test");
    let subscriber = tracing_subscriber::registry()
        .with(level)
        .with(tracing_opentelemetry::layer().with_tracer(tracer))
        .with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Printed));
    tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
}

/// Where spans are exported to.
fn exporter() -> &'static InMemorySpanExporter {
    static EXPORTER: OnceLock<InMemorySpanExporter> = OnceLock::new();
    EXPORTER.get_or_init(InMemorySpanExporter::default)
}

fn exported() -> Vec<SpanData> {
    exporter().get_finished_spans().expect("spans")
}

/// What was printed.
fn printed() -> MutexGuard<'static, Vec<u8>> {
    static PRINTED: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    PRINTED.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Printed;

impl std::io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        printed().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// L9
#[test]
fn the_subscribers_that_people_use_show_the_spans_of_a_worker_under_those_of_the_caller() {
    run(async {
        listen();
        let pool = scribes();
        let call = tracing::info_span!("request").in_scope(|| pool.send(Write::Spans));
        answer(call).await.expect("it is written");
        until("all three spans are exported", || exported().len() == 3).await;
        let spans = exported();
        let named = |name: &str| spans.iter().find(|span| span.name == name).expect("it is exported");
        let (request, outer, inner) = (named("request"), named("outer"), named("inner"));
        assert_eq!(outer.parent_span_id, request.span_context.span_id());
        assert_eq!(inner.parent_span_id, outer.span_context.span_id());
        let traces = [request, outer, inner].map(|span| span.span_context.trace_id());
        assert!(traces.iter().all(|trace| *trace == traces[0]), "one trace");
        let events: Vec<_> = inner.events.iter().map(|event| event.name.as_ref()).collect();
        assert_eq!(events, ["in inner"]);

        let printed = String::from_utf8(printed().clone()).expect("text");
        let line = printed.lines().find(|line| line.ends_with("in inner")).expect("it is printed");
        let expected = "INFO request:outer{page=1 later=\"now\"}:inner: telemetry::harness::scribe: in inner";
        assert!(line.ends_with(expected), "{line}");
    });
}
