//! Signals that ask a server to stop, also when its workers get them, and what these inherit of it.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::*;
use crate::*;

tests! {
    a_stop_signal_to_a_server_and_its_workers_lets_running_calls_finish,
    a_hang_up_together_with_sigterm_does_not_cut_a_drain_short,
    a_server_that_ignores_hang_ups_goes_on,
    a_worker_inherits_no_mask_and_no_disposition_of_its_server,
    a_worker_is_a_likelier_victim_than_its_server,
    a_worker_has_no_terminal_of_its_server,
}

/// G6, S1
fn a_stop_signal_to_a_server_and_its_workers_lets_running_calls_finish() {
    run(async {
        for stop in [Signal::TERM, Signal::HUP] {
            let place = Place::new();
            let mut server = serving("");
            let pool = place.pool().workers(2..=2).start().expect("the pool starts");
            settled(&pool, 2).await;
            let file = Scratch::path();
            let call = actix_rt::spawn(pool.send(AwaitFile(file.get().to_owned())));
            until("it runs", || pool.stats().leased == 1).await;
            for worker in children(server.pid()) {
                signal(worker, stop);
            }
            signal(server.pid(), stop);
            server.tells("takes no more work").await;
            std::fs::write(file.get(), "").expect("a file");
            assert!(bounded("an answer", call).await.expect("a task").is_ok(), "{stop:?}");
            server.tells("good bye").await;
            assert!(server.ends().success());
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// G6: a service manager may send both (`SendSIGHUP=yes`).
fn a_hang_up_together_with_sigterm_does_not_cut_a_drain_short() {
    run(async {
        let place = Place::new();
        let mut server = serving("");
        let (pool, other) = (place.start(), place.start());
        settled(&other, 1).await;
        let file = Scratch::path();
        let checkout = pool.checkout().start();
        let busy = answer(checkout.send(Pid)).await.expect("a worker");
        let call = checkout.send(AwaitFile(file.get().to_owned()));
        signal(server.pid(), Signal::TERM);
        server.tells("takes no more work").await;
        signal(server.pid(), Signal::HUP);
        until("it has read that", || signal_masks(server.pid())["ShdPnd"] == 0).await;
        // What it does next comes after the signal.
        bounded("the end", other.stop(Duration::ZERO)).await;
        server.tells("a client has disconnected").await;
        std::fs::write(file.get(), "").expect("a file");
        assert_eq!(answer(call).await, Ok(busy));
        drop(checkout);
        server.tells("good bye").await;
        assert!(server.ends().success());
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// G6, G12: under `nohup`; its workers do not ignore them.
fn a_server_that_ignores_hang_ups_goes_on() {
    run(async {
        let place = Place::new();
        let mut server = Application::start_within(
            &["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""],
            "an_application",
            "server ",
        );
        server.says("serves");
        let pool = place.start();
        let worker = served_by(&pool).await;
        let hang_up = 1 << (Signal::HUP.as_raw() - 1);
        assert_eq!(signal_masks(worker)["SigIgn"] & hang_up, 0);
        signal(server.pid(), Signal::HUP);
        assert!(bounded("its figures", pool.server_stats()).await.is_ok_and(|stats| !stats.draining));
        assert_eq!(served_by(&pool).await, worker);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        signal(server.pid(), Signal::TERM);
        server.tells("good bye").await;
        assert!(server.ends().success());
    });
}

/// G12: what `main` or the parent process of a server has set is for the server.
fn a_worker_inherits_no_mask_and_no_disposition_of_its_server() {
    run(async {
        let place = Place::new();
        let words = ["env", "--block-signal=SIGUSR1,SIGTERM,SIGRTMIN", "--ignore-signal=SIGQUIT,SIGRTMIN+3"];
        let mut trial = std::process::Command::new(words[0]);
        if !trial.args(&words[1..]).arg("true").status().is_ok_and(|it| it.success()) {
            return println!("skipped: this env cannot have signals blocked and ignored");
        }
        let mut server = Application::start_within(&words, "an_application", "server ");
        server.says("serves");
        let quit = 1 << (Signal::QUIT.as_raw() - 1);
        let pipe = 1 << (Signal::PIPE.as_raw() - 1);
        assert_eq!(signal_masks(server.pid())["SigIgn"] & quit, quit, "it ignores what it is to ignore");
        let pool = place.start();
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Pid)).await.expect("a worker");
        let program = answer(checkout.send(StartChild)).await.expect("a child");
        until("it is executed", || comm(program) == "sleep").await;
        for (pid, ignored) in [(worker, pipe), (program, 0)] {
            let masks = signal_masks(pid);
            // Signals 32 and 33 are the C library's own.
            assert_eq!((masks["SigBlk"], masks["SigIgn"] & !(0b11 << 31)), (0, ignored), "{}", comm(pid));
        }
        drop(checkout);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        signal(server.pid(), Signal::TERM);
        server.tells("good bye").await;
        assert!(server.ends().success());
    });
}

/// G12
fn a_worker_is_a_likelier_victim_than_its_server() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let pool = place.start();
        let worker = served_by(&pool).await;
        assert_eq!(oom_score(server.pid()), oom_score(std::process::id()), "its own is its manager's to set");
        assert_eq!(oom_score(worker), (oom_score(server.pid()) + 200).min(1000));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// G12: the server keeps its own, for Ctrl-C.
fn a_worker_has_no_terminal_of_its_server() {
    run(async {
        let place = Place::new();
        let role = format!("server test={}", std::process::id());
        let Some(mut server) = Application::at_a_terminal("sane", "an_application", &role) else {
            return println!("skipped: there is no program `script` here");
        };
        server.says("serves");
        let pool = place.start();
        assert_eq!(answer(pool.send(HasTerminal)).await, Ok(false));
        let worker = served_by(&pool).await;
        assert_ne!(terminal(parent(worker)), 0);
        assert_eq!(terminal(worker), 0);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        server.press("\u{3}");
        server.tells("good bye").await;
        assert!(server.ends().success());
    });
}
