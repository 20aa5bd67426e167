//! The walls of the house: rules that are worth saying are tests.

use std::fs;
use std::path::{Path, PathBuf};

/// The promises that this version keeps, each named by a test.
const PROMISES: &[&str] = &[
    "W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W10", "W11", "W12", //
    "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "P11", "P12", "P13", //
    "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "C10", //
    "T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", //
    "E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8", "E9", //
    "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11", //
    "L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8", "L9", //
    "X1", "X2", "X3", "X4", "X5", "X6", "X7", "X8", "X9", "X10", "X11",
];

/// Longest file of code, in lines.
const WALL: usize = 500;

/// What a room must never name, and why.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("src/config", &["std::env", "std::fs", "Instant", "SystemTime"], "options are plain values"),
    ("src/address.rs", &["std::fs", "std::io", "std::net", "crate::sys"], "an address is a text"),
    ("src/failure", &["tracing", "println!"], "a failure does not log"),
    ("src/request_log", &["std::fs", "std::io", "println!", "tracing"], "a log writes nowhere"),
    ("src/wire", &["crate::sys", "crate::channel", "std::io", "Instant", "rustix"], "messages do not move"),
    ("src/channel", &["wire::call", "wire::control"], "a channel knows no message"),
    (
        "src/sys",
        &["crate::wire", "crate::channel", "crate::worker", "tracing"],
        "system calls know no frames",
    ),
    ("src/server", &["actix", "tokio", "std::thread::spawn", "crate::actors"], "the server has one thread"),
    ("src/worker", &["actix", "tokio", "std::thread::spawn", "crate::actors"], "a worker has one thread"),
    ("src/server/compatibility.rs", &["Instant", "crate::sys", "OwnedFd"], "decisions are pure"),
    ("src/server/watchdog.rs", &["Instant", "crate::sys", "rustix"], "decisions are pure"),
    ("actors/scheduler/quarantine.rs", &["actix", "Instant::now", "OwnedFd"], "decisions are pure"),
    (
        "actors/scheduler/worker_state.rs",
        &["actix", "Instant::now", "OwnedFd", "std::process"],
        "decisions are pure",
    ),
    (
        "actors/scheduler/state.rs",
        &["actix", "Instant::now", "OwnedFd", "std::process"],
        "decisions are pure",
    ),
    (
        "actors/scheduler/expiry.rs",
        &["actix", "Instant::now", "OwnedFd", "std::process"],
        "decisions are pure",
    ),
    (
        "actors/scheduler/rollover.rs",
        &["actix", "Instant::now", "OwnedFd", "std::process"],
        "decisions are pure",
    ),
    ("actors/scheduler/queue.rs", &["actix", "Instant", "OwnedFd"], "decisions are pure"),
    ("actors/api/pool.rs", &["pid", "Lease", "HostChannel", "crate::sys"], "the pool knows no processes"),
    (
        "actors/context",
        &["Scheduler", "Session", "Pool", "Checkout", "worker_api"],
        "a context knows no pool",
    ),
    ("actors/api/checkout.rs", &["OwnedFd", "AsFd", "crate::sys"], "a checkout is lent a channel"),
    ("actors/session", &["OwnedFd", "AsFd", "crate::sys"], "a checkout is lent a channel"),
    ("actors/supervisor/mod.rs", &["wire::call", "CallQueue", "Session"], "the supervisor knows no calls"),
];

#[test]
fn no_room_names_what_it_must_not_know() {
    for (room, words, reason) in FORBIDDEN {
        let files = sources(room);
        assert!(!files.is_empty(), "{room} is there");
        for file in files {
            let code = code(&file);
            for word in *words {
                assert!(!code.contains(word), "{} names {word}, but {reason}", file.display());
            }
        }
    }
}

#[test]
fn the_process_side_knows_neither_actix_nor_tokio() {
    // The one module of `sys` that is built for the host side alone is where tokio is met.
    let exempt = Path::new("src/sys/reactor.rs");
    for file in sources("src").iter().filter(|file| !file.ends_with(exempt)) {
        let code = code(file);
        for word in ["actix", "tokio"] {
            assert!(!code.contains(word), "{} names {word}", file.display());
        }
    }
}

#[test]
fn unsafe_code_lives_in_sys_alone_and_every_block_says_why() {
    for file in ["src", "actors", "examples", "tests", "benches"].into_iter().flat_map(sources) {
        let text = read(&file);
        let is_sys = file.to_string_lossy().contains("src/sys/");
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let opens = strip_comment(line).contains(concat!("unsafe", " {"));
            assert!(!opens || is_sys, "{}:{} is unsafe outside of sys", file.display(), at + 1);
            let explained = lines[at.saturating_sub(6)..=at].iter().any(|line| line.contains("SAFETY:"));
            assert!(!opens || explained, "{}:{} does not say why it is sound", file.display(), at + 1);
        }
    }
}

#[test]
fn no_file_is_longer_than_the_wall() {
    for file in ["src", "actors", "tests", "benches", "examples"].into_iter().flat_map(sources) {
        let lines = read(&file).lines().count();
        assert!(lines <= WALL, "{} has {lines} lines", file.display());
    }
}

#[test]
fn nothing_is_left_to_be_done_and_no_lint_is_silenced_without_a_reason() {
    for file in ["src", "actors", "examples"].into_iter().flat_map(sources) {
        let code = code(&file);
        for word in [concat!("todo", "!"), concat!("unimplemented", "!"), concat!("dbg", "!")] {
            assert!(!code.contains(word), "{} has {word}", file.display());
        }
        for attribute in code.split("#[allow(").skip(1).chain(code.split("#[expect(").skip(1)) {
            let attribute = attribute.split(")]").next().unwrap_or_default();
            assert!(attribute.contains("reason"), "{}: a lint is silenced without a reason", file.display());
        }
    }
}

#[test]
fn every_promise_is_named_by_a_test() {
    let proofs: String =
        ["tests", "src", "actors"].into_iter().flat_map(sources).map(|file| proofs(&file)).collect();
    let named: Vec<&str> =
        proofs.split(|char: char| !char.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let missing: Vec<&&str> = PROMISES.iter().filter(|promise| !named.contains(promise)).collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
}

#[test]
fn errors_cross_threads() {
    fn crosses<T: std::error::Error + Send + Sync + 'static>() {}
    crosses::<forkpool::Failure>();
    crosses::<forkpool::StartError>();
    crosses::<forkpool::config::OptionError>();
}

/// The doc comments right above `#[test]` attributes, where tests name what they prove, or above the functions that a
/// test program with a `main` of its own lists with `tests!`.
fn proofs(file: &Path) -> String {
    let text = read(file);
    let listed: Vec<&str> = match text.split_once("tests! {").and_then(|(_, rest)| rest.split_once('}')) {
        Some((list, _)) => list.split(',').map(str::trim).collect(),
        None => Vec::new(),
    };
    let is_listed = |line: &str| {
        let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        name.is_some_and(|name| listed.contains(&name))
    };
    let mut found = String::new();
    let mut comment = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(line) = line.strip_prefix("///") {
            comment.push_str(line);
            comment.push('\n');
        } else if line.starts_with("#[") && line.contains("test]") || is_listed(line) {
            found.push_str(&comment);
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

/// Rust files below a folder, or the file itself and the folder of the same name.
fn sources(place: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let place = root.join(place);
    if place.extension().is_none() {
        collect(&place, &mut found);
        let file = place.with_extension("rs");
        found.extend(file.is_file().then_some(file));
    } else {
        found.push(place);
    }
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A file's lines without comments and without its own tests.
fn code(file: &Path) -> String {
    if file.ends_with("tests.rs") {
        return String::new();
    }
    let text = read(file);
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().map(|line| strip_comment(line).to_owned() + "\n").collect()
}

fn strip_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}
