//! What this program is when it is no test.

use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use actix::System;
use forkpool::prelude::*;
use forkpool::{OnMisfit, Server, ServerError};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::harness::*;

/// Plays a role: a word, and what it is about.
pub fn play(role: &str, address: &str) {
    let (part, options) = role.split_once(' ').unwrap_or((role, ""));
    match part {
        "server" => {
            start_as_a_service(options, address);
            server(options, address);
        }
        "client" => System::new().block_on(client(options, address)),
        "rebels" => System::new().block_on(crate::defiance::client(options, place(options, address))),
        "hostile" => crate::hostile::play(options, address),
        "quiet" => System::new().block_on(quiet(place(options, address))),
        "guest" => System::new().block_on(guest(address)),
        "lender" => System::new().block_on(lender(address)),
        "load" => System::new().block_on(load(place(options, address))),
        other => panic!("no part {other:?}"),
    }
}

/// Starts this process again as a service manager would: with the listening socket that it has under the number
/// `inherits=` as its descriptor 3, and somewhere to say how it does.
fn start_as_a_service(options: &str, address: &str) {
    let socket = options.split_whitespace().find_map(|word| word.strip_prefix("inherits="));
    let (Some(socket), None) = (socket, std::env::var_os("LISTEN_PID")) else { return };
    let socket = socket.parse().expect("a number");
    nix::unistd::dup2(socket, 3).expect("a socket");
    if socket != 3 {
        nix::unistd::close(socket).expect("a socket");
    }
    let path = address.strip_prefix("unix:").expect("a path");
    let watched = options.split_whitespace().find_map(|word| word.strip_prefix("watchdog="));
    let watched = watched.and_then(|watched| watched.split_once(':'));
    let own = std::process::id().to_string();
    let watched = watched.map(|(limit, pid)| {
        [("WATCHDOG_USEC", limit), ("WATCHDOG_PID", if pid == "own" { own.as_str() } else { pid })]
    });
    let error = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(std::env::args_os().skip(1))
        .envs(watched.into_iter().flatten())
        .envs([
            ("LISTEN_FDS", "1"),
            ("LISTEN_FDNAMES", "probes"),
            ("NOTIFY_SOCKET", &format!("{path}.notify")),
        ])
        .env("LISTEN_PID", std::process::id().to_string())
        .exec();
    panic!("this program does not start again: {error}");
}

/// A server. `options` are words: `take_over`, `stranger` for one of another type of worker, and `name=value`.
fn server(options: &str, address: &str) {
    // As a program may have whatever it likes open.
    let _open = std::fs::File::open("/proc/self/exe").expect("a file");
    let words = Words::of(options);
    // Its log is what it prints, which somebody has to read before the pipe is full.
    let log = tracing_subscriber::fmt().with_writer(std::io::stdout).with_ansi(false).finish();
    tracing::subscriber::set_global_default(log).expect("the only one");
    for (name, resource) in [("descriptors", Resource::Nofile), ("processes", Resource::Nproc)] {
        if let most @ Some(_) = words.number(name) {
            setrlimit(resource, Rlimit { current: most, maximum: most }).expect("a limit");
        }
    }
    let mut setup = Setup::default();
    if words.value("setup_fails").is_some() {
        setup.script = Script::Error("as it was told".to_owned());
    }
    if words.value("preload_fails").is_some() {
        setup.preload = Script::Error("as it was told".to_owned());
    }
    let ended = if words.value("stranger").is_some() {
        Server::<Mule>::new(None).listen(address).map_err(ServerError::from).and_then(Server::run)
    } else if words.value("rebels").is_some() {
        words.run(Server::<Rebel>::new(Orders::default()), address)
    } else if let Some(group) = words.value("mills_for") {
        let mills = Server::<Mill>::new(()).group(group).expect("a group");
        mills.listen(address).map_err(ServerError::from).and_then(Server::run)
    } else if let Some(release) = words.value("clerks") {
        crate::clerks::serve(release, &words, address)
    } else {
        words.run(Server::<Probe>::new(setup), address)
    };
    match ended {
        Ok(()) => println!("good bye"),
        Err(error) => println!("refused: {error:?}"),
    }
}

/// The options of a server: words, some with `=` and a value.
pub struct Words<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Words<'a> {
    fn of(options: &'a str) -> Self {
        Words(options.split_whitespace().map(|word| word.split_once('=').unwrap_or((word, ""))).collect())
    }

    fn value(&self, wanted: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
    }

    fn number(&self, wanted: &str) -> Option<u64> {
        self.value(wanted).map(|value| value.parse().expect("a number"))
    }

    /// Sets the options of a server, of whatever workers.
    fn set<W: Worker>(&self, server: Server<W>) -> Result<Server<W>, ServerError> {
        let on_misfit = if self.value("refuses").is_some() { OnMisfit::Refuse } else { OnMisfit::Stay };
        let mut server = server
            .name("probes")
            .take_over(self.value("take_over").is_some())
            .take_over_wait(self.number("wait").map_or(PATIENCE, Duration::from_millis))
            .on_misfit(on_misfit)
            .park_worker(self.value("parks_none").is_none())
            .drain_timeout(self.number("drain").map(Duration::from_millis))
            .max_workers(self.number("workers").map(|count| count as usize))
            .max_clients(self.number("clients").map_or(512, |count| count as usize))
            .client_dead_after(Duration::from_millis(self.number("dead").unwrap_or(30_000)));
        if let Some(group) = self.value("group") {
            server = server.group(group)?;
        }
        #[cfg(feature = "tls")]
        if let Some(name) = self.value("certificate") {
            server = server.certificates(certificates(name));
        }
        Ok(server.allow_unauthenticated_beyond_loopback(self.value("for_all").is_some()))
    }

    /// Has a server listen at the test's place, unless it is told another one, and perhaps at one more.
    fn listen<W: Worker>(&self, server: Server<W>, address: &str) -> Result<Server<W>, ServerError> {
        let places = [Some(self.value("at").unwrap_or(address)), self.value("also")];
        let listening =
            places.into_iter().flatten().try_fold(server, |server, address| server.listen(address));
        listening.map_err(ServerError::from)
    }

    /// Runs a server with these options.
    pub fn run<W: Worker>(&self, server: Server<W>, address: &str) -> Result<(), ServerError> {
        self.listen(self.set(server)?, address)?.run()
    }
}

/// What `certificates/make.sh` has made under this name.
#[cfg(feature = "tls")]
pub fn certificates(name: &str) -> forkpool::Certificates {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apart/certificates");
    let file = |name: String| folder.join(name);
    let (chain, key) = (file(format!("{name}.pem")), file(format!("{name}.key")));
    forkpool::Certificates::read(chain, key, file("authority.pem".to_owned())).expect("certificates")
}

/// Where a client goes: to the test's place, unless it is told otherwise with `at=`.
fn place<'a>(options: &'a str, address: &'a str) -> &'a str {
    options.split_whitespace().find_map(|word| word.strip_prefix("at=")).unwrap_or(address)
}

/// A client whose only worker spins; `hung=` milliseconds are its guard's.
async fn client(options: &str, address: &str) {
    let hung = options.split_whitespace().find_map(|word| word.strip_prefix("hung="));
    let hung = hung.map(|millis| millis.parse().expect("a number"));
    let pool = Pool::<Probe>::connect(place(options, address)).workers(1..=1);
    let pool = pool.hung_worker_timeout(hung.map(Duration::from_millis)).start().expect("the pool starts");
    let checkout = pool.checkout().timeout(None).start();
    let pid = answer(checkout.send(Pid)).await.expect("a pid");
    let journal = Scratch::path();
    checkout.do_send(Task(0, journal.get().to_owned(), None, Act::Spin));
    // One that was only written to the worker might never begin, since what is killed next is this process.
    until("it spins", || !journal.lines().is_empty()).await;
    drop(journal);
    println!("worker {pid}");
    std::future::pending::<()>().await;
}

/// A client with a worker in use that is told what to do: each time it goes on it tells what becomes of a call there.
async fn quiet(address: &str) {
    let pool = Pool::<Probe>::connect(address).workers(1..=1).start().expect("the pool starts");
    let mut held = pool.checkout().timeout(None).start();
    println!("worker {}", pid(&held).await);
    loop {
        let call = held.send(Steps(1));
        wait_to_go_on();
        match answer(call).await.and(answer(held.send(Pid)).await) {
            Ok(pid) => println!("keeps {pid}"),
            Err(failure) => {
                println!("loses {:?}", failure.kind());
                held = pool.checkout().start();
                println!("worker {}", pid(&held).await);
            }
        }
    }
}

/// A client that tells whether it may come, and has a call that hangs killed.
async fn guest(address: &str) {
    let pool = Pool::<Probe>::connect(address).workers(1..=1).trust_user(0).start().expect("the pool starts");
    match answer(pool.send_within(Duration::from_millis(500), Pid)).await {
        Err(failure) => println!("told {}", format!("{failure:#}").replace('\n', " ")),
        Ok(pid) => {
            let hung = failure(pool.send_within(Duration::from_millis(50), Spin)).await;
            assert_eq!(hung.kind(), FailureKind::Timeout);
            until("its worker is killed", || !runs(pid)).await;
            println!("told it killed {pid}");
        }
    }
    bounded("the end", pool.stop(Duration::ZERO)).await;
}

/// A client that lends a large blob, and tells what its worker could do with it.
async fn lender(address: &str) {
    let pool = Pool::<Mill>::connect(address).workers(1..=1).trust_user(0).start().expect("the pool starts");
    let (_, is_borrowed) = answer(pool.send(Sum(vec![7; 1 << 20].into()))).await.expect("a sum");
    println!("told {}", if is_borrowed { "borrowed" } else { "copied" });
    bounded("the end", pool.stop(Duration::ZERO)).await;
}

/// A client under constant load: calls to the pool, and checkouts with several calls each. Told to go on it pauses, and
/// says so; the next time it goes on. At the end of its input it tells how it went.
async fn load(address: &str) {
    let pool = Pool::<Probe>::connect(address).workers(2..=4).start().expect("the pool starts");
    let (orders, mut heard) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).is_ok_and(|count| count > 0) {
            let _ = orders.send(());
            line.clear();
        }
    });
    println!("ready");
    let (mut served, mut failed) = (0_u64, Vec::new());
    loop {
        let round = (0..4_u64).map(|client| one_round(pool.clone(), client));
        let rounds: Vec<_> = round.map(actix_rt::spawn).collect();
        for round in rounds {
            for outcome in round.await.expect("a round") {
                match outcome {
                    Ok(()) => served += 1,
                    Err(failure) => failed.push(failure.to_string()),
                }
            }
        }
        match heard.try_recv() {
            Err(tokio::sync::mpsc::error::TryRecvError::Empty) => {}
            Ok(()) => {
                println!("pauses");
                if heard.recv().await.is_none() {
                    break;
                }
                println!("goes on");
            }
            Err(_) => break,
        }
    }
    println!("served {served} failed {failed:?} pids {:?}", pool.stats().pids);
    bounded("the end", pool.stop(Duration::ZERO)).await;
}

async fn one_round(pool: PoolHandle<Probe>, client: u64) -> Vec<Result<(), Failure>> {
    let checkout = pool.checkout().start();
    let work = Duration::from_millis(client);
    let first = checkout.send(Slow(work, client));
    let mut calls = vec![
        answer(first).await.map(drop),
        answer(checkout.send(Remember(client))).await.map(drop),
        answer(checkout.send(Remember(client))).await.and_then(|all| match all.len() {
            // Both calls of a checkout are of one worker.
            2 => Ok(()),
            others => Err(Failure::task(format!("{others} of 2"))),
        }),
    ];
    drop(checkout);
    calls.push(answer(pool.send(Setups)).await.map(drop));
    calls
}
