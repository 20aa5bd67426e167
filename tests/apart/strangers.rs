//! Whoever comes to a server and is no client of its.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use forkpool::prelude::*;

use crate::harness::*;
use crate::*;

tests! {
    whoever_says_nonsense_is_sent_away_and_nobody_else_notices,
    a_flood_of_the_silent_shuts_nobody_out,
    a_client_that_is_cut_off_in_the_middle_of_a_word_is_gone_and_nobody_else,
    a_server_of_another_type_of_worker_refuses_and_names_both_sides,
    another_user_may_come_only_as_a_member_of_the_group,
    a_server_of_another_user_is_not_told_anything,
}

impl Place {
    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.0).expect("a connection")
    }
}

/// S9
fn whoever_says_nonsense_is_sent_away_and_nobody_else_notices() {
    run(async {
        let place = Place::new();
        let mut server = serving("");
        let pool = place.start();
        let pid = served_by(&pool).await;
        let nonsense: [&[u8]; 6] = [
            &[0xff; 64],
            &[0; 4],
            b"GET / HTTP/1.1\r\n\r\n",
            &[5, 0, 0, 0, 1, 2, 3],
            // A hello's length, far beyond what a stranger has to say.
            &[0, 0, 0, 1, 0, 5],
            // A request for a worker, by nobody.
            &[3, 0, 0, 0, 1, 1, 1],
        ];
        for bytes in nonsense {
            let mut stranger = place.connect();
            stranger.write_all(bytes).expect("room");
            if bytes.len() != 7 || bytes[3] != 0 {
                let mut heard = Vec::new();
                stranger.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                // Closed, also with what it had not read.
                let _ = stranger.read_to_end(&mut heard);
                assert!(heard.is_empty(), "{bytes:?}");
            }
        }
        assert!(server.tells("turned away").await.contains("did not identify itself"));
        assert_eq!(served_by(&pool).await, pid);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S9
fn a_flood_of_the_silent_shuts_nobody_out() {
    run(async {
        let place = Place::new();
        let mut server = serving("");
        let mut silent: Vec<UnixStream> = Vec::new();
        for _ in 0..5 {
            silent.extend((0..100).map(|_| place.connect()));
            // One that says a byte now and then is no better.
            silent.iter_mut().for_each(|stranger| drop(stranger.write_all(&[9])));
            let pool = place.start();
            served_by(&pool).await;
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
        let told = server.tells("turned away").await;
        assert!(told.contains("too many have come"), "{told}");
        let held = descriptors_of(server.pid()).len();
        assert!(held < 300, "{held} descriptors");
        until("they have had their time", || descriptors_of(server.pid()).len() < 20).await;
        assert!(server.tells("turned away").await.contains("too many") || runs(server.pid()));
    });
}

/// S9
fn a_client_that_is_cut_off_in_the_middle_of_a_word_is_gone_and_nobody_else() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let pool = place.start();
        let pid = served_by(&pool).await;
        let before = descriptors_of(server.pid()).len();
        // Half of a hello, then half of whatever comes behind one.
        for bytes in [&[40, 0, 0, 0, 0, 5, 5, b'0', b'.'][..], &[200, 0]] {
            place.connect().write_all(bytes).expect("room");
        }
        until("it is gone", || descriptors_of(server.pid()).len() == before).await;
        assert_eq!(served_by(&pool).await, pid);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S11
fn a_server_of_another_type_of_worker_refuses_and_names_both_sides() {
    run(async {
        let place = Place::new();
        let mut server = serving("stranger");
        let pool = place.start();
        server.tells("turned away").await;
        let failed = failure(pool.send_within(Duration::from_millis(200), Pid)).await;
        assert_eq!(failed.kind(), FailureKind::NoServer);
        let told = format!("{failed:#}");
        for part in ["{ Echo, EchoText", "this server's (forkpool", "the server has no Echo"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        // One of another version is told as well, although it can say nothing more that is understood.
        let mut foreign = place.connect();
        foreign.write_all(&[9, 0, 0, 0, 0, 99, 5, b'9', b'.', b'8', b'.', b'7', 1]).expect("room");
        let mut heard = Vec::new();
        foreign.read_to_end(&mut heard).expect("an answer");
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(heard.contains("protocol 99 of forkpool 9.8.7") && heard.contains("this server"), "{heard}");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S10
fn another_user_may_come_only_as_a_member_of_the_group() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    run(async {
        let place = Place::new();
        for (options, may_come) in [("", false), ("group=65534", true)] {
            let mut server = serving(options);
            let socket = std::fs::metadata(&place.0).expect("a socket");
            let expected = if may_come { (0o660, NOBODY) } else { (0o600, 0) };
            assert_eq!((socket.permissions().mode() & 0o777, socket.gid()), expected);
            let mut guest = Application::start_as(NOBODY, "an_application", "guest");
            let told = guest.says("told ");
            // It may not kill a worker of another user's, and has the server do so.
            let expected = if may_come { "it killed" } else { "Permission denied" };
            assert!(told.contains(expected), "{told}");
            assert!(guest.ends().success());
            signal(server.pid(), rustix::process::Signal::INT);
            server.tells("good bye").await;
        }
    });
}

/// S10
fn a_server_of_another_user_is_not_told_anything() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    run(async {
        let place = Place::new();
        let mut server = Application::start_as(NOBODY, "an_application", "server");
        server.says("serves");
        let wary = place.start();
        let failed = failure(wary.send_within(Duration::from_millis(100), Pid)).await;
        let told = format!("{failed:#}");
        assert!(told.contains("as user 65534, which this application does not trust"), "{told}");
        let trusting = place.pool().trust_user(NOBODY).start().expect("the pool starts");
        served_by(&trusting).await;
        for pool in [wary, trusting] {
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}
