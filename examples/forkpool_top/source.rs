//! Where the figures come from: a console, or a standalone server.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use forkpool::{Interface, Method};

use super::view::{Application, View};

/// How long an application may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer, in bytes: many times what hundreds of pools have.
const LONGEST: u64 = 64 << 20;

/// How often a server that is not connected is asked once more, and the wait before that: a second in all.
const RETRIES: u32 = 20;
const RETRY_WAIT: Duration = Duration::from_millis(50);

pub struct Reading {
    /// The line as it was received, with its end.
    pub raw: String,
    pub view: View,
}

pub enum Source {
    Console { address: String, path: PathBuf, connection: Option<BufReader<UnixStream>> },
    Server { address: String, pool: PoolHandle<Onlooker> },
}

impl Source {
    pub fn console(address: &str) -> Result<Self, String> {
        let Some(path) = address.strip_prefix("unix:").filter(|path| !path.is_empty()) else {
            return Err(format!(
                "{address:?} is no console: write unix:/path, or --server for a standalone server"
            ));
        };
        Ok(Source::Console { address: address.to_owned(), path: path.into(), connection: None })
    }

    /// A server is asked by a pool that never has a worker.
    pub fn server(address: &str) -> Result<Self, String> {
        if address.starts_with("tls:") {
            return Err(format!(
                "{address} needs certificates, which this program has none of: ask it at a Unix socket"
            ));
        }
        let pool = Pool::<Onlooker>::connect(address).name("forkpool_top").workers(0..=1).start();
        let pool = pool.map_err(|error| error.to_string())?;
        Ok(Source::Server { address: address.to_owned(), pool })
    }

    pub fn address(&self) -> &str {
        match self {
            Source::Console { address, .. } | Source::Server { address, .. } => address,
        }
    }

    /// Asks once. The text of an error says what to do.
    pub fn read(&mut self) -> Result<Reading, String> {
        match self {
            Source::Console { path, connection, .. } => {
                let raw = match connection {
                    // An idle viewer is disconnected, and an application may have been started again.
                    Some(open) => ask(open).or_else(|_| reconnect(path, connection)),
                    None => reconnect(path, connection),
                };
                let raw = raw.map_err(|error| explain(path, &error))?;
                let view: Application = serde_json::from_str(&raw)
                    .map_err(|error| format!("what listens at {} is no console: {error}", path.display()))?;
                match view.error {
                    Some(error) => Err(format!("the console at {}: {error}", path.display())),
                    None => Ok(Reading { raw, view: View::Application(view) }),
                }
            }
            Source::Server { pool, address } => {
                let stats = System::new().block_on(stats_of(pool));
                let stats = stats.map_err(|failure| format!("the server at {address}: {failure}"))?;
                let raw = serde_json::json!({ "server": stats }).to_string() + "\n";
                Ok(Reading { raw, view: View::Server(stats) })
            }
        }
    }
}

/// Asks a server, which may not be connected yet: it is asked a few times more then.
async fn stats_of(pool: &PoolHandle<Onlooker>) -> Result<forkpool::ServerStats, Failure> {
    for _ in 0..RETRIES {
        match pool.server_stats().await {
            Err(failure) if failure.kind() == FailureKind::NoServer => std::thread::sleep(RETRY_WAIT),
            answer => return answer,
        }
    }
    pool.server_stats().await
}

fn reconnect(path: &Path, connection: &mut Option<BufReader<UnixStream>>) -> io::Result<String> {
    *connection = None;
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    ask(connection.insert(BufReader::new(stream)))
}

fn ask(connection: &mut BufReader<UnixStream>) -> io::Result<String> {
    // A console that is full answers without a question, and closes.
    let sent = connection.get_mut().write_all(b"{\"ask\":\"snapshot\"}\n");
    let mut line = String::new();
    let read = connection.by_ref().take(LONGEST).read_line(&mut line);
    if line.ends_with('\n') {
        return Ok(line);
    }
    sent.and(read)?;
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn explain(path: &Path, error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    let path = path.display();
    match error.kind() {
        Kind::NotFound => format!(
            "there is no socket at {path}: the application does not run, or opens its console elsewhere; it does so with \
             pool.console(\"unix:{path}\").open()"
        ),
        Kind::ConnectionRefused => {
            format!("the application at {path} has ended: start it again")
        }
        Kind::PermissionDenied => {
            format!("you may not look at {path}: run this as the application's user, or as root")
        }
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe => format!(
            "what listens at {path} has closed the connection: it is no console, does not admit this user, or has just \
             ended; watch a standalone server with --server"
        ),
        Kind::WouldBlock | Kind::TimedOut => {
            format!("the application at {path} does not answer within {PATIENCE:?}: is it stopped?")
        }
        _ => format!("cannot ask at {path}: {error}"),
    }
}

/// What a pool needs to be one of any server's clients: no message at all.
pub struct Onlooker;

impl Actor for Onlooker {
    type Context = WorkerContext<Self>;
}

impl Worker for Onlooker {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Onlooker)
    }
}

impl Interface for Onlooker {
    const METHODS: &'static [Method<Self>] = &[];
}
