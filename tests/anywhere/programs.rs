//! Processes whose executable is not the program that contains the workers.

use std::path::{Path, PathBuf};
use std::process::Command;

use forkpool::Server;

use crate::harness::*;
use crate::*;

tests! {
    a_program_that_the_dynamic_linker_was_told_to_run_starts_pools,
    a_process_that_does_not_divert_is_named_by_the_calls,
    a_process_that_never_diverts_fails_a_call_without_a_limit,
    a_library_in_a_foreign_program_says_that_it_cannot_start_pools,
    a_server_inside_of_a_runtime_says_so,
}

/// The dynamic linker of this program.
fn dynamic_linker() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("mappings");
    let path = |line: &str| line.find('/').map(|at| PathBuf::from(&line[at..]));
    let is_linker =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-"));
    maps.lines().filter_map(path).find(is_linker)
}

/// G7: when the server is started once more, the linker finds another program where the application's was.
fn a_process_that_does_not_divert_is_named_by_the_calls() {
    run(async {
        let Some(linker) = dynamic_linker() else {
            return println!("skipped: this program has no dynamic linker");
        };
        for (deaf, expected) in [
            ("ends", "it ended (exit status: 0)"),
            ("speaks", "wrote something else there"),
            ("hangs", "has not diverted ahead of its main yet"),
        ] {
            does_not_divert(&linker, &format!("heir deaf={deaf}"), expected);
        }
    });
}

/// G7: it never will, so the call does not wait.
fn a_process_that_never_diverts_fails_a_call_without_a_limit() {
    run(async {
        if let Some(linker) = dynamic_linker() {
            does_not_divert(&linker, "heir deaf=ends unlimited", "it ended (exit status: 0)");
            does_not_divert(&linker, "heir deaf=speaks unlimited", "wrote something else there");
        }
    });
}

/// Starts an application whose program is replaced by one that does not divert, and finds what its call says.
fn does_not_divert(linker: &Path, role: &str, expected: &str) {
    let ours = std::env::current_exe().expect("this program");
    let copy = Scratch::beside(&ours);
    std::fs::hard_link(ours, copy.get()).expect("a second name");
    let mut application = Application::start_through(linker, copy.get(), "an_application", role);
    application.says("ready");
    copy.remove();
    std::fs::copy(env!("CARGO_BIN_EXE_forkpool_deaf"), copy.get()).expect("another program");
    application.go_on();
    // What the other program prints is shown once, however often it is started.
    assert_eq!(application.says_either("what a foreign program prints", "failed: "), None, "{role}");
    let told = application.says_either("what a foreign program prints", "failed: ");
    let told = told.expect("it is not shown again");
    let name = copy.get().file_name().expect("a name").to_string_lossy().into_owned();
    assert!(told.contains(expected), "{told}");
    assert!(told.contains(&name) && told.contains("ahead of its main"), "{told}");
    assert!(application.ends().success());
    assert_eq!(application.family(), [0; 0]);
}

/// G7, S3
fn a_program_that_the_dynamic_linker_was_told_to_run_starts_pools() {
    run(async {
        let Some(linker) = dynamic_linker() else {
            return println!("skipped: this program has no dynamic linker");
        };
        let program = std::env::current_exe().expect("this program");
        let mut application = Application::start_through(&linker, &program, "an_application", "pool");
        let stopped = application.says_either("stopped", "ed: ");
        assert_eq!(stopped, None);
        assert!(application.ends().success());
        assert_eq!(application.family(), [0; 0]);
    });
}

/// G7: nothing of the foreign program is started again.
fn a_library_in_a_foreign_program_says_that_it_cannot_start_pools() {
    let _alone = alone();
    let beside = std::env::current_exe().expect("this program");
    let library = beside.with_file_name("libforkpool_anywhere.so");
    assert!(library.exists(), "{} was built with this test", library.display());
    let script = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).forkpool_guest()";
    let told = match Command::new("python3").args(["-c", script]).arg(&library).output() {
        Ok(told) => told,
        Err(error) => return println!("skipped: no foreign program that opens libraries, {error}"),
    };
    let (text, errors) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    for expected in ["refused: ", "python", "libforkpool_anywhere.so", "Server::run"] {
        assert!(text.contains(expected), "{text}\n{errors}");
    }
    assert!(told.status.success() && errors.is_empty(), "{errors}");
}

/// G7
fn a_server_inside_of_a_runtime_says_so() {
    let _alone = alone();
    let place = Place::new();
    let server = || Server::<Probe>::new(Setup::default()).listen(place.address()).expect("an address");
    let told = actix::System::new().block_on(async { server().run() }).expect_err("it is refused");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let again = runtime.block_on(async { server().run() }).expect_err("it is refused");
    for error in [told, again] {
        assert!(matches!(error, forkpool::ServerError::Runtime), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("runtime") && text.contains("fn main"), "{text}");
    }
    assert!(!place.0.exists());
}
