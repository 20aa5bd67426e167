//! Starts the application's private fork server, and waits for its exit.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::WaitOptions;

use super::faults;
use super::faults::Call;
use super::manager_variables;
use super::own_program::OwnProgram;
use super::signals::BlockedStopSignals;
use crate::clock::Instant;

/// How long a server may take to end its workers and exit before it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the end of a process may take to be known after its descriptors are closed (50 ms).
const LINGER: Duration = Duration::from_millis(50);

/// The fork server as a child of the application. Dropping it waits for its exit, for at most [`EXIT_TIMEOUT`]; then it is
/// killed, and reaped whenever that is possible.
pub(crate) struct ServerProcess {
    child: Child,
    /// What was executed, and how that is shown.
    program: OwnProgram,
    executed: String,
}

impl ServerProcess {
    /// Executes this program again with `control` as its standard input, in a process group of its own.
    ///
    /// # Errors
    ///
    /// The system's error, with what was to be executed; no process was started then.
    pub(crate) fn launch(program: &OwnProgram, arguments: &[String], control: OwnedFd) -> io::Result<Self> {
        let executed = program.describe();
        let mut command = program.command();
        for name in manager_variables::NAMES {
            command.env_remove(name);
        }
        // A stop signal that is sent to all processes waits until the server can drop it. Without this one might end it.
        let _until_it_runs = BlockedStopSignals::here();
        let spawned = faults::point(Call::Spawn).map_err(io::Error::from);
        let spawned = spawned
            .and_then(|()| command.args(arguments).stdin(Stdio::from(control)).process_group(0).spawn());
        let failed =
            |error: io::Error| io::Error::new(error.kind(), format!("executing {executed}: {error}"));
        Ok(ServerProcess { child: spawned.map_err(failed)?, executed, program: program.clone() })
    }

    /// Says why a process that was started as a fork server, and never sent its first message, did not become one.
    pub(crate) fn not_diverted(&mut self) -> String {
        self.program.mark_foreign();
        let end = match self.exit_status() {
            Some(status) => format!("it ended ({status})"),
            None => "it closed its standard input or wrote something else there".to_owned(),
        };
        format!(
            "{} was started again as the fork server, but did not divert ahead of its main: {end}; the program that \
             is executed must contain the boot! line, or else run the workers in a program of their own with \
             Server::run and connect to it",
            self.executed
        )
    }

    /// Returns how the process has ended, which is known a moment after its descriptors are closed; `None` if it still
    /// runs after [`LINGER`].
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + LINGER;
        while !self.try_reap() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.child.try_wait().ok().flatten()
    }

    /// Whether a signal has ended the process, which says nothing about the next one.
    pub(crate) fn was_killed(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(status)) if status.signal().is_some())
    }

    /// Says that a process that was started as a fork server has not sent its first message yet.
    pub(crate) fn not_diverted_yet(&self) -> String {
        format!(
            "{} was started again as the fork server, and has not diverted ahead of its main yet",
            self.executed
        )
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

    /// Has a thread reap the server, however long that takes: a process that a debugger traces is only reaped once the
    /// debugger has taken note of its end.
    fn reap_later(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let reap = move || {
            // An error means that there is no such child any more.
            let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(pid, WaitOptions::empty()));
        };
        // Without a thread it is a zombie until the application ends.
        let _ = pid.map(|_| std::thread::Builder::new().name("forkpool-reaper".to_owned()).spawn(reap));
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
                return self.reap_later();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
