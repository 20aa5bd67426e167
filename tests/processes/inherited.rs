//! What a server and its workers inherit from the application, and what not.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use nix::sys::signal::{SigSet, SigmaskHow};

/// An application that is started in an unusual way, and prints what its processes have of that.
#[test]
#[ignore = "an application that other tests run"]
fn an_application() {
    let Some(role) = role() else {
        return;
    };
    // Standard output may be closed, or not be for it.
    let mut printed = std::fs::File::from(rustix::io::dup(std::io::stdout()).expect("a descriptor"));
    let mut print = |line: String| std::io::Write::write_all(&mut printed, line.as_bytes()).expect("a line");
    if role == "closed" {
        for number in 0..=2 {
            nix::unistd::close(number).expect("a standard descriptor");
        }
    }
    System::new().block_on(async {
        let pool = pool_of_one();
        let worker = answer(pool.send(Pid)).await.expect("a worker");
        match role.as_str() {
            "variables" => {
                for name in MANAGERS.into_iter().chain([USERS]) {
                    let has = answer(pool.send(Variable(name.to_owned()))).await.expect("a variable");
                    print(format!("{name}: {has:?}\n"));
                }
            }
            "closed" => print(format!("{:?}\n", descriptors_of(worker))),
            "ignored" => print(format!("{:?}\n", signal_masks(worker))),
            other => panic!("no part {other:?}"),
        }
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
    print("over\n".to_owned());
    // The test harness would print into what has the number of standard output by now.
    std::process::exit(0);
}

/// G12: whatever thread starts the pool, or has the server started again.
#[test]
fn a_server_and_its_workers_block_no_signal_that_the_starting_thread_blocks() {
    run(async {
        let mut before = SigSet::empty();
        let all = Some(&SigSet::all());
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_BLOCK, all, Some(&mut before)).expect("a mask");
        let pool = pool_of_one();
        before.thread_set_mask().expect("a mask");
        let first = the_server().await;
        let mut server = first;
        for _ in 0..2 {
            let checkout = pool.checkout().start();
            let worker = answer(checkout.send(Pid)).await.expect("a worker");
            let program = answer(checkout.send(StartChild)).await.expect("a child");
            assert_eq!(signal_masks(worker)["SigBlk"], 0);
            until("it is executed", || comm(program) == "sleep").await;
            assert_eq!(signal_masks(program)["SigBlk"], 0);
            let read_as_bytes = [1, 2, 15, 17].map(|signal| 1_u64 << (signal - 1));
            // It blocks all of them while it forks.
            let reads: u64 = read_as_bytes.iter().sum();
            until("the server blocks what it reads", || signal_masks(server)["SigBlk"] == reads).await;
            drop(checkout);
            if server == first {
                kill(server);
                until("there is another server", || servers().len() == 1 && servers() != [first]).await;
                server = the_server().await;
                kill(worker);
                gone(worker).await;
            }
        }
    });
}

/// G12: the real-time signals as well, which few shells can have ignored.
#[test]
fn a_worker_ignores_no_real_time_signal_that_its_application_ignores() {
    run(async {
        let words = ["env", "--ignore-signal=SIGRTMIN+3,SIGUSR1"];
        if !std::process::Command::new(words[0])
            .args([words[1], "true"])
            .status()
            .is_ok_and(|it| it.success())
        {
            return println!("skipped: this env cannot have signals ignored");
        }
        let mut application = Application::start_within(&words, "inherited::an_application", "ignored");
        let masks = application.says("{");
        let ignored = masks.split("\"SigIgn\": ").nth(1).and_then(|it| it.split(['}', ',']).next());
        let ignored: u64 = ignored.expect("a mask").parse().expect("a number");
        // Signals 32 and 33 are the C library's own.
        let pipe = 1 << (rustix::process::Signal::PIPE.as_raw() - 1);
        assert_eq!(ignored & !(0b11 << 31), pipe, "{masks}");
        assert!(application.ends().success());
    });
}

/// What a service manager sets for one process.
const MANAGERS: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
];

/// What is the user's own.
const USERS: &str = "LISTEN_ADDRESS";

/// G12: what a service manager tells one process is for no other.
#[test]
fn a_worker_has_no_variable_of_a_service_manager() {
    run(async {
        let variables: Vec<String> =
            MANAGERS.into_iter().chain([USERS]).map(|name| format!("{name}=1")).collect();
        let words: Vec<&str> = ["env"].into_iter().chain(variables.iter().map(String::as_str)).collect();
        let mut application = Application::start_within(&words, "inherited::an_application", "variables");
        for name in MANAGERS {
            assert_eq!(application.says(&format!("{name}: ")), "(None, None)", "{name}");
        }
        assert_eq!(application.says(&format!("{USERS}: ")), r#"(Some("1"), Some("1"))"#);
        assert!(application.ends().success());
    });
}

/// G12, W9: the next descriptors that are opened are not taken for standard ones.
#[test]
fn a_worker_of_an_application_with_closed_standard_descriptors_has_its_own() {
    run(async {
        let mut application = Application::start("inherited::an_application", "closed");
        let descriptors = application.says("{");
        assert!(descriptors.starts_with("0: \"/dev/null\", 1: \"pipe:"), "{descriptors}");
        let count = descriptors.matches("\": ").count() + descriptors.matches(": \"").count();
        assert_eq!(count, 3 + channel_parts(), "{descriptors}");
        application.says("over");
        assert!(application.ends().success());
    });
}

/// G12: the kernel takes a worker first, and the application last.
#[test]
fn a_worker_is_a_likelier_victim_than_its_server_and_that_than_its_application() {
    run(async {
        let pool = pool_of_one();
        let worker = answer(pool.send(Pid)).await.expect("a worker");
        let scores = [std::process::id(), the_server().await, worker].map(oom_score);
        let [application, server, _] = scores;
        let expected = [application, (application + 200).min(1000), (server + 200).min(1000)];
        assert_eq!(scores, expected);
        let program = answer(pool.send(StartChild)).await.expect("a child");
        assert_eq!(oom_score(program), scores[2]);
    });
}

/// G12: the library changes no flag of what the application shares with others, and shares none with its workers.
#[test]
fn a_worker_waits_for_its_outputs_whether_or_not_its_application_does() {
    run(async {
        for wanted in [true, false] {
            let (_reader, writer) = std::io::pipe().expect("a pipe");
            rustix::io::ioctl_fionbio(&writer, wanted).expect("a flag");
            let before = rustix::io::dup(std::io::stderr()).expect("a descriptor");
            rustix::stdio::dup2_stderr(&writer).expect("a standard descriptor");
            let pool = pool_of_one();
            let worker = answer(pool.send(Pid)).await.expect("a worker");
            let server = the_server().await;
            let flags =
                [(worker, 1), (worker, 2), (server, 2)].map(|(pid, number)| is_nonblocking(pid, number));
            rustix::stdio::dup2_stderr(&before).expect("a standard descriptor");
            assert_eq!(flags, [false, false, wanted]);
            let kept = rustix::fs::fcntl_getfl(writer.as_fd()).expect("flags");
            assert_eq!(kept.contains(rustix::fs::OFlags::NONBLOCK), wanted);
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// Whether reads and writes of another process's descriptor do not wait.
fn is_nonblocking(pid: u32, number: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).expect("a descriptor");
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
    let flags = u32::from_str_radix(flags.trim(), 8).expect("a number");
    flags & rustix::fs::OFlags::NONBLOCK.bits() != 0
}
