use std::sync::Mutex;

use super::*;
use crate::failure::Failure;
use crate::request_log::LogLevel;
use crate::wire::baggage;

#[derive(Debug, PartialEq)]
struct Number(u64);

fn number() -> Option<u64> {
    ErrorContext::local_value::<Number>().map(|number| number.0)
}

fn trace(context: Option<&ErrorContext>) -> Trace {
    Trace::of_call("pool -> Call", Location::caller(), context)
}

/// Returns a chain of `length` frames, named by their distance from the root, which is "1".
fn chain_of(length: usize) -> ErrorContext {
    (2..=length).fold(ErrorContext::named("1"), |context, depth| {
        context.run(|| ErrorContext::named(depth.to_string()))
    })
}

/// X1
#[test]
fn a_context_chains_to_the_one_in_force_where_it_was_made() {
    let outer = ErrorContext::named("outer");
    let inner = outer.run(|| ErrorContext::named(format!("in{}", "ner")));
    let beside = ErrorContext::named("beside");
    assert_eq!((outer.depth(), inner.depth(), beside.depth()), (1, 2, 1));
    let names: Vec<&str> = inner.chain().map(ErrorContext::name).collect();
    assert_eq!(names, ["inner", "outer"]);
    assert!(ErrorContext::current().is_none());
}

/// X1
#[test]
fn changing_a_clone_leaves_the_other_clones_unchanged() {
    let plain = ErrorContext::named("plain").local(Number(1));
    let changed = plain.clone().local(Number(2)).on_failure(|_: ContextFailure| ());
    assert_eq!(plain.get(), Some(Arc::new(Number(1))));
    assert_eq!(changed.get(), Some(Arc::new(Number(2))));
    assert!(plain.0.handler.is_none() && changed.0.handler.is_some());
}

/// X7
#[test]
fn locals_are_seen_below_their_frame_hidden_by_inner_ones_and_restored_outside() {
    let outer = ErrorContext::named("outer").local(Number(1)).local("text");
    assert_eq!(number(), None);
    outer.run(|| {
        assert_eq!(number(), Some(1));
        let inner = ErrorContext::named("inner").local(Number(2)).local(Number(3));
        assert_eq!(number(), Some(1), "it is not in force yet");
        inner.run(|| {
            assert_eq!(number(), Some(3));
            assert_eq!(ErrorContext::local_value::<&str>().as_deref(), Some(&"text"));
            ErrorContext::named("empty").run(|| assert_eq!(number(), Some(3)));
        });
        assert_eq!(number(), Some(1));
    });
    assert_eq!(number(), None);
}

/// X7
#[test]
fn a_panic_restores_the_previous_context() {
    let outer = ErrorContext::named("outer").local(Number(1));
    outer.run(|| {
        let inner = ErrorContext::named("inner").local(Number(2));
        let panicked = std::panic::catch_unwind(|| inner.run(|| std::panic::panic_any(number())));
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&Some(2_u64)));
        assert_eq!(number(), Some(1));
    });
}

/// X9
#[test]
fn a_detached_context_sees_nothing_of_its_outer_frames() {
    let outer = ErrorContext::named("outer").local(Number(1)).local(7_u8);
    let outer = outer.baggage("out".to_owned()).unwrap();
    outer.run(|| {
        let detached = ErrorContext::named("inner").local(7_u8).baggage(5_u64).unwrap().detached();
        assert_eq!((detached.depth(), detached.get::<Number>()), (1, None));
        assert_eq!(detached.get::<u8>().as_deref(), Some(&7));
        assert_eq!(baggage::read::<u64>(detached.0.baggage.encoded()), Some(5));
        assert_eq!(baggage::read::<String>(detached.0.baggage.encoded()), None);
        assert_eq!(ErrorContext::named("inner").detached().0.baggage.encoded(), [0; 0]);
    });
}

/// L10
#[test]
fn a_frame_has_its_own_log_or_that_of_the_frame_outward_unless_it_is_detached() {
    // A log is recognized by its verbosity.
    let log = |verbosity| RequestLog::new(|_| ()).with_verbosity(LogLevel(verbosity));
    let verbosity = |context: &ErrorContext| context.log_sink().map(LogSink::verbosity);
    let outer = ErrorContext::named("outer").log(&log(1)).log(&log(2));
    let inner = outer.run(|| ErrorContext::named("inner"));
    let own = outer.run(|| ErrorContext::named("own")).log(&log(3));
    assert_eq!((verbosity(&outer), verbosity(&inner), verbosity(&own)), (Some(2), Some(2), Some(3)));
    assert_eq!((verbosity(&own.detached()), verbosity(&inner.detached())), (Some(3), None));
    assert_eq!(verbosity(&ErrorContext::named("bare")), None);
}

/// X5
#[test]
fn a_trace_has_a_line_for_each_frame_from_the_call_to_the_root() {
    let outer = ErrorContext::named("outer\nline");
    let inner = outer.run(|| ErrorContext::named("inner"));
    let shown = trace(Some(&inner)).to_string();
    let line = |context: &ErrorContext| context.0.at.line();
    let expected = format!(
        "{file}:{} - inner\n{file}:{} - outer line",
        line(&inner),
        line(&outer),
        file = Location::caller().file()
    );
    let (call, rest) = shown.split_once('\n').unwrap();
    assert!(call.ends_with(" - pool -> Call"), "{call}");
    assert_eq!(rest, expected);
    assert_eq!(trace(None).frames().count(), 1);
}

/// X5
#[test]
fn the_trace_of_a_long_chain_leaves_its_middle_out() {
    for (length, shown, left_out) in [(0, 1, 0), (30, 31, 0), (31, 32, 0), (32, 31, 2), (998, 31, 968)] {
        let context = (length > 0).then(|| chain_of(length));
        let trace = trace(context.as_ref());
        assert_eq!((trace.frames().count(), trace.left_out()), (shown, left_out), "{length} frames");
        let text = trace.to_string();
        let marker = text.lines().position(|line| line == format!("… {left_out} more …"));
        assert_eq!(marker, (left_out > 0).then_some(16), "{text}");
        if let Some(root) = trace.frames().skip(1).last() {
            assert_eq!(root.name(), "1");
            assert_eq!(trace.frames().nth(1).map(TraceFrame::name), Some(length.to_string().as_str()));
        }
    }
}

/// X8
#[test]
fn a_chain_of_a_million_frames_is_dropped_without_a_deep_stack() {
    let small = std::thread::Builder::new().stack_size(64 << 10);
    let dropped = small.spawn(|| {
        let chain = chain_of(1_000_000);
        let branch = chain.run(|| ErrorContext::named("branch"));
        assert_eq!(branch.depth(), 1_000_001);
        drop(chain);
        assert_eq!(trace(Some(&branch)).left_out(), 1_000_002 - 31);
    });
    assert!(dropped.unwrap().join().is_ok());
}

/// X11
#[test]
fn baggage_is_merged_inner_over_outer() {
    let outer = ErrorContext::named("outer").baggage(1_u64).unwrap().baggage("out".to_owned()).unwrap();
    let inner = outer.run(|| ErrorContext::named("inner")).baggage(2_u64).unwrap();
    let read = |context: &ErrorContext| {
        let bytes = context.0.baggage.encoded();
        (baggage::read::<u64>(bytes), baggage::read::<String>(bytes), baggage::read::<u8>(bytes))
    };
    assert_eq!(read(&outer), (Some(1), Some("out".to_owned()), None));
    assert_eq!(read(&inner), (Some(2), Some("out".to_owned()), None));
    assert_eq!(inner.get::<u64>().as_deref(), Some(&2), "baggage is a local as well");
    assert_eq!(inner.run(|| read(&ErrorContext::named("below"))), read(&inner));
}

/// X11
#[test]
fn rejected_baggage_is_reported_with_the_name_of_its_type() {
    let context = ErrorContext::named("context").baggage(vec![0_u8; 40_000]).unwrap();
    let too_large = context.run(|| ErrorContext::named("below").baggage("x".repeat(30_000))).unwrap_err();
    let type_name = "alloc::string::String";
    assert_eq!(too_large, BaggageError::TooLarge { type_name, limit: 65_536 });
    assert_eq!(too_large.to_string(), "with alloc::string::String the baggage exceeds 65536 bytes");

    #[derive(serde::Deserialize)]
    struct Unencodable;
    impl Serialize for Unencodable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no"))
        }
    }
    let rejected = context.baggage(Unencodable).unwrap_err();
    assert!(matches!(rejected, BaggageError::Encode { type_name, .. } if type_name.ends_with("Unencodable")));
}

/// Returns which handlers got a failure, in order, each with the text that it got. `deliver` creates handlers with a
/// name and the text of the failure that they pass on; one without a text ends the failure.
fn reports(deliver: impl FnOnce(&dyn Fn(&'static str, Option<&'static str>) -> ErrorContext)) -> Vec<String> {
    let reports = Arc::new(Mutex::new(Vec::new()));
    deliver(&|name, passes_on| {
        let reports = reports.clone();
        ErrorContext::named(name).on_failure(move |failure: ContextFailure| {
            reports.lock().unwrap().push(format!("{name}: {}", failure.failure()));
            passes_on.map_or(Ok(()), |text| Err(Failure::task(text)))
        })
    });
    Arc::into_inner(reports).unwrap().into_inner().unwrap()
}

/// X4
#[test]
fn a_failure_goes_outward_until_a_handler_ends_it() {
    let reports = reports(|handler| {
        let root = handler("root", None);
        let outer = root.run(|| handler("outer", None));
        let middle = outer.run(|| handler("middle", Some("second")));
        let plain = middle.run(|| ErrorContext::named("plain"));
        let inner = plain.run(|| handler("inner", Some("first")));
        inner.run(CallOrigin::here).report_failure("pool -> Call", Failure::task("failed"));
    });
    assert_eq!(reports, ["inner: failed", "middle: first", "outer: second"]);
}

/// X4
#[test]
fn a_handler_that_panics_passes_the_failure_on() {
    let reports = reports(|handler| {
        let outer = handler("outer", None);
        let inner = outer.run(|| {
            ErrorContext::named("inner").on_failure(|failure: ContextFailure| {
                assert_ne!(failure.kind(), crate::FailureKind::Task, "panics on purpose");
            })
        });
        inner.run(CallOrigin::here).report_failure("pool -> Call", Failure::task("failed"));
    });
    assert_eq!(reports, ["outer: failed"]);
}

/// X7
#[test]
fn a_handler_runs_in_its_own_frame_without_itself() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let outer = ErrorContext::named("outer").local(Number(1)).on_failure(move |failure: ContextFailure| {
        let current = ErrorContext::current().unwrap();
        assert!(current.0.handler.is_none());
        assert_eq!((failure.context().name(), current.depth()), ("outer", 1));
        note.lock().unwrap().push(number());
    });
    let inner = outer.run(|| ErrorContext::named("inner").local(Number(2)));
    inner.run(|| {
        CallOrigin::here().report_failure("pool -> Call", Failure::task("failed"));
        assert_eq!(number(), Some(2), "the context in force is restored");
    });
    assert_eq!(*seen.lock().unwrap(), [Some(1)]);
}
