//! When a console ends, and at which paths it opens.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use actix::Arbiter;
use forkpool::prelude::*;
use forkpool::{Console, ConsoleError};

use crate::console::{Place, Viewer, console_at, named};
use crate::harness::*;

/// What docs/OBSERVABILITY.md shows.
fn console_of_both(
    address: String,
    orders: &PoolHandle<Probe>,
    images: &PoolHandle<Probe>,
) -> Result<Console, ConsoleError> {
    // shown: console
    let console = orders.console(address).add(images).open()?; // "unix:/run/app.pools.sock"
    // end: console
    Ok(console)
}

/// M2
#[test]
fn a_console_shows_several_pools_and_ends_with_the_last() {
    run(async {
        let socket = Place::new();
        let [first, second, third] = ["first", "second", "third"].map(named);
        let address = format!("unix:{}", socket.get().display());
        let console = console_of_both(address, &first, &second).expect("a console");
        let mut viewer = Viewer::at(socket.get());
        assert_eq!(viewer.pools(), ["first", "second"]);
        assert!(console.add(&third) && console.add(&third), "twice is once");
        assert_eq!(viewer.pools(), ["first", "second", "third"]);
        bounded("the end", first.stop(Duration::ZERO)).await;
        assert_eq!(viewer.pools(), ["second", "third"]);
        assert!(!console.add(&first), "it has ended");
        drop(second);
        until("the second has ended", || viewer.pools() == ["third"]).await;
        bounded("the end", third.stop(Duration::ZERO)).await;
        assert!(!socket.get().exists(), "it is removed before the stop is over");
        assert_eq!(viewer.line(), None);
        let fourth = named("fourth");
        assert!(!console.add(&fourth), "the console has ended");
        let error = console_at(socket.get(), &first).open().expect_err("its pool has ended");
        assert!(matches!(error, ConsoleError::Ended), "{error}");
        assert!(!socket.get().exists(), "nothing is left of it");
        bounded("the end", fourth.stop(Duration::ZERO)).await;
    });
}

/// M2, P12
#[test]
fn a_console_answers_while_the_arbiter_of_its_pool_stands_still_and_ends_with_it() {
    run(async {
        let (socket, arbiter) = (Place::new(), Arbiter::new());
        let pool = pool().name("given").workers(1..=1).start_in(&arbiter.handle()).expect("the pool starts");
        console_at(socket.get(), &pool).open().expect("a console");
        settled(&pool, 1).await;
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (says, stands) = std::sync::mpsc::channel();
        arbiter.spawn_fn(move || {
            says.send(()).expect("it is waited for");
            let _ = wait.recv();
        });
        stands.recv_timeout(PATIENCE).expect("it stands still");
        assert_eq!(Viewer::at(socket.get()).pools(), ["given"]);
        drop(go_on);
        arbiter.stop();
        until("the socket is removed", || !socket.get().exists()).await;
        arbiter.join().expect("no panic");
    });
}

/// M2
#[test]
fn a_console_that_is_closed_makes_room_for_another_one() {
    run(async {
        let (socket, pool) = (Place::new(), named("twice"));
        let console = console_at(socket.get(), &pool).open().expect("a console");
        let mut viewer = Viewer::at(socket.get());
        assert_eq!(viewer.pools(), ["twice"]);
        console.close();
        assert!(!socket.get().exists());
        assert_eq!(viewer.line(), None);
        // From a thread that has no runtime.
        let builder = console_at(socket.get(), &pool);
        let opened = std::thread::spawn(move || builder.open().map(drop)).join().expect("no panic");
        opened.expect("a console");
        console.close();
        assert_eq!(Viewer::at(socket.get()).pools(), ["twice"], "it is another one's");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S10, M2
#[test]
fn the_socket_of_a_dead_process_is_replaced_and_anything_else_stays() {
    run(async {
        let (socket, pool) = (Place::new(), named("careful"));
        drop(UnixListener::bind(socket.get()).expect("a socket"));
        let console = console_at(socket.get(), &pool).open().expect("in place of a dead one");
        let refused = |expected: &str| {
            let error = console_at(socket.get(), &pool).open().expect_err("it is in use").to_string();
            let names = error.contains(socket.get().to_str().expect("text"));
            assert!(names && error.contains(expected), "{error}");
        };
        refused(&format!("in use, by process {}: this application listens there", std::process::id()));
        assert_eq!(Viewer::at(socket.get()).pools(), ["careful"], "the first one is not disturbed");
        console.close();
        let other = UnixListener::bind(socket.get()).expect("a socket");
        refused("in use");
        drop(other);
        std::fs::remove_file(socket.get()).expect("it is there");
        std::fs::write(socket.get(), "precious").expect("a file");
        refused("it is no socket");
        assert_eq!(std::fs::read_to_string(socket.get()).expect("it stays"), "precious");
        std::fs::remove_file(socket.get()).expect("it is there");
        std::os::unix::fs::symlink("/nowhere", socket.get()).expect("a link");
        refused("it is no socket");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

#[test]
fn what_cannot_work_is_refused_by_its_name() {
    run(async {
        let (socket, pool) = (Place::new(), named("picky"));
        let at = || console_at(socket.get(), &pool);
        let table = [
            (at().mode(0o644), "option mode cannot be 0o644"),
            (at().mode(0o600).max_clients(0), "option max_clients cannot be 0"),
            (at().client_timeout(Duration::ZERO), "option client_timeout cannot be 0ns"),
            (pool.console("/run/a.sock"), "unix:/path"),
            (pool.console("tcp:127.0.0.1:0"), "a console is a Unix socket"),
            (pool.console("unix:/nowhere/a.sock"), "cannot create the socket"),
        ];
        for (builder, expected) in table {
            let row = format!("{builder:?}");
            let error = builder.open().expect_err(&row).to_string();
            assert!(error.contains(expected), "{row}: {error}");
        }
        assert!(!socket.get().exists(), "nothing was made");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
