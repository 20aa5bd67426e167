use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Receiver, channel};

use serde_json::json;

use super::*;

/// Returns a log and the channel to which it is delivered.
fn log() -> (RequestLog, Receiver<FinishedLog>) {
    let (sender, delivered) = channel();
    (RequestLog::new(move |log| drop(sender.send(log))), delivered)
}

fn delivered(of: Receiver<FinishedLog>) -> FinishedLog {
    let log = of.recv().unwrap_or_default();
    assert!(of.recv().is_err(), "the log is delivered once");
    log
}

fn texts(log: &FinishedLog) -> Vec<String> {
    log.messages.iter().map(LogMessage::text).collect()
}

/// L1
#[test]
fn a_log_is_delivered_once_when_its_last_handle_is_dropped_on_any_thread() {
    let (log, outcome) = log();
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let log = log.clone();
            std::thread::spawn(move || (0..100).for_each(|_| log.info(number.to_string())))
        })
        .collect();
    drop(log);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    let log = delivered(outcome);
    assert_eq!(log.messages.len(), 400);
    assert!(log.messages.is_sorted_by_key(|message| message.at));
    assert!(log.messages.iter().all(|message| Some(message.at) <= log.end));
}

/// L1
#[test]
fn messages_above_the_verbosity_are_neither_kept_nor_computed() {
    let (log, outcome) = log();
    let log = log.with_verbosity(LogLevel(25));
    let computed = AtomicU32::new(0);
    for level in [10, 20, 25, 26, 30, 255] {
        log.lazy(LogLevel(level), || {
            computed.fetch_add(1, Ordering::Relaxed);
            level.to_string()
        });
        log.record(LogLevel(level), format!("with fields {level}"), [("level", level)]);
    }
    log.info("too fine");
    log.error("severe");
    drop(log);
    let log = delivered(outcome);
    assert_eq!(computed.into_inner(), 3);
    let expected = ["10", "with fields 10", "20", "with fields 20", "25", "with fields 25", "severe"];
    assert_eq!(texts(&log), expected);
    assert_eq!(log.messages[1].fields().and_then(|fields| fields.get("level")), Some(&json!(10)));
}

/// L2
#[test]
fn a_timer_ends_with_its_guard_and_the_log_waits_for_it() {
    let (log, outcome) = log();
    let outer = log.timer("outer");
    let inner = log.timer("inner");
    inner.fail("no");
    drop(inner);
    log.info("between");
    drop(log);
    assert!(outcome.try_recv().is_err());
    drop(outer);
    let log = delivered(outcome);
    let [outer, inner] = log.timers.as_slice() else { panic!("two timers: {log:?}") };
    assert_eq!((outer.name.as_str(), inner.name.as_str()), ("outer", "inner"));
    assert!(outer.start <= inner.start && inner.end < outer.end && outer.end <= log.end);
    assert!(inner.end <= Some(log.messages[0].at));
    assert_eq!((outer.failure.as_deref(), inner.failure.as_deref()), (None, Some("no")));
}

/// L5
#[test]
fn merging_sorts_by_time_and_the_incoming_data_wins() {
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let message = |millis: u64, text: &str| LogMessage {
        at: Duration::from_millis(millis),
        level: LogLevel::INFO,
        items: vec![json!(text)],
    };
    let mut other = FinishedLog {
        start: start + Duration::from_secs(100),
        messages: vec![message(1, "later"), message(3, "last")],
        ..FinishedLog::default()
    };
    other.data.insert("both".to_owned(), json!("theirs"));
    let earlier = FinishedLog {
        start: start - Duration::from_secs(5),
        messages: vec![message(0, "before")],
        ..FinishedLog::default()
    };
    let (log, outcome) = log();
    log.merge(other);
    log.info("ours");
    log.data("both", "ours");
    log.data("only", ["ours"]);
    log.merge(FinishedLog {
        data: Map::from_iter([("both".to_owned(), json!("theirs"))]),
        ..FinishedLog::default()
    });
    log.merge(earlier);
    drop(log);
    let log = delivered(outcome);
    // Times before the start of the log become its start.
    assert_eq!(texts(&log), ["before", "ours", "later", "last"]);
    assert_eq!(log.messages[0].at, Duration::ZERO);
    assert_eq!(Value::Object(log.data), json!({ "both": "theirs", "only": ["ours"] }));
}

/// L7
#[test]
fn json_has_the_shape_of_log_defer() {
    let log = FinishedLog {
        start: Duration::from_micros(1_340_421_702_168_684),
        end: Some(Duration::from_micros(166_998)),
        messages: vec![LogMessage {
            at: Duration::from_micros(35_742),
            level: LogLevel::INFO,
            items: vec![json!("text"), json!({ "n": 1 })],
        }],
        timers: vec![
            LogTiming {
                name: "done".to_owned(),
                start: Duration::from_micros(1),
                end: Some(Duration::from_micros(2)),
                failure: None,
            },
            LogTiming { name: "open".to_owned(), start: Duration::ZERO, end: None, failure: None },
            LogTiming {
                name: "failed".to_owned(),
                start: Duration::ZERO,
                end: Some(Duration::from_secs(1)),
                failure: Some("why".to_owned()),
            },
        ],
        data: Map::from_iter([("k".to_owned(), json!(null))]),
    };
    let text = log.to_json();
    assert_eq!(
        text,
        r#"{"start":1340421702.168684,"end":0.166998,"logs":[[0.035742,30,"text",{"n":1}]],"timers":[["done",1e-6,2e-6],["open",0.0],["failed",0.0,1.0,{"failed":"why"}]],"data":{"k":null}}"#
    );
    assert_eq!(serde_json::from_str::<FinishedLog>(&text).ok(), Some(log));
    assert_eq!(FinishedLog::default().to_json(), r#"{"start":0.0}"#);
}

/// L7
#[test]
fn logs_of_other_programs_are_read_and_other_json_is_rejected() {
    // From the manual of Log::Defer.
    let text = r#"{"start":1340353046.93565,"end":0.202386,
        "logs":[[0.000158,30,"This is an info message (verbosity=30)"],[0.201223,20,"Warning! \n\n Here is some more data:",{"whatever":987}]],
        "data":{"junkdata":"some data"},
        "timers":[["junktimer",0.000224,0.100655],["junktimer2",0.000281,0.202386],["open",0.5]],"later":[1]}"#;
    let log: FinishedLog = serde_json::from_str(text).expect("a valid log");
    assert_eq!(log.messages[1].fields().and_then(|fields| fields.get("whatever")), Some(&json!(987)));
    assert_eq!((log.timers[1].end, log.timers[2].end), (Some(Duration::from_micros(202_386)), None));
    for invalid in
        ["[]", "{}", r#"{"start":"x"}"#, r#"{"start":1,"logs":[[1]]}"#, r#"{"start":1,"timers":[["x"]]}"#]
    {
        assert!(serde_json::from_str::<FinishedLog>(invalid).is_err(), "{invalid}");
    }
    let odd = r#"{"start":1,"logs":[[-1,9999,{"a":1}],[1e300,30]]}"#;
    let log: FinishedLog = serde_json::from_str(odd).expect("a valid log");
    assert_eq!((log.messages[0].at, log.messages[0].level), (Duration::ZERO, LogLevel(255)));
}

#[test]
fn messages_beyond_the_limit_are_dropped_and_counted() {
    let (log, outcome) = log();
    (0..MAX_ENTRIES + 7).for_each(|_| log.info("one of many"));
    drop(log);
    let log = delivered(outcome);
    assert_eq!(log.messages.len(), MAX_ENTRIES + 1);
    assert_eq!(texts(&log).last().map(String::as_str), Some("7 messages, timers and data were left out"));
}

#[test]
fn impossible_times_are_moved_and_a_delivery_that_panics_is_caught() {
    let (log, outcome) = log();
    log.add_message(0, LogLevel::INFO, "before all time".to_owned(), Map::new());
    log.add_timer("backwards".to_owned(), u64::MAX, 0, None);
    drop(log);
    let log = delivered(outcome);
    assert_eq!(log.messages[0].at, Duration::ZERO);
    assert!(log.timers[0].end >= Some(log.timers[0].start));
    drop(RequestLog::new(|_| std::panic::resume_unwind(Box::new("no"))));
}

/// L5, L8
#[test]
fn times_at_the_end_of_the_range_are_shown_and_merged_without_a_panic() {
    let never = Duration::MAX;
    let other = FinishedLog {
        start: never,
        end: Some(never),
        messages: vec![LogMessage { at: never, level: LogLevel::INFO, items: vec![] }],
        timers: vec![LogTiming { name: "backwards".to_owned(), start: never, end: None, failure: None }],
        ..FinishedLog::default()
    };
    assert!(other.to_text(80, false).contains("backwards") && other.to_svg().contains("backwards"));
    let (log, outcome) = log();
    log.merge(other);
    drop(log);
    let log = delivered(outcome);
    assert_eq!((log.messages.len(), log.timers.len()), (1, 1));
    let back: FinishedLog = serde_json::from_str(&log.to_json()).expect("a valid log");
    assert_eq!(back.timers[0].name, "backwards");
}

/// L5
#[test]
fn data_is_bounded_and_a_replaced_value_is_not_counted() {
    let (log, outcome) = log();
    let large = "x".repeat(MAX_BYTES / 10);
    (0..100).for_each(|_| log.data("the same", &large));
    (0..20).for_each(|number| log.data(number.to_string(), &large));
    (0..MAX_ENTRIES).for_each(|number| log.data(format!("small {number}"), ()));
    drop(log);
    let log = delivered(outcome);
    assert_eq!(log.data.values().filter(|value| value.is_string()).count(), 9);
    assert_eq!(log.data.len(), MAX_ENTRIES);
    let left_out = 20 - 8 + 9;
    assert_eq!(texts(&log), [format!("{left_out} messages, timers and data were left out")]);
}

/// L7
#[test]
fn any_value_that_is_logged_can_be_read_back() {
    let (log, outcome) = log();
    let deep = (0..1000).fold(json!("the bottom"), |value, _| json!([value]));
    log.data("deep", &deep);
    log.record(LogLevel::INFO, "deep", [("deep", &deep)]);
    log.record(LogLevel::INFO, "a number", 7);
    log.record(LogLevel::INFO, "nothing", ());
    log.data("infinite", f64::INFINITY);
    drop(log);
    let log = delivered(outcome);
    assert_eq!(log.messages[1].items[1], json!({ "fields": 7 }));
    assert_eq!(log.messages[2].fields(), None);
    let back: FinishedLog = serde_json::from_str(&log.to_json()).expect("a valid log");
    assert_eq!((back.messages.len(), back.data), (3, log.data));
}

/// L1
#[test]
fn a_value_may_log_while_it_is_being_logged() {
    struct LogsItself(RequestLog);
    impl Serialize for LogsItself {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.info("talking");
            serializer.serialize_unit()
        }
    }
    let (log, outcome) = log();
    log.data("talks", LogsItself(log.clone()));
    log.record(LogLevel::INFO, "talked", LogsItself(log.clone()));
    drop(log);
    assert_eq!(texts(&delivered(outcome)), ["talking", "talking", "talked"]);
}
