//! A Redis server of this program's own.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ::redis::Client;
use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};

/// Longest wait until a server answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait for the answer to one command: with the 0.5 s of the client, a disk that is busy for a moment would end
/// consumers. Below the time after which a consumer without heartbeats loses its jobs.
const RESPONSE: Duration = Duration::from_secs(2);

/// A server on a Unix socket in a folder of its own, which both end when this is dropped.
pub struct Redis {
    server: Child,
    folder: PathBuf,
}

impl Redis {
    /// Starts a server that has written each change to its file before it confirms it.
    ///
    /// # Errors
    ///
    /// The text says what to install, if there is no `redis-server`, or what the server has logged.
    pub fn start() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("forkpool-redis-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let started = launch(&folder).inspect_err(|_| remove(&folder));
        let mut redis = Redis { server: started?, folder };
        redis.answers()?;
        Ok(redis)
    }

    /// Where it listens, as a client takes it.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", socket(&self.folder).display())
    }

    /// Waits until the server has read its file and serves.
    fn answers(&mut self) -> io::Result<()> {
        let patience = Instant::now() + PATIENCE;
        while !ping(&socket(&self.folder)).is_ok_and(|answer| answer == *b"+PONG") {
            if self.server.try_wait()?.is_some() || Instant::now() > patience {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("redis-server does not serve; it logged:\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// What a test does to a server.
#[allow(dead_code, reason = "the example itself only starts and ends one")]
impl Redis {
    /// Kills the server with SIGKILL. Its file stays.
    pub fn kill(&mut self) -> io::Result<()> {
        self.server.kill()?;
        self.server.wait().map(drop)
    }

    /// Starts a server again with the file of the one before.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.server = launch(&self.folder)?;
        self.answers()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        remove(&self.folder);
    }
}

/// Connects to a server. The connection restores itself after a loss.
///
/// # Errors
///
/// If nothing answers there now. The text says where, and what to look at.
pub async fn connect(url: &str) -> io::Result<ConnectionManager> {
    let connected = async {
        let client = Client::open(url)?;
        // One that restores itself would try for ten seconds.
        client.get_multiplexed_async_connection().await?;
        let config = ConnectionManagerConfig::new().set_response_timeout(Some(RESPONSE));
        client.get_connection_manager_with_config(config).await
    };
    connected.await.map_err(|error| {
        io::Error::other(format!(
            "no Redis answers at {url}: {error}; is it running, and may this user connect?"
        ))
    })
}

fn launch(folder: &Path) -> io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--unixsocket"]).arg(socket(folder)).arg("--dir").arg(folder);
    // shown: settings
    command.args(["--appendonly", "yes"]); // each change goes into a file, which is read at the start
    command.args(["--appendfsync", "everysec"]); // `always` for jobs that may not get lost with the power
    command.args(["--maxmemory-policy", "noeviction"]); // a full store refuses jobs, and forgets none
    // end: settings
    command.args(["--save", "", "--logfile"]).arg(folder.join("log"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            io::ErrorKind::NotFound,
            "there is no redis-server: install the package `redis-server` (Debian, Ubuntu) or `redis` (Fedora, Alpine, brew)",
        ),
        _ => error,
    })
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("socket")
}

fn ping(socket: &Path) -> io::Result<[u8; 5]> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("{} is left: {error}", folder.display());
    }
}
