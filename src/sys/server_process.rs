//! Starts the application's private fork server, and waits for its exit.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::faults;
use super::faults::Call;

/// The running program, even if its file was replaced or removed since it started.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How long a server may take to end its workers and exit before it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The fork server as a child of the application. Dropping it waits for its exit, for at most [`EXIT_TIMEOUT`].
pub(crate) struct ServerProcess {
    child: Child,
}

impl ServerProcess {
    /// Executes this program again with `control` as its standard input, in a process group of its own.
    ///
    /// # Errors
    ///
    /// The system's error; no process was started then.
    pub(crate) fn launch(arguments: &[String], control: OwnedFd) -> io::Result<Self> {
        faults::point(Call::Spawn)?;
        let name = std::env::args_os().next();
        let child = Command::new(THIS_PROGRAM)
            .arg0(name.as_deref().unwrap_or(OsStr::new("forkpool")))
            .args(arguments)
            .stdin(Stdio::from(control))
            .process_group(0)
            .spawn()?;
        Ok(ServerProcess { child })
    }

    /// The server's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Opens a descriptor that becomes readable when the server exits.
    pub(crate) fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        Ok(super::process::open_pidfd(pid)?)
    }

    /// Reaps the server if it has exited; returns whether it is gone.
    pub(crate) fn try_reap(&mut self) -> bool {
        loop {
            match faults::point(Call::Wait4).map_err(io::Error::from).and_then(|()| self.child.try_wait()) {
                Ok(status) => return status.is_some(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // There is no such child.
                Err(_) => return true,
            }
        }
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        // It fails only for a child that has exited already.
        let _ = self.child.kill();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // The control channel is closed by now, so the server is exiting; it only has to kill its workers.
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while !self.try_reap() {
            if Instant::now() >= deadline {
                self.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
