//! What a module must not name, and other rules that hold for every source file.

use crate::sources::{at, code, read, rust_files, without_comments_and_literals};

/// Longest file of code, in lines.
const WALL: usize = 500;

/// What a module must not name, and why. A row that ends in `.rs` is one file; any other is a folder with all that lies
/// below it.
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
    ("src/server", &["println!", "print!", "tracing::"], "telling.rs prints and logs"),
    ("src/worker", &["println!", "print!", "tracing::info!", "tracing::warn!"], "telling.rs prints and logs"),
    ("src/server", &["SystemTime"], "the clock of the day may leap"),
    ("src/worker", &["SystemTime"], "the clock of the day may leap"),
    ("src/channel", &["SystemTime"], "the clock of the day may leap"),
    ("src/sys", &["SystemTime"], "the clock of the day may leap"),
    ("actors/scheduler", &["SystemTime"], "the clock of the day may leap"),
    ("actors/session", &["SystemTime", "sleep_until"], "timers of threads::real_time keep to real time"),
    ("actors/supervisor", &["SystemTime", "sleep_until"], "timers of threads::real_time keep to real time"),
    ("actors/threads", &["SystemTime"], "the clock of the day may leap"),
    ("src/frozen_time.rs", &["Instant::now", "crate::sys"], "decisions are pure"),
    ("src/silence.rs", &["Instant::now", "crate::sys"], "decisions are pure"),
    ("src/server/compatibility.rs", &["Instant", "crate::sys", "OwnedFd"], "decisions are pure"),
    ("src/server/pending.rs", &["Instant::now", "crate::sys", "rustix"], "decisions are pure"),
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
    (
        "actors/scheduler/interventions.rs",
        &["actix", "Instant::now", "OwnedFd", "std::process"],
        "decisions are pure",
    ),
    ("actors/scheduler/queue.rs", &["actix", "Instant", "OwnedFd"], "decisions are pure"),
    ("actors/scheduler/waiting.rs", &["actix", "Instant::now", "OwnedFd"], "decisions are pure"),
    ("actors/api/pool.rs", &["pid", "Lease", "HostChannel", "crate::sys"], "the pool knows no processes"),
    (
        "actors/context",
        &["Scheduler", "Session", "Pool", "Checkout", "worker_api"],
        "a context knows no pool",
    ),
    ("actors/api/checkout.rs", &["OwnedFd", "AsFd", "crate::sys"], "a checkout is lent a channel"),
    ("actors/session", &["OwnedFd", "AsFd", "crate::sys"], "a checkout is lent a channel"),
    (
        "actors/session/machine",
        &["actix", "tokio", "Instant::now", "Mutex", "HostChannel", "Scheduler", "Lease", "WorkerHandle"],
        "decisions are pure",
    ),
    ("actors/lane", &["OwnedFd", "AsFd", "crate::sys"], "a lane is lent a channel"),
    (
        "actors/lane/state.rs",
        &["actix", "tokio", "Instant::now", "Mutex", "HostChannel", "Scheduler", "Lease", "WorkerHandle"],
        "decisions are pure",
    ),
    ("actors/calls", &["Session", "Machine", "Waiter", "actix"], "a call does not know who runs it"),
    ("actors/supervisor", &["CallQueue", "Session", "PendingCall"], "the supervisor knows no calls"),
    ("actors/metrics", &["Instant", "crate::sys", "Session", "WorkerHandle"], "metrics read snapshots"),
    ("actors/console", &["Session", "WorkerHandle", "Lease"], "a console shows snapshots"),
    ("actors/scheduler", &["actors::supervisor"], "the scheduler commands and the supervisor obeys"),
];

#[test]
fn no_module_names_what_it_must_not_know() {
    for (place, words, reason) in FORBIDDEN {
        for file in covered(place) {
            let code = code(&file);
            for word in *words {
                assert!(!code.contains(word), "{} names {word}, but {reason}", file.display());
            }
        }
    }
}

/// A word that nothing is called any more forbids nothing: its row has to follow a renaming.
#[test]
fn every_word_that_is_forbidden_somewhere_stands_elsewhere() {
    let files = ["src", "actors", "examples", "benches"].into_iter().flat_map(rust_files);
    let all: String = files.map(|file| code(&file)).collect();
    for (place, words, _) in FORBIDDEN {
        for word in *words {
            assert!(all.contains(word), "{place} must not name {word}, which is nowhere");
        }
    }
}

/// Returns the files that a row stands for, of which there must be some.
fn covered(place: &str) -> Vec<std::path::PathBuf> {
    let path = at(place);
    if place.ends_with(".rs") {
        assert!(path.is_file(), "{place} of FORBIDDEN is not there");
        let folder = path.with_extension("");
        assert!(!folder.exists(), "{place} of FORBIDDEN leaves out {}: name the folder", folder.display());
        return vec![path];
    }
    assert!(path.is_dir(), "{place} of FORBIDDEN is no folder; a file ends in .rs");
    let files = rust_files(place);
    assert!(!files.is_empty(), "{place} of FORBIDDEN holds no code");
    files
}

#[test]
fn the_process_side_knows_neither_actix_nor_tokio() {
    // The one module of `sys` that is built for the host side alone is where tokio is met.
    let exempt = at("src/sys/reactor.rs");
    assert!(exempt.is_file(), "{} is exempt and not there", exempt.display());
    for file in rust_files("src").iter().filter(|file| **file != exempt) {
        let code = code(file);
        for word in ["actix", "tokio"] {
            assert!(!code.contains(word), "{} names {word}", file.display());
        }
    }
}

#[test]
fn unsafe_code_lives_in_sys_alone_and_every_block_says_why() {
    let sys = at("src/sys");
    for file in ["src", "actors", "examples", "tests", "benches"].into_iter().flat_map(rust_files) {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in without_comments_and_literals(&text).lines().enumerate() {
            let opens = line.contains("unsafe {");
            assert!(
                !opens || file.starts_with(&sys),
                "{}:{} is unsafe outside of sys",
                file.display(),
                number + 1
            );
            let explained =
                lines[number.saturating_sub(6)..=number].iter().any(|line| line.contains("SAFETY:"));
            assert!(!opens || explained, "{}:{} does not say why it is sound", file.display(), number + 1);
        }
    }
}

#[test]
fn no_file_is_longer_than_the_wall() {
    for file in ["src", "actors", "tests", "benches", "examples"].into_iter().flat_map(rust_files) {
        let lines = read(&file).lines().count();
        assert!(lines <= WALL, "{} has {lines} lines", file.display());
    }
}

#[test]
fn nothing_is_left_to_be_done_and_no_lint_is_silenced_without_a_reason() {
    for file in ["src", "actors", "examples"].into_iter().flat_map(rust_files) {
        let code = code(&file);
        for word in ["todo!", "unimplemented!", "dbg!"] {
            assert!(!code.contains(word), "{} has {word}", file.display());
        }
        for attribute in code.split("#[allow(").skip(1).chain(code.split("#[expect(").skip(1)) {
            let attribute = attribute.split(")]").next().unwrap_or_default();
            assert!(attribute.contains("reason"), "{}: a lint is silenced without a reason", file.display());
        }
    }
}

/// A module is a file `x.rs` or a folder `x/` with a `mod.rs`, and never both. The macros are a package of their own, whose
/// root is `lib.rs`.
#[test]
fn every_module_that_is_a_folder_has_its_mod_rs() {
    for room in ["src", "actors"].map(at) {
        for file in rust_files(&room.display().to_string()) {
            let folder = file.with_extension("");
            assert!(!folder.is_dir(), "{} belongs into {}/mod.rs", file.display(), folder.display());
            let root = if file.starts_with(at("actors/macros")) { at("actors/macros") } else { room.clone() };
            let above = file.ancestors().skip(1).take_while(|folder| **folder != root);
            for folder in above {
                assert!(folder.join("mod.rs").is_file(), "{} has no mod.rs", folder.display());
            }
        }
    }
}
