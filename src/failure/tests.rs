use super::*;

fn worker(number: u64, pid: u32) -> WorkerFacts {
    WorkerFacts { number, pid: Some(pid), ..WorkerFacts::default() }
}

fn every_kind() -> Vec<Failure> {
    let kinds = KIND_NAMES.map(|(kind, _)| kind);
    kinds.into_iter().map(|kind| Failure::of(kind, "what happened").in_pool("p").during("Call")).collect()
}

#[test]
fn every_kind_prints_one_line_and_can_be_read_back() {
    for failure in every_kind() {
        let text = failure.to_string();
        assert_eq!(text.lines().count(), 1, "{:?}: {text:?}", failure.kind());
        let bytes = postcard::to_stdvec(&failure).unwrap_or_default();
        assert_eq!(postcard::from_bytes(&bytes), Ok(failure));
    }
}

/// E11
#[test]
fn the_public_text_of_every_kind_has_nothing_of_its_failure() {
    let details = complete();
    for kind in KIND_NAMES.map(|(kind, _)| kind) {
        let failure = details.clone().with(|details| details.kind = kind);
        let text = failure.public();
        assert_eq!(text, Failure::of(kind, "").public(), "it depends on the kind alone");
        let is_plain = |c: char| c.is_ascii_lowercase() || " ;,".contains(c);
        assert!(!text.is_empty() && text.chars().all(is_plain), "{kind:?}: {text}");
    }
    assert_eq!(Failure::of(FailureKind::Overloaded, "").public(), "the service is busy; try again later");
}

/// E11: these names are labels in users' dashboards, so a change of one breaks what a user has built.
#[test]
fn the_names_of_kinds_are_stable_and_unique() {
    let names = KIND_NAMES.map(|(kind, _)| kind.as_str());
    let known = [
        "task",
        "panic",
        "setup",
        "timeout",
        "hung",
        "died",
        "aborted",
        "protocol",
        "cleared",
        "cancelled",
        "payload",
        "overloaded",
        "quarantined",
        "stopped",
        "no_server",
        "elsewhere",
        "other",
    ];
    assert_eq!(names, known);
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    for (kind, shown) in KIND_NAMES {
        let name = kind.as_str();
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert_eq!((name.replace('_', " "), kind.to_string()), (shown.to_owned(), shown.to_owned()));
    }
}

#[test]
fn an_unknown_kind_is_read_as_other() {
    let bytes = postcard::to_stdvec("entangled").unwrap_or_default();
    assert_eq!(postcard::from_bytes(&bytes), Ok(FailureKind::Other));
}

/// Returns a failure with every detail.
fn complete() -> Failure {
    let facts = WorkerFacts {
        age: Some(Duration::from_secs(90)),
        calls_served: Some(41),
        peak_memory: Some(12 << 20),
        cpu_time: Some(Duration::from_millis(1500)),
        killed_for_memory: Some(MemoryVerdict::OwnLimit { limit: 64 << 20 }),
        stderr: vec!["one".to_owned(), "two".to_owned()],
        log: vec!["WARN app: low on paper".to_owned()],
        ..worker(3, 7)
    };
    Failure::of(FailureKind::Died, "")
        .in_pool("p")
        .during("Call")
        .in_phase(Phase::Running)
        .at_limit(Duration::from_secs(5))
        .with_times(Duration::from_millis(2), Some(Duration::from_millis(700)))
        .on_worker(facts)
        .with_ending(Ending::Signaled { signal: 6, core_dumped: true })
        .with_panic(PanicReport {
            backtrace: "0: f\n1: g".to_owned(),
            ..PanicReport::new("a\nb".to_owned(), Some("x.rs:1:2".to_owned()))
        })
        .with_chain(&["outer".to_owned(), "inner".to_owned()])
        .retry_in(Duration::from_secs(1))
}

/// E7
#[test]
fn the_alternate_format_has_a_line_for_each_known_detail() {
    let block = "\
worker p/3 (pid 7) died while running Call: killed by SIGABRT (core dumped), after it panicked: a at x.rs:1:2, at \
its memory_limit of 64.0 MiB
  kind        died
  pool        p
  call        Call, running, waited 2.0ms, ran 700.0ms
  limit       5.0s
  retry in    1.0s
  worker      number 3, pid 7, age 90.0s, calls served 41
  ending      killed by SIGABRT (core dumped)
  usage       peak memory 12.0 MiB, CPU time 1.5s, ended at its memory_limit of 64.0 MiB
  stderr      | one
              | two
  log         | WARN app: low on paper
  panic       | a
              | b
  at          x.rs:1:2
  backtrace   | 0: f
              | 1: g
  caused by   outer
  caused by   inner";
    assert_eq!(format!("{:#}", complete()), block);
    assert_eq!(format!("{:#}", Failure::task("no")), "no\n  kind        task");
}

/// E7, E8
#[test]
fn all_details_can_be_read_back_from_binary_and_text_formats() {
    let with_source = Failure::of(FailureKind::Cleared, "").caused_by(complete());
    for failure in every_kind().into_iter().chain([complete(), with_source, Failure::task("several\nlines")])
    {
        let bytes = postcard::to_stdvec(&failure).unwrap_or_default();
        assert_eq!(postcard::from_bytes(&bytes), Ok(failure.clone()));
        // A value behind the failure is found, whatever the failure contains.
        let bytes = postcard::to_stdvec(&(&failure, 7)).unwrap_or_default();
        assert_eq!(postcard::from_bytes(&bytes), Ok((failure.clone(), 7)));
        let text = serde_json::to_string(&failure).unwrap_or_default();
        let read: Result<Failure, _> = serde_json::from_str(&text);
        assert!(read.as_ref().is_ok_and(|read| *read == failure), "{text}: {read:?}");
    }
}

#[test]
fn a_failure_of_a_newer_peer_is_read_as_far_as_it_is_understood() {
    let newer = |kind: &str, details: Vec<u8>| ("the line it printed", kind.to_owned(), details);
    let known = postcard::to_stdvec(&*complete().0).unwrap_or_default();
    let with_more = [known.as_slice(), &[1, 2, 3]].concat();
    let read = |packed| postcard::from_bytes::<Failure>(&postcard::to_stdvec(&packed).unwrap_or_default());
    assert_eq!(read(newer("died", with_more)), Ok(complete()));
    for nonsense in [vec![], vec![0xff; 40]] {
        let failure = read(newer("entangled", nonsense));
        let result = failure.map(|failure| (failure.kind(), failure.to_string()));
        assert_eq!(result, Ok((FailureKind::Other, "the line it printed".to_owned())));
    }
    // An unknown kind, with known details.
    let mut text = serde_json::to_value(complete()).unwrap_or_default();
    text["kind"] = "entangled".into();
    text["colour"] = "blue".into();
    let failure: Failure = serde_json::from_value(text.clone()).unwrap_or_else(|_| Failure::task(""));
    assert_eq!((failure.kind(), failure.pid()), (FailureKind::Other, Some(7)));
    assert_eq!(failure.to_string(), complete().to_string());
    text["phase"] = "Dreaming".into();
    let failure: Failure = serde_json::from_value(text).unwrap_or_else(|_| Failure::task(""));
    assert_eq!((failure.kind(), failure.to_string()), (FailureKind::Other, complete().to_string()));
}

#[test]
fn a_panic_message_of_many_lines_prints_its_first_line() {
    let report = PanicReport::new("first\nsecond".to_owned(), Some("a.rs:1:2".to_owned()));
    let failure = Failure::of(FailureKind::Panic, "").in_pool("p").during("Call").with_panic(report);
    assert_eq!(failure.to_string(), "Call panicked in a worker of pool p: first at a.rs:1:2");
}

#[test]
fn a_chain_of_texts_is_a_chain_of_sources() {
    let texts = ["outer".to_owned(), "inner".to_owned()];
    let failure =
        Failure::of(FailureKind::Setup, "returned an error").on_worker(worker(3, 7)).with_chain(&texts);
    let outer = failure.source().map(ToString::to_string);
    let inner = failure.source().and_then(Error::source).map(ToString::to_string);
    assert_eq!((outer.as_deref(), inner.as_deref()), (Some("outer"), Some("inner")));
    let line = "set-up of worker pool/3 (pid 7) returned an error";
    assert_eq!(failure.to_string(), format!("{line}: outer: inner"));
    assert_eq!(format!("{failure:?}"), format!("{line}\ncaused by: outer\ncaused by: inner"));
}

/// G8
#[test]
fn a_stack_that_overflowed_and_panics_that_did_not_unwind_are_part_of_a_death() {
    let panic = Some(PanicReport::new("first\nsecond".to_owned(), Some("a.rs:1:2".to_owned())));
    let death = |panic, stack_overflow| {
        let died = Failure::of(FailureKind::Died, "").during("Call").on_worker(worker(3, 7));
        let died = died.with_ending(Ending::Signaled { signal: 11, core_dumped: false });
        died.with_last_words(LastWords { panic, stack_overflow }).to_string()
    };
    let line = "worker pool/3 (pid 7) died while running Call: killed by SIGSEGV";
    assert_eq!(death(None, false), line);
    assert_eq!(death(None, true), format!("{line}, its stack overflowed"));
    assert_eq!(death(panic, false), format!("{line}, after it panicked: first at a.rs:1:2"));
}

/// G8: a worker that has ended when it was told to was not killed.
#[test]
fn a_hang_says_how_it_was_ended() {
    let hung = |ending| {
        let hung = Failure::of(FailureKind::Hung, "").during("Call").on_worker(worker(3, 7));
        hung.with_ending(ending).to_string()
    };
    let line = "Call hung on worker pool/3 (pid 7), which was";
    assert_eq!(hung(Ending::Signaled { signal: 9, core_dumped: false }), format!("{line} killed"));
    assert_eq!(hung(Ending::Exited { code: 7 }), format!("{line} told to end"));
}

#[test]
fn an_ending_names_its_signal_or_its_exit_status() {
    let table = [
        (Ending::Exited { code: 3 }, "exited with status 3"),
        (Ending::Signaled { signal: 9, core_dumped: false }, "killed by SIGKILL"),
        (Ending::Signaled { signal: 11, core_dumped: true }, "killed by SIGSEGV (core dumped)"),
        (Ending::Signaled { signal: 63, core_dumped: false }, "killed by signal 63"),
        (Ending::Unknown, "ended with an unknown exit status"),
    ];
    for (ending, text) in table {
        assert_eq!(ending.to_string(), text);
    }
}

#[test]
fn an_endless_chain_of_causes_is_cut_when_created_and_rejected_when_read() {
    let texts = vec![String::new(); 1_000_000];
    let failure = Failure::of(FailureKind::Setup, "").with_chain(&texts);
    let mut details = postcard::to_stdvec(&*failure.0).expect("the failure can be encoded");
    let bytes = postcard::to_stdvec(&failure).expect("the failure can be encoded");
    assert_eq!(postcard::from_bytes(&bytes), Ok(failure));
    // An encoded cause is an empty text (0) and a flag for the next cause (1); this finds the last but one.
    let cause = details.windows(2).rposition(|pair| pair == [0, 1]).expect("a cause");
    let deep = [0, 1].repeat(1_000_000);
    details.splice(cause..cause, deep);
    let bytes = postcard::to_stdvec(&("the line", "setup", details)).expect("the failure can be encoded");
    for _ in 0..2 * bounded_chain::MAX_CHAIN {
        // An error leaves the depth as it was.
        let rejected = postcard::from_bytes::<Failure>(&bytes).expect("the line is read");
        assert_eq!((rejected.kind(), rejected.to_string()), (FailureKind::Other, "the line".to_owned()));
    }
}
