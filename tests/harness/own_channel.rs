//! How a worker of these tests reaches its own channel behind forkpool's back: see docs/WIRE.md.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// Where in its channel's memory a worker counts the bytes that it said, and where it says the first of them.
pub const SAID: u64 = 128;
const SAYINGS: u64 = 4096 + (256 << 10);

/// Where it notes that a call has begun.
const BEGUN: u64 = 384;

/// The memory of this worker's own channel.
pub struct OwnChannel {
    memory: File,
    start: u64,
}

impl OwnChannel {
    pub fn find() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("mappings");
        let line =
            maps.lines().find(|line| line.contains("/memfd:forkpool")).expect("the memory of its channel");
        let start = line.split('-').next().expect("a range");
        let start = u64::from_str_radix(start, 16).expect("an address");
        OwnChannel { memory: own_memory(), start }
    }

    /// Says bytes without the worker's loop, which does not know of them: it must not say more after that.
    pub fn say(&self, bytes: &[u8]) {
        let said = self.number(SAID);
        self.write(SAYINGS + u64::from(said), bytes);
        self.scribble(SAID, said + u32::try_from(bytes.len()).expect("few bytes"));
    }

    /// Writes a number over one of the channel's.
    pub fn scribble(&self, at: u64, number: u32) {
        self.write(at, &number.to_ne_bytes());
    }

    /// Denies that a call has begun.
    pub fn deny_the_call(&self) {
        self.scribble(BEGUN, 0);
    }

    fn number(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, self.start + at).expect("it is mapped");
        u32::from_ne_bytes(bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, self.start + at).expect("it is mapped");
    }
}

/// This process's memory, to be read and written at its addresses.
pub fn own_memory() -> File {
    File::options().read(true).write(true).open("/proc/self/mem").expect("its own memory")
}

/// Wakes the host and does nothing more.
pub fn wait_to_be_killed() {
    rustix::net::send(own_doorbell(), &[0], rustix::net::SendFlags::empty()).expect("the host is there");
    std::thread::sleep(Duration::from_secs(60));
}

/// Closes the channel for good, whoever else holds it.
pub fn hang_up() {
    rustix::net::shutdown(own_doorbell(), rustix::net::Shutdown::Both).expect("it hangs up");
}

/// The only socket of a worker.
fn own_doorbell() -> OwnedFd {
    let entries = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let is_socket = |entry: &std::fs::DirEntry| {
        entry.path().read_link().is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let number =
        entries.into_iter().find(is_socket).and_then(|entry| entry.file_name().to_str()?.parse().ok());
    let this =
        rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("this process");
    let number = number.expect("a channel");
    rustix::process::pidfd_getfd(this, number, PidfdGetfdFlags::empty()).expect("its channel again")
}
