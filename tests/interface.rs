//! What does not compile, and that it says why in words a user can act on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Crates that the programs under `tests/refused` use.
const CRATES: [&str; 3] = ["forkpool", "actix", "serde"];

const PROGRAMS: &str = "tests/refused";

/// What the compiler says after its last error, of all errors together.
const ENDS: [&str; 3] =
    ["error: aborting due to", "For more information about this error", "Some errors have detailed"];

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
        let source = std::fs::read_to_string(root().join(source(program))).expect("the program is there");
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

/// The programs of `tests/refused/macros` and all that the compiler says of each: what cannot be a call is refused at
/// its own line. After a change of an error text `FORKPOOL_WRITE_REFUSALS=1 cargo test --test interface` writes the files.
#[test]
fn what_cannot_be_a_call_is_refused_at_its_own_line() {
    let folder = std::fs::read_dir(root().join(PROGRAMS).join("macros")).expect("the programs are there");
    let files = folder.map(|entry| entry.expect("the folder can be read").path());
    let programs: Vec<PathBuf> = files.filter(|file| file.extension() == Some("rs".as_ref())).collect();
    assert!(!programs.is_empty(), "there are no programs");
    for program in programs {
        let name = program.file_stem().expect("a file has a name").to_string_lossy();
        let told = compile(&format!("macros/{name}")).expect_err(&format!("{name} is refused"));
        // The compiler's last lines count the errors and name the explanations of their numbers.
        let told = told.split("\n\n").filter(|part| !ENDS.iter().any(|end| part.starts_with(end)));
        let told = told.collect::<Vec<_>>().join("\n\n").trim_end().to_owned() + "\n";
        let file = program.with_extension("stderr");
        if std::env::var_os("FORKPOOL_WRITE_REFUSALS").is_some() {
            std::fs::write(&file, &told).expect("the file can be written");
        }
        let expected = std::fs::read_to_string(&file).expect("what the compiler says is there");
        assert!(told == expected, "the compiler says of {name}:\n{told}\ninstead of:\n{expected}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The source of a program, as the compiler names it too.
fn source(program: &str) -> PathBuf {
    Path::new(PROGRAMS).join(program).with_extension("rs")
}

/// Compiles one program under `tests/refused` against the library under test; what the compiler says if it refuses.
fn compile(program: &str) -> Result<(), String> {
    static LIBRARIES: OnceLock<Vec<(&str, PathBuf)>> = OnceLock::new();
    let out = format!("forkpool-{}-{}.rmeta", program.replace('/', "-"), std::process::id());
    let out = std::env::temp_dir().join(out);
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc
        .current_dir(root())
        .args(["--edition", "2024", "--crate-type", "bin", "--emit", "metadata", "--diagnostic-width", "140"])
        .arg("-o")
        .arg(&out)
        .arg(source(program));
    for (name, file) in LIBRARIES.get_or_init(libraries) {
        let folder = file.parent().unwrap_or(Path::new("."));
        rustc.arg("-L").arg(format!("dependency={}", folder.display()));
        rustc.arg("--extern").arg(format!("{name}={}", file.display()));
    }
    let output = rustc.output().expect("rustc runs");
    // Where it was refused there is no file.
    let _ = std::fs::remove_file(out);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The libraries that this test was linked with: building it again finds them fresh and names them. With other features
/// it would build them anew, so `FORKPOOL_TEST_FEATURES` has those of the command that runs the test.
fn libraries() -> Vec<(&'static str, PathBuf)> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["test", "--no-run", "--offline", "--test", "interface", "--message-format", "json"]);
    if let Some(features) = std::env::var_os("FORKPOOL_TEST_FEATURES") {
        cargo.arg("--features").arg(features);
    }
    // A build script that reads what cargo says of a package to this test as well would run again, and all that depends
    // on it would be built anew: here, and once more by the next command.
    let of_this = ["CARGO_PKG_", "CARGO_MANIFEST_"];
    for (name, _) in std::env::vars_os() {
        if of_this.iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes())) {
            cargo.env_remove(name);
        }
    }
    let this = std::env::current_exe().expect("this program's path");
    if this.components().any(|part| part.as_os_str() == "release") {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(root()).output().expect("cargo runs");
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
