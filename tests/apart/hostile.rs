//! Clients that break the rules of the control channel, some as another user, and what that costs the server and its
//! other clients.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::harness::*;
use crate::raw_client::*;
use crate::*;

tests! {
    a_client_has_only_its_own_workers_killed,
    a_client_of_any_user_has_its_orphans_killed_by_the_next_server,
    a_worker_maps_its_own_channel_and_nothing_of_its_siblings,
    peers_that_pass_descriptors_leave_room_for_others,
    a_descriptor_that_is_slow_to_close_holds_up_no_server,
    a_hello_with_impossible_numbers_is_refused,
    a_client_that_asks_for_too_much_at_once_is_disconnected,
    peers_that_are_not_admitted_hold_up_no_client,
    hundreds_of_handshakes_at_once_are_all_finished,
    a_flood_of_one_user_evicts_no_peer_of_another,
}

/// The group whose members the servers of these tests admit, if another user is to attack them.
const GROUP: &str = "group=65534";

/// Runs a hostile client as another user if this is root, and as this user otherwise.
fn attacker(role: &str) -> Application {
    match rustix::process::geteuid().is_root() {
        true => Application::start_as(NOBODY, "an_application", role),
        false => Application::start("an_application", role),
    }
}

/// A server that the attacker may connect to.
fn attackable(options: &str) -> Application {
    match rustix::process::geteuid().is_root() {
        true => serving(&format!("{GROUP} {options}")),
        false => serving(options),
    }
}

/// The hello as a word, for a process of another user.
fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Plays a hostile client: `attack=` what, `hello=` the recorded one, `victims=` which processes.
pub fn play(options: &str, address: &str) {
    let value = |wanted: &str| {
        let words = options.split_whitespace().filter_map(|word| word.split_once('='));
        words.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    let path = PathBuf::from(address.strip_prefix("unix:").expect("a path"));
    let hello = value("hello").unwrap_or_default().as_bytes().chunks(2);
    let hello: Vec<u8> = hello
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("a byte"))
        .collect();
    match value("attack") {
        Some("adopt") => {
            let victims = value("victims").unwrap_or_default().split(',');
            kill_through_the_server(&path, &hello, victims.map(|pid| pid.parse().expect("a pid")));
        }
        Some("flood") => flood(&path),
        Some("hold") => hold(&path),
        other => panic!("no attack {other:?}"),
    }
}

/// Has the server adopt these processes and kill them.
fn kill_through_the_server(path: &Path, hello: &[u8], victims: impl Iterator<Item = i32>) {
    for victim in victims {
        let victim = rustix::process::Pid::from_raw(victim).expect("a pid");
        let pidfd =
            rustix::process::pidfd_open(victim, rustix::process::PidfdFlags::empty()).expect("a pidfd");
        // Without a proof, and with one that was made up.
        for proof in [&[0][..], &[1, 0xef, 0xcd, 0xab, 0x89, 0xe7, 0xc5, 0xa3, 1]] {
            let mut client = RawClient::identified(path, hello);
            client.pass(&framed(&[&[ADOPT, 7], proof].concat()), &[pidfd.as_fd()]);
            let _ = client.0.write_all(&framed(&[END, 7, 1]));
            // The server answers once it has handled what came before, or has closed the connection.
            let _ = client.0.write_all(&framed(&[INSPECT]));
            client.next();
        }
    }
    println!("done");
    wait_to_go_on();
}

/// Connects again and again on some threads, until the process is killed.
fn flood(path: &Path) {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let path = path.to_owned();
            std::thread::spawn(move || {
                loop {
                    drop(UnixStream::connect(&path));
                }
            })
        })
        .collect();
    println!("floods");
    threads.into_iter().for_each(|thread| thread.join().expect("it never ends"));
}

/// Opens many connections and keeps them, until the process is killed.
fn hold(path: &Path) {
    let held: Vec<UnixStream> = (0..600).map_while(|_| UnixStream::connect(path).ok()).collect();
    println!("holds {}", held.len());
    wait_to_go_on();
}

/// A process that the attacked server could kill, and no worker of the attacker.
struct Bystander(Child);

impl Bystander {
    fn start() -> Self {
        Bystander(Command::new("sleep").arg("1000").spawn().expect("sleep"))
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// G4, S10: a pidfd of any process is easily had, and is no proof that the process was a worker of this client.
fn a_client_has_only_its_own_workers_killed() {
    run(async {
        let place = Place::new();
        let mut server = attackable("");
        let pool = place.start();
        let neighbour = served_by(&pool).await;
        let bystander = Bystander::start();
        let victims = [bystander.0.id(), neighbour, server.pid()].map(|pid| pid.to_string()).join(",");
        let hello = hexadecimal(&hello().await);
        let mut attacker = attacker(&format!("hostile attack=adopt hello={hello} victims={victims}"));
        attacker.says("done");
        attacker.kill();
        attacker.ends();
        for _ in 0..6 {
            server.tells("a worker was not adopted").await;
        }
        assert!(runs(bystander.0.id()), "the bystander lives");
        assert_eq!(served_by(&pool).await, neighbour, "the neighbour lives");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// G4, S6: the server that has forked a worker proves it to the next one, by way of the client.
fn a_client_of_any_user_has_its_orphans_killed_by_the_next_server() {
    run(async {
        let _place = Place::new();
        let mut first = attackable("");
        let mut client = attacker("client");
        let worker: u32 = client.says("worker").parse().expect("a number");
        first.kill();
        first.ends();
        let mut next = attackable("");
        next.says("a worker was adopted");
        // The proof holds for the one after that as well, which takes over and keeps the key of the path.
        let mut last = attackable("take_over");
        last.says("a client has connected");
        next.kill();
        next.ends();
        last.says("a worker was adopted");
        assert!(runs(worker), "a worker in use goes on");
        client.kill();
        client.ends();
        until("the spinning worker has ended", || !runs(worker)).await;
        assert!(runs(last.pid()));
    });
}

/// The writable memory that a process shares with others: inode and name.
fn shared_memory_of(pid: u32) -> std::collections::BTreeSet<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("mappings");
    let shared = maps.lines().filter(|line| line.split_whitespace().nth(1) == Some("rw-s"));
    shared.map(|line| line.split_whitespace().skip(4).collect::<Vec<_>>().join(" ")).collect()
}

/// G4
fn a_worker_maps_its_own_channel_and_nothing_of_its_siblings() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let first = place.start();
        let dead = served_by(&first).await;
        let of_dead = shared_memory_of(dead);
        kill(dead);
        let second = served_by(&first).await;
        let beside = place.pool().workers(2..=2).start().expect("the pool starts");
        settled(&beside, 2).await;
        let mut seen = std::collections::BTreeSet::new();
        for worker in children(server.pid()) {
            let shared = shared_memory_of(worker);
            // Its channel and the memory of its results.
            assert_eq!(shared.len(), 2, "{worker} of {second} and others: {shared:?}");
            assert!(shared.iter().all(|memory| memory.contains("/memfd:forkpool")), "{shared:?}");
            assert!(shared.is_disjoint(&of_dead), "nothing of a dead sibling: {shared:?}");
            assert!(shared.is_disjoint(&seen), "nothing of a living one: {shared:?}");
            seen.extend(shared);
        }
        assert_eq!(seen.len(), 6);
        for pool in [first, beside] {
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// S9: before a peer is known it passes nothing, and a client no more than its message needs.
fn peers_that_pass_descriptors_leave_room_for_others() {
    run(async {
        let place = Place::new();
        let server = serving("descriptors=64");
        let hello = hello().await;
        let null = OwnedFd::from(std::fs::File::open("/dev/null").expect("a file"));
        let (most, many) = (vec![null.as_fd(); 253], vec![null.as_fd(); 80]);
        let before = descriptors_of(server.pid()).len();
        let mut pending: Vec<RawClient> = (0..3).map(|_| RawClient::connect(&place.0)).collect();
        // The beginning of a message, and a whole one that needs none.
        for peer in &mut pending {
            let _ = peer.pass(&[200, 0], &most);
        }
        let mut known = RawClient::connect(&place.0);
        if !known.pass(&framed(&hello), &most) {
            known.send(&hello);
        }
        assert_eq!(known.next().first(), Some(&WELCOME));
        known.pass(&framed(&[INSPECT]), &many);
        let mut clients: Vec<RawClient> = (0..3).map(|_| RawClient::identified(&place.0, &hello)).collect();
        for client in &mut clients {
            let _ = client.pass(&[200, 0], &many);
        }
        for client in &mut clients {
            client.is_closed();
        }
        for _ in 0..40 {
            let pool = place.start();
            answer(pool.send_within(Duration::from_secs(5), Pid)).await.expect("there is room");
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
        drop((pending, known, clients));
        until("all are gone", || descriptors_of(server.pid()).len() <= before).await;
    });
}

/// A TCP connection that takes an hour to be closed: its peer does not read, and whoever closes it waits for that.
fn slow_to_close() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (mut slow, _) = listener.accept().expect("a connection");
    slow.set_nonblocking(true).expect("a socket");
    let bytes = vec![0; 64 << 10];
    while slow.write(&bytes).is_ok() {}
    let hour = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&slow, hour).expect("a socket");
    (slow.into(), peer)
}

/// Whether the kernel can refuse descriptors on behalf of their receiver.
fn refuses_descriptors() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|number| number.parse().ok()).collect();
    numbers >= vec![6, 16]
}

/// S9: before a peer is known, not even a descriptor that is closed at once is accepted.
fn a_descriptor_that_is_slow_to_close_holds_up_no_server() {
    if !refuses_descriptors() {
        println!("skipped: this kernel lets every peer pass descriptors");
        return;
    }
    run(async {
        let place = Place::new();
        let _server = serving("");
        let (slow, peer) = slow_to_close();
        let mut hostile = RawClient::connect(&place.0);
        assert!(!hostile.pass(&[200, 0], &[slow.as_fd()]), "the kernel refuses it");
        // Its connection is reset with its peer, so that it is not slow any more.
        drop((peer, slow));
        hostile.0.write_all(&[200, 0]).expect("the server reads");
        let pool = place.start();
        served_by(&pool).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S9, P1: what an option refuses in an application, a server refuses in a hello.
fn a_hello_with_impossible_numbers_is_refused() {
    run(async {
        let place = Place::new();
        let _server = serving("");
        let hello = hello().await;
        let at = hello.windows(4).position(|bytes| bytes == GUARD_ENCODED).expect("the guard");
        let with_guard = |guard: &[u8]| [&hello[..at], guard, &hello[at + 4..]].concat();
        // The fields behind the guard are its grace and the limit on memory.
        let with_grace = [&hello[..at + 4], &[1, 0, 0], &hello[at + 5..]].concat();
        let table = [
            ("no time", with_guard(&[1, 0, 0]), "hung_worker_timeout"),
            (
                "more than a worker's clock can count",
                with_guard(&[1, 0x80, 0x80, 0x80, 8, 0]),
                "hung_worker_timeout",
            ),
            ("no grace", with_grace, "kill_grace"),
        ];
        for (row, body, option) in table {
            let mut peer = RawClient::connect(&place.0);
            peer.send(&body);
            let answer = peer.next();
            let told = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.first() == Some(&REFUSED) && told.contains(option), "{row}: {told}");
        }
        let mut peer = RawClient::connect(&place.0);
        peer.send(&with_guard(&[1, 0, 100]));
        assert_eq!(peer.next().first(), Some(&WELCOME), "a short time is possible");
    });
}

/// S9: each message of a client has a bound, and what is beyond it is no message.
fn a_client_that_asks_for_too_much_at_once_is_disconnected() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let hello = hello().await;
        let null = OwnedFd::from(std::fs::File::open("/dev/null").expect("a file"));
        let many = vec![null.as_fd(); 80];
        let numbers = [vec![FORK, 17], (1..=17).collect(), vec![1]].concat();
        let mut greedy = RawClient::identified(&place.0, &hello);
        greedy.pass(&framed(&numbers), &many);
        assert!(greedy.next().is_empty(), "the server closes the connection");
        // No message of a client is longer than this, so the server keeps no more of one.
        let mut long = RawClient::identified(&place.0, &hello);
        let _ = long.0.write_all(&(64_u32 << 10).to_le_bytes());
        assert!(long.next().is_empty(), "the server closes the connection");
        // Any number of requests is answered, and others are served meanwhile.
        let mut busy = RawClient::identified(&place.0, &hello);
        let requests = framed(&[INSPECT]).repeat(2000);
        busy.0.write_all(&requests).expect("the server reads");
        let pool = place.start();
        served_by(&pool).await;
        for _ in 0..2000 {
            assert!(!busy.next().is_empty(), "each request is answered");
        }
        assert!(runs(server.pid()));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S9
fn peers_that_are_not_admitted_hold_up_no_client() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    run(async {
        let place = Place::new();
        let mut server = serving("");
        server.is_not_listened_to();
        // As a service manager's socket may be: the server alone decides.
        std::fs::set_permissions(&place.0, std::fs::Permissions::from_mode(0o666)).expect("a socket");
        let mut flood = attacker("hostile attack=flood");
        flood.says("floods");
        for _ in 0..10 {
            let pool = place.pool().timeout(PATIENCE).start().expect("the pool starts");
            served_by(&pool).await;
            let stats = bounded("an answer", pool.server_stats()).await.expect("a server");
            assert!(stats.turned_away > 0);
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
        assert!(runs(flood.pid()));
        flood.kill();
        flood.ends();
    });
}

/// S9: more than are kept at a time, each of which takes two steps.
fn hundreds_of_handshakes_at_once_are_all_finished() {
    run(async {
        let place = Place::new();
        let mut server = serving("");
        server.is_not_listened_to();
        let bytes = framed(&hello().await);
        let (begin, rest) = bytes.split_at(bytes.len() / 2);
        let mut peers: Vec<RawClient> = Vec::new();
        for _ in 0..300 {
            let mut peer = RawClient::connect(&place.0);
            peer.0.write_all(begin).expect("room");
            peers.push(peer);
        }
        until("as many are accepted as are kept", || descriptors_of(server.pid()).len() >= 256).await;
        for (at, peer) in peers.iter_mut().enumerate() {
            peer.0.write_all(rest).unwrap_or_else(|error| panic!("peer {at} was disconnected: {error}"));
        }
        for (at, peer) in peers.iter_mut().enumerate() {
            assert_eq!(peer.next().first(), Some(&WELCOME), "peer {at}");
        }
    });
}

/// S9: whose peers are too many loses its own.
fn a_flood_of_one_user_evicts_no_peer_of_another() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    run(async {
        let place = Place::new();
        let mut server = attackable("");
        let bytes = framed(&hello().await);
        let (begin, rest) = bytes.split_at(bytes.len() / 2);
        let mut slow = RawClient::connect(&place.0);
        slow.0.write_all(begin).expect("room");
        let mut flood = attacker("hostile attack=hold");
        let held: usize = flood.says("holds").parse().expect("a number");
        assert!(held > 256, "{held}");
        server.tells("turned away").await;
        slow.0.write_all(rest).expect("it is still connected");
        assert_eq!(slow.next().first(), Some(&WELCOME));
        flood.kill();
        flood.ends();
    });
}
