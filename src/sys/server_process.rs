//! How an application starts its fork server and takes leave of it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program that runs, whatever has become of its file since.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How long a server gets to end its workers and itself before it is killed.
const FAREWELL: Duration = Duration::from_secs(2);

/// The fork server as a child of the application; dropping it waits until it is gone.
pub(crate) struct ServerProcess {
    child: Child,
}

impl ServerProcess {
    /// Executes this program again with `control` as its standard input, in a process group of its own.
    pub(crate) fn launch(arguments: &[String], control: OwnedFd) -> io::Result<Self> {
        let name = std::env::args_os().next();
        let child = Command::new(THIS_PROGRAM)
            .arg0(name.as_deref().unwrap_or(OsStr::new("forkpool")))
            .args(arguments)
            .stdin(Stdio::from(control))
            .process_group(0)
            .spawn()?;
        Ok(ServerProcess { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A descriptor that becomes readable when it ends.
    pub(crate) fn handle(&self) -> io::Result<OwnedFd> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        Ok(super::process::open(pid)?)
    }

    /// Whether it has ended; it is reaped then.
    pub(crate) fn has_ended(&mut self) -> bool {
        // An error says that there is no such child, so there is nothing to wait for either.
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn kill(&mut self) {
        // Killing a child that has ended already is no failure.
        let _ = self.child.kill();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // The control channel is closed by now, so the server is on its way out; it only has workers to kill.
        let patience = Instant::now() + FAREWELL;
        while !self.has_ended() {
            if Instant::now() >= patience {
                self.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
