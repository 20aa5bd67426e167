//! Calls that the kernel always refuses, and files that are not there.

use std::io::Read;
use std::time::Duration;

use forkpool::prelude::*;

use crate::harness::*;
use crate::*;

tests! {
    a_pool_does_without_what_it_can_do_without,
    a_pool_works_in_a_container_without_the_leader_of_its_session,
    a_warning_of_every_worker_is_printed_at_powers_of_ten,
    a_start_names_the_call_that_it_cannot_do_without,
    a_call_names_what_its_fork_server_cannot_do_without,
    a_server_names_the_call_that_it_cannot_do_without,
    a_pool_needs_no_null_device_and_says_that_it_needs_proc,
    a_server_without_proc_or_null_device_passes_on_no_descriptor,
    a_server_that_cannot_wait_says_so_and_is_replaced,
}

/// The errors of a call that a kernel does not have, and of one that a filter refuses.
const ERRORS: [(&str, &str); 2] =
    [("ENOSYS", "Function not implemented"), ("EPERM", "Operation not permitted")];

/// G7: no worker is killed for an optimisation.
fn a_pool_does_without_what_it_can_do_without() {
    run(async {
        for call in ["close_range", "madvise", "pidfd_send_signal", "prctl", "pwritev2"] {
            for (error, _) in ERRORS {
                let mut application = application(&format!("pool limit=15 refuse={call}:{error}"));
                let served = application.says_either("stopped", "ailed: ");
                assert_eq!(served, None, "without {call}, {error}");
                assert!(application.ends().success(), "without {call}, {error}");
                assert_eq!(application.family(), [0; 0], "without {call}, {error}");
            }
        }
    });
}

/// G7, S1: the leader of its session and the processes around it have no numbers in its namespace.
fn a_pool_works_in_a_container_without_the_leader_of_its_session() {
    let options = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let tried = std::process::Command::new(options[0]).args(&options[1..]).arg("true").status();
    if !tried.is_ok_and(|status| status.success()) {
        return println!("skipped: this process may not make namespaces of processes");
    }
    run(async {
        let mut application = Application::start_within(&options, "an_application", "pool limit=15");
        assert_eq!(application.says_either("stopped", "ailed: "), None);
        assert!(application.ends().success());
    });
}

/// G7: nine workers would print the same line, and so does the first.
fn a_warning_of_every_worker_is_printed_at_powers_of_ten() {
    run(async {
        let (mut printed, stderr) = std::io::pipe().expect("a pipe");
        let mut application =
            Application::start_with_stderr(stderr, "an_application", "crowd refuse=prctl:EPERM");
        assert_eq!(application.says_either("stopped", "skipped: "), None);
        assert!(application.ends().success());
        let mut text = String::new();
        printed.read_to_string(&mut text).expect("a text");
        let warnings = text.lines().filter(|line| line.contains("hung_worker_timeout is not enforced"));
        assert_eq!(warnings.count(), 1, "{text}");
    });
}

/// G7
fn a_start_names_the_call_that_it_cannot_do_without() {
    run(async {
        for call in ["pidfd_open", "memfd_create", "setpgid"] {
            for (error, text) in ERRORS {
                let mut application = application(&format!("pool refuse={call}:{error}"));
                let told = application.says("refused: ");
                assert!(told.contains(&format!("refuses {call}")) && told.contains(text), "{told}");
                assert!(application.ends().success());
            }
        }
    });
}

/// G7: what only the fork server does is found there, and the first call says so.
fn a_call_names_what_its_fork_server_cannot_do_without() {
    run(async {
        for (error, text) in ERRORS {
            let mut application = application(&format!("pool refuse=signalfd:{error}"));
            let told = application.says("failed: ");
            assert!(told.contains("signalfd") && told.contains(text), "{told}");
            assert!(application.ends().success());
        }
    });
}

/// G7
fn a_server_names_the_call_that_it_cannot_do_without() {
    run(async {
        let place = Place::new();
        for call in ["pidfd_open", "signalfd"] {
            for (error, text) in ERRORS {
                let mut server = application(&format!("server refuse={call}:{error}"));
                let told = server.says("refused: ");
                assert!(told.contains(&format!("refuses {call}")) && told.contains(text), "{told}");
                assert!(server.ends().success());
                assert!(!place.0.exists(), "it leaves no socket");
            }
        }
    });
}

/// G7
fn a_pool_needs_no_null_device_and_says_that_it_needs_proc() {
    run(async {
        let mut application = application("pool without=dev");
        match application.says_either("stopped", "skipped: ") {
            Some(reason) => return println!("skipped: no namespace for mounts, {reason}"),
            None => assert!(application.ends().success()),
        }
        let mut application = crate::application("pool without=proc");
        let told = application.says("refused: ");
        assert!(told.contains("/proc") && told.contains("No such file or directory"), "{told}");
        assert!(application.ends().success());
    });
}

/// G7, W9: the server's own descriptors are found without `/proc`, and closed in its workers.
fn a_server_without_proc_or_null_device_passes_on_no_descriptor() {
    run(async {
        for role in ["server without=proc", "server without=dev", "server refuse=close_range:ENOSYS"] {
            let place = Place::new();
            let _open = std::fs::File::open("/proc/self/exe").expect("a file");
            let mut server = application(role);
            let pool = Pool::<Probe>::connect(place.address()).workers(1..=1).transport(transport());
            let pool = pool.start().expect("the pool starts");
            let Ok(worker) = answer(pool.send_within(Duration::from_secs(5), Pid)).await else {
                let reason = server.says("skipped: ");
                bounded("the end", pool.stop(Duration::ZERO)).await;
                return println!("skipped: no namespace for mounts, {reason}");
            };
            let held: Vec<String> = descriptors_of(worker).into_values().collect();
            let foreign = |held: &&String| held.contains("sock.lock") || held.contains("eventpoll");
            assert_eq!(held.iter().find(foreign), None, "{role}: {held:?}");
            let most = if transport() == forkpool::Transport::Socket { 4 } else { 5 };
            assert_eq!(held.len(), most, "{role}: {held:?}");
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// G2: the limit of descriptors is lowered below what the server waits for.
fn a_server_that_cannot_wait_says_so_and_is_replaced() {
    run(async {
        let (mut printed, stderr) = std::io::pipe().expect("a pipe");
        let mut application = Application::start_with_stderr(stderr, "an_application", "starved");
        assert_eq!(application.says_either("stopped", "failed: "), None);
        assert!(application.ends().success());
        let mut text = String::new();
        printed.read_to_string(&mut text).expect("a text");
        assert!(
            text.contains("forkpool: the fork server cannot wait for events: poll: Invalid argument"),
            "{text}"
        );
    });
}
