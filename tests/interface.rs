//! What does not compile, and that it says why in words a user can act on.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that the programs under `tests/refused` use.
const CRATES: [&str; 3] = ["forkpool", "actix", "serde"];

#[test]
fn a_message_outside_the_interface_does_not_compile_and_the_error_shows_the_mend() {
    let error = compile("message_outside_the_interface").unwrap_err();
    for part in [
        "`Forgotten` is not in the interface of the worker `Hasher`",
        "no checkout or pool of `Hasher` accepts this message",
        "add `Forgotten` to `forkpool::interface!(Hasher { … });`, with a `Handler<Forgotten>` for the worker",
    ] {
        assert!(error.contains(part), "{part:?} is not in:\n{error}");
    }
}

#[test]
fn a_worker_without_an_interface_does_not_compile_and_the_error_shows_the_mend() {
    let error = compile("no_interface").unwrap_err();
    for part in [
        "the messages of the worker `Hasher` are not declared",
        "add `forkpool::interface!(Hasher { … });` beside its definition, with the messages it handles",
    ] {
        assert!(error.contains(part), "{part:?} is not in:\n{error}");
    }
}

#[test]
fn an_error_that_cannot_carry_a_failure_does_not_compile_and_the_error_shows_the_mend() {
    let error = compile("error_without_failure").unwrap_err();
    for part in [
        "`HashError` cannot be made from a `forkpool::Failure`",
        "a crash, panic or timeout of the worker must become an error of this type",
        "implement `From<forkpool::Failure>` for `HashError`",
        "forkpool::interface!(Hasher { Hash });",
    ] {
        assert!(error.contains(part), "{part:?} is not in:\n{error}");
    }
}

/// What only types tell of methods stands at the user's own line, and so does what the compiler says first.
#[test]
fn what_types_tell_of_methods_stands_at_their_own_lines() {
    for (program, token, part) in [
        ("method_with_a_foreign_argument", "Password)", "`Password` cannot be sent to another process"),
        ("method_with_a_foreign_result", "Result<Crypted", "`Crypted` cannot be sent to another process"),
        (
            "method_with_an_error_without_failure",
            "Result<String, HashError>",
            "`HashError` cannot be made from a `forkpool::Failure`",
        ),
        (
            "method_without_a_result",
            "Crypted {",
            "the result of a call is a `Result<T, E>`, and `String` is another type",
        ),
    ] {
        let source = std::fs::read_to_string(source(program)).expect("the program is there");
        let lines = source.lines().enumerate();
        let (row, column) = lines
            .filter_map(|(row, line)| line.find(token).map(|column| (row + 1, column + 1)))
            .last()
            .expect("the token is there");
        let place = format!("{program}.rs:{row}:{column}");
        let error = compile(program).unwrap_err();
        let mut errors = error.split("\n\n").filter(|error| error.starts_with("error"));
        let is_told = errors.clone().any(|error| error.contains(&place) && error.contains(part));
        assert!(is_told, "{part:?} is not at {place}:\n{error}");
        let line = format!("{program}.rs:{row}:");
        assert!(errors.next().is_some_and(|first| first.contains(&line)), "the first is elsewhere:\n{error}");
    }
}

fn source(program: &str) -> String {
    format!("{}/tests/refused/{program}.rs", env!("CARGO_MANIFEST_DIR"))
}

/// Compiles one program under `tests/refused` against the library under test; what the compiler says if it
/// refuses.
fn compile(program: &str) -> Result<(), String> {
    let source = source(program);
    let out = std::env::temp_dir().join(format!("forkpool-{program}-{}.rmeta", std::process::id()));
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc
        .args(["--edition", "2024", "--crate-type", "bin", "--emit", "metadata", "-o"])
        .arg(&out)
        .arg(&source);
    for (name, file) in libraries() {
        let folder = file.parent().unwrap_or(Path::new("."));
        rustc.arg("-L").arg(format!("dependency={}", folder.display()));
        rustc.arg("--extern").arg(format!("{name}={}", file.display()));
    }
    let output = rustc.output().expect("rustc runs");
    // Where it was refused there is no file.
    let _ = std::fs::remove_file(out);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The libraries that this test was linked with: building it again finds them fresh and names them.
fn libraries() -> Vec<(&'static str, PathBuf)> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["test", "--no-run", "--offline", "--test", "interface", "--message-format", "json"]);
    let this = std::env::current_exe().expect("this program's path");
    if this.components().any(|part| part.as_os_str() == "release") {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    let listed = String::from_utf8_lossy(&output.stdout);
    let artifacts: Vec<serde_json::Value> =
        listed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    CRATES
        .into_iter()
        .map(|name| {
            let file = artifacts.iter().find_map(|artifact| library(artifact, name));
            (name, file.unwrap_or_else(|| panic!("no library {name} among cargo's artifacts")))
        })
        .collect()
}

fn library(artifact: &serde_json::Value, name: &str) -> Option<PathBuf> {
    let target = &artifact["target"];
    if target["name"] != name || target["kind"][0] != "lib" || artifact["profile"]["test"] != false {
        return None;
    }
    let files = artifact["filenames"].as_array()?;
    files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".rlib")).map(PathBuf::from)
}
