//! Applications at a terminal, whose fork server and workers are in the background of none.

use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;

/// An application that prints what its processes have of its terminal.
#[test]
#[ignore = "an application that other tests run"]
fn an_application() {
    if role().is_none() {
        return;
    }
    System::new().block_on(async {
        let preload = Script::Print("the preload prints".to_owned());
        let setup = Setup { preload, ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let has_terminal = answer(pool.send_within(PATIENCE, HasTerminal)).await.expect("a worker");
        println!("terminals: {} {has_terminal}", std::fs::File::open("/dev/tty").is_ok());
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

const NO_TERMINAL: &str = "skipped: there is no program `script` here";

/// W10, G6: Ctrl-C reaches the application alone.
#[test]
fn calls_that_run_at_ctrl_c_finish_as_the_application_decides() {
    run(async {
        let Some(mut application) =
            Application::at_a_terminal("sane", "stop_signals::an_application", "stop")
        else {
            return println!("{NO_TERMINAL}");
        };
        application.says("ready");
        application.press("\u{3}");
        assert_eq!(application.says_either("served 5", "failed: "), None);
        until("nothing of it runs", || application.family().len() <= 1).await;
        assert!(application.ends().success());
    });
}

/// W10, G6: a terminal that is closed sends SIGHUP.
#[test]
fn calls_that_run_when_the_terminal_closes_finish_as_the_application_decides() {
    run(async {
        let report = Scratch::path();
        let name = report.get().file_name().and_then(|name| name.to_str()).expect("a name");
        let role = format!("stop {name}");
        let Some(mut application) = Application::at_a_terminal("sane", "stop_signals::an_application", &role)
        else {
            return println!("{NO_TERMINAL}");
        };
        application.says("ready");
        application.kill();
        until("it has finished", || report.lines() == ["5"]).await;
        until("nothing of it runs", || application.family().is_empty()).await;
    });
}

/// G12: and a preload that prints is not stopped, as processes in the background are by `tostop`.
#[test]
fn a_server_and_its_workers_have_no_controlling_terminal() {
    run(async {
        let Some(mut application) =
            Application::at_a_terminal("tostop", "terminals::an_application", "prints")
        else {
            return println!("{NO_TERMINAL}");
        };
        application.says("the preload prints");
        assert_eq!(application.says("terminals: "), "true false");
        assert!(application.ends().success());
    });
}
