use super::*;

fn every_kind() -> Vec<Failure> {
    let kinds = KIND_NAMES.map(|(kind, _)| kind);
    kinds.into_iter().map(|kind| Failure::of(kind, "what happened").in_pool("p").during("Call")).collect()
}

#[test]
fn every_kind_prints_one_line_and_survives_the_wire() {
    for failure in every_kind() {
        let text = failure.to_string();
        assert_eq!(text.lines().count(), 1, "{:?}: {text:?}", failure.kind());
        let bytes = postcard::to_stdvec(&failure).unwrap_or_default();
        assert_eq!(postcard::from_bytes(&bytes), Ok(failure));
    }
}

#[test]
fn a_kind_of_a_newer_peer_is_read_as_other() {
    let bytes = postcard::to_stdvec("entangled").unwrap_or_default();
    assert_eq!(postcard::from_bytes(&bytes), Ok(FailureKind::Other));
}

#[test]
fn a_panic_of_many_lines_prints_its_first() {
    let report = PanicReport {
        message: "first\nsecond".to_owned(),
        location: Some("a.rs:1:2".to_owned()),
        backtrace: String::new(),
    };
    let failure = Failure::of(FailureKind::Panic, "").in_pool("p").during("Call").with_panic(report);
    assert_eq!(failure.to_string(), "Call panicked in a worker of pool p: first at a.rs:1:2");
}

#[test]
fn a_chain_of_texts_is_a_chain_of_sources() {
    let texts = ["outer".to_owned(), "inner".to_owned()];
    let failure =
        Failure::of(FailureKind::Setup, "returned an error").on_worker(3, Some(7)).with_chain(&texts);
    let outer = failure.source().map(ToString::to_string);
    let inner = failure.source().and_then(Error::source).map(ToString::to_string);
    assert_eq!((outer.as_deref(), inner.as_deref()), (Some("outer"), Some("inner")));
    assert_eq!(failure.to_string(), "set-up of worker pool/3 (pid 7) returned an error");
}

#[test]
fn an_end_names_its_signal_and_its_status() {
    let table = [
        (Ending::Exited { code: 3 }, "exited with status 3"),
        (Ending::Signaled { signal: 9, core_dumped: false }, "killed by SIGKILL"),
        (Ending::Signaled { signal: 11, core_dumped: true }, "killed by SIGSEGV (core dumped)"),
        (Ending::Signaled { signal: 63, core_dumped: false }, "killed by signal 63"),
        (Ending::Unknown, "ended in a way nobody saw"),
    ];
    for (ending, text) in table {
        assert_eq!(ending.to_string(), text);
    }
}

#[test]
fn a_chain_of_causes_without_end_is_cut_here_and_refused_from_others() {
    let texts = vec![String::new(); 1_000_000];
    let failure = Failure::of(FailureKind::Setup, "").with_chain(&texts);
    let mut bytes = postcard::to_stdvec(&failure).expect("it is encoded");
    assert_eq!(postcard::from_bytes(&bytes), Ok(failure));
    // A link is an empty text and a next one; the last but one says so in the last bytes but a few.
    let link = bytes.windows(2).rposition(|pair| pair == [0, 1]).expect("a link");
    let deep = [0, 1].repeat(1_000_000);
    bytes.splice(link..link, deep);
    assert!(postcard::from_bytes::<Failure>(&bytes).is_err());
    assert!(postcard::from_bytes::<Failure>(&bytes).is_err(), "a refusal leaves no level behind");
}
