//! Servers that a service manager starts: it listens for them, and is told how they do.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::process::Signal;

use crate::harness::*;
use crate::*;

tests! {
    calls_wait_for_a_service_that_is_restarted,
    a_service_says_what_it_was_passed_where_that_does_not_fit,
    a_service_manager_that_does_not_listen_holds_up_no_call,
}

/// What a service manager has for one service: a socket that listens, and a place to be told how it does.
pub struct Manager {
    listener: OwnedFd,
    notices: UnixDatagram,
    place: Place,
}

impl Manager {
    pub fn new() -> Self {
        let place = Place::new();
        let notices = place.0.with_extension("sock.notify");
        // A run that was broken off may have left them.
        let _ = (std::fs::remove_file(&place.0), std::fs::remove_file(&notices));
        let listener = UnixListener::bind(&place.0).expect("a socket").into();
        let notices = UnixDatagram::bind(notices).expect("a socket");
        notices.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Manager { listener, notices, place }
    }

    /// Starts the service: the socket is its to inherit.
    pub fn start(&self, options: &str) -> Application {
        rustix::io::fcntl_setfd(&self.listener, FdFlags::empty()).expect("a descriptor");
        let service = server(&format!("inherits={} {options}", self.listener.as_raw_fd()));
        rustix::io::fcntl_setfd(&self.listener, FdFlags::CLOEXEC).expect("a descriptor");
        service
    }

    /// What it is told next.
    pub fn hears(&self) -> String {
        let mut bytes = [0; 256];
        let count = self.notices.recv(&mut bytes).expect("a notice");
        String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.place.0.with_extension("sock.notify"));
    }
}

/// S1, S2, S4: the socket outlives the server, so whoever calls in between waits in front of it.
fn calls_wait_for_a_service_that_is_restarted() {
    run(async {
        let manager = Manager::new();
        let pool = manager.place.start();
        let early = pool.send(Pid);
        let mut pids = Vec::new();
        let mut waiting = early;
        for _ in 0..3 {
            let mut service = manager.start("at=systemd:probes");
            assert_eq!(manager.hears(), "READY=1");
            pids.push(answer(waiting).await.expect("a worker"));
            assert!(children(service.pid()).contains(pids.last().expect("one")));
            signal(service.pid(), Signal::TERM);
            assert_eq!(manager.hears(), "STOPPING=1");
            service.tells("good bye").await;
            assert!(service.ends().success());
            // The place is the manager's, and nothing of it is taken away.
            assert!(manager.place.0.exists());
            waiting = pool.send(Pid);
        }
        pids.dedup();
        assert_eq!(pids.len(), 3, "each had a worker of its own");
        drop(waiting);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S10: whoever is passed something else than it listens at says both.
fn a_service_says_what_it_was_passed_where_that_does_not_fit() {
    run(async {
        let manager = Manager::new();
        let mut service = manager.start("at=systemd:others");
        let told = service.says("refused:");
        assert!(told.contains("systemd:others") && told.contains("only probes"), "{told}");
        assert!(service.ends().success());
    });
}

/// G1: a notice that finds no room is sent later.
fn a_service_manager_that_does_not_listen_holds_up_no_call() {
    run(async {
        let manager = Manager::new();
        let stranger = UnixDatagram::unbound().expect("a socket");
        stranger.set_nonblocking(true).expect("a socket");
        let notices = manager.place.0.with_extension("sock.notify");
        let mut noise = 0;
        while stranger.send_to(b"noise", &notices).is_ok() {
            noise += 1;
        }
        let mut service = manager.start("at=systemd:probes");
        let pool = manager.place.start();
        answer(pool.send(Pid)).await.expect("a worker");
        bounded("the end", pool.stop(Duration::ZERO)).await;
        for _ in 0..noise {
            assert_eq!(manager.hears(), "noise");
        }
        assert_eq!(manager.hears(), "READY=1");
        signal(service.pid(), Signal::TERM);
        assert_eq!(manager.hears(), "STOPPING=1");
        service.tells("good bye").await;
        assert!(service.ends().success());
    });
}
