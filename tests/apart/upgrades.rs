//! The three ways to upgrade a server, as docs/UPGRADES.md has them, each under the load of two applications.

use rustix::process::Signal;

use crate::harness::*;
use crate::services::Manager;
use crate::*;

tests! {
    a_restart_behind_the_service_manager_s_socket_fails_no_call,
    a_take_over_fails_no_call,
    a_stop_and_a_start_fail_no_call,
}

/// Two applications that call all the time.
pub struct Loads(Vec<Application>);

impl Loads {
    pub fn start() -> Self {
        let mut loads: Vec<Application> =
            (0..2).map(|_| Application::start("an_application", "load")).collect();
        loads.iter_mut().for_each(|load| drop(load.says("ready")));
        Loads(loads)
    }

    /// Waits until both have workers at a server.
    pub async fn reach(&self, server: &Application) {
        until("both have workers there", || children(server.pid()).len() >= 4).await;
    }

    /// Ends both, and checks that no call has failed.
    pub fn end(self) {
        for mut load in self.0 {
            load.close_input();
            let told = load.says("served ");
            let served: u64 = told.split(' ').next().and_then(|count| count.parse().ok()).expect("a number");
            assert!(served > 0 && told.contains("failed [] "), "{told}");
            assert!(load.ends().success());
        }
    }
}

/// Has a server end as `systemctl stop` does.
async fn stop(mut server: Application) {
    signal(server.pid(), Signal::TERM);
    server.tells("good bye").await;
    assert!(server.ends().success());
}

/// S1, S4
fn a_restart_behind_the_service_manager_s_socket_fails_no_call() {
    run(async {
        let manager = Manager::new();
        let start = || {
            let server = manager.start("at=systemd:probes");
            assert_eq!(manager.hears(), "READY=1");
            server
        };
        let restart = async |old: Application| {
            stop(old).await;
            assert_eq!(manager.hears(), "STOPPING=1");
            start()
        };
        upgrades(start(), restart).await;
    });
}

/// S4
fn a_take_over_fails_no_call() {
    run(async {
        let _place = Place::new();
        let take_over = async |mut old: Application| {
            let new = serving("take_over");
            old.tells("good bye").await;
            assert!(old.ends().success());
            new
        };
        upgrades(serving(""), take_over).await;
    });
}

/// S2, S4
fn a_stop_and_a_start_fail_no_call() {
    run(async {
        let _place = Place::new();
        let restart = async |old: Application| {
            stop(old).await;
            serving("")
        };
        upgrades(serving(""), restart).await;
    });
}

/// Upgrades a server three times.
async fn upgrades(first: Application, upgrade: impl AsyncFn(Application) -> Application) {
    let (mut current, loads) = (first, Loads::start());
    for _ in 0..3 {
        loads.reach(&current).await;
        current = upgrade(current).await;
    }
    loads.reach(&current).await;
    loads.end();
}
