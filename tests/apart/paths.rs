//! What is at a server's path and does not belong to it.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::*;
use crate::*;

tests! {
    what_is_no_dead_server_s_socket_is_refused_and_stays,
    the_socket_of_a_dead_program_is_replaced,
    a_live_server_s_path_is_not_stolen_when_its_lock_is_removed,
    a_lock_that_belongs_to_something_else_is_refused_and_stays,
    a_server_removes_no_socket_that_is_not_its_own,
    a_socket_is_known_to_the_kernel_by_its_path,
}

impl Place {
    fn lock(&self) -> PathBuf {
        self.0.with_extension("sock.lock")
    }
}

/// The device and inode of whatever is at a path.
fn identity(path: &Path) -> (u64, u64) {
    let found = std::fs::symlink_metadata(path).expect("something is there");
    (found.dev(), found.ino())
}

/// Starts a server that is refused; returns why.
fn refusal(options: &str) -> String {
    let mut refused = server(options);
    let told = refused.says_either("serves", "refused:").expect("it does not serve");
    assert!(refused.ends().success());
    told
}

/// S10
fn what_is_no_dead_server_s_socket_is_refused_and_stays() {
    run(async {
        let place = Place::new();
        let beside = Scratch::file();
        type Making = fn(&Path, &Path) -> std::io::Result<Option<OwnedFd>>;
        let table: [(&str, Making, &str); 5] = [
            ("a file", |path, _| std::fs::write(path, "precious").map(|()| None), "is no socket"),
            ("a folder", |path, _| std::fs::create_dir(path).map(|()| None), "is no socket"),
            (
                "a link to a file",
                |path, beside| std::os::unix::fs::symlink(beside, path).map(|()| None),
                "is no socket",
            ),
            (
                "a socket of a program that listens",
                |path, _| Ok(Some(UnixListener::bind(path)?.into())),
                "belongs to",
            ),
            (
                "a socket for datagrams",
                |path, _| Ok(Some(UnixDatagram::bind(path)?.into())),
                "is no server's",
            ),
        ];
        for (row, make, expected) in table {
            let open = make(&place.0, beside.get()).expect("something at the path");
            let before = identity(&place.0);
            for options in ["", "take_over"] {
                let told = refusal(options);
                let names = told.contains(place.0.to_str().expect("text"));
                let expected =
                    if row.ends_with("listens") && !options.is_empty() { "hand over" } else { expected };
                assert!(names && told.contains(expected), "{row} {options}: {told}");
            }
            assert_eq!(identity(&place.0), before, "{row} stays");
            drop(open);
            let _ = std::fs::remove_file(&place.0).or_else(|_| std::fs::remove_dir(&place.0));
        }
    });
}

/// S10
fn the_socket_of_a_dead_program_is_replaced() {
    run(async {
        let place = Place::new();
        drop(UnixListener::bind(&place.0).expect("a socket"));
        let _server = serving("");
        let pool = place.start();
        served_by(&pool).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S10, S4
fn a_live_server_s_path_is_not_stolen_when_its_lock_is_removed() {
    run(async {
        let place = Place::new();
        let first = serving("");
        let pool = place.start();
        let worker = served_by(&pool).await;
        let socket = identity(&place.0);
        std::fs::remove_file(place.lock()).expect("a lock");
        let told = refusal("");
        assert!(told.contains(&format!("process {}", first.pid())), "{told}");
        assert_eq!(identity(&place.0), socket);
        assert_eq!(served_by(&pool).await, worker);
        // One that is asked to replace it does so, by an agreement of both.
        std::fs::remove_file(place.lock()).expect("the lock of the one that was refused");
        let second = serving("take_over");
        until("the first server has ended", || !runs(first.pid())).await;
        assert_eq!(identity(&place.0), socket, "it has the same socket");
        served_by(&pool).await;
        assert!(runs(second.pid()));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S10
fn a_lock_that_belongs_to_something_else_is_refused_and_stays() {
    run(async {
        let place = Place::new();
        let precious = Scratch::file();
        std::fs::write(precious.get(), "precious").expect("a file");
        type Making = fn(&Path, &Path) -> std::io::Result<()>;
        let table: [(&str, Making, &str); 3] = [
            ("a link", |lock, file| std::os::unix::fs::symlink(file, lock), "symbolic link"),
            ("another name of a file", |lock, file| std::fs::hard_link(file, lock), "no lock of a server"),
            ("a file of another program", |lock, _| std::fs::write(lock, "precious"), "no lock of a server"),
        ];
        for (row, make, expected) in table {
            make(&place.lock(), precious.get()).expect("something in the lock's place");
            let told = refusal("");
            assert!(told.contains(expected), "{row}: {told}");
            let left = std::fs::read_to_string(place.lock()).expect("the file is there");
            assert_eq!(left, "precious", "{row}");
            assert!(!place.0.exists(), "{row}: nothing was made");
            std::fs::remove_file(place.lock()).expect("it is there");
        }
    });
}

/// S10
fn a_server_removes_no_socket_that_is_not_its_own() {
    run(async {
        let place = Place::new();
        for stop in [Signal::TERM, Signal::INT] {
            let mut old = serving("");
            // Another program has come in its place, and the old one does not know.
            std::fs::remove_file(&place.0).expect("the socket");
            let _next = UnixListener::bind(&place.0).expect("a socket");
            let theirs = identity(&place.0);
            signal(old.pid(), stop);
            old.tells("good bye").await;
            assert!(old.ends().success());
            assert_eq!(identity(&place.0), theirs, "it stays");
            std::fs::remove_file(&place.0).expect("the socket");
        }
        // Of one that has taken over, the socket is its own.
        let first = serving("");
        let mut second = serving("take_over");
        until("the first server has ended", || !runs(first.pid())).await;
        assert!(std::fs::metadata(&place.0).expect("it is still there").file_type().is_socket());
        signal(second.pid(), Signal::TERM);
        second.tells("good bye").await;
        assert!(!place.0.exists(), "it takes its socket away");
    });
}

/// S10: a service manager that cleans up a directory reads there which sockets are alive.
fn a_socket_is_known_to_the_kernel_by_its_path() {
    run(async {
        let place = Place::new();
        let is_known = || {
            let sockets = std::fs::read_to_string("/proc/net/unix").expect("the sockets");
            sockets.lines().any(|line| line.ends_with(&format!(" {}", place.0.display())))
        };
        let first = serving("");
        assert!(is_known());
        let _second = serving("take_over");
        until("the first server has ended", || !runs(first.pid())).await;
        assert!(is_known(), "also after a take-over");
    });
}
